"""Helpers for kernels written in LLVM's language, where Numba keeps no sums in registers."""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from .jit import cgutils, intrinsic, njit, types
from .target import cpu_features, cpu_name

# Becomes one instruction where a processor multiplies bytes of these signs and adds them up.
SUM_OF_BYTES = """
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
define i32 @sum(<16 x i8> %a, <16 x i8> %b) {{
  %c = {} <16 x i8> %a to <16 x i32>
  %d = {} <16 x i8> %b to <16 x i32>
  %e = mul <16 x i32> %c, %d
  %f = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %e)
  ret i32 %f
}}
"""


def _is_arm64():
    return llvm.get_process_triple().startswith(("aarch64", "arm64"))


def _arm_products():
    """Return INT8 for an ARM64: what it has follows from its name, not from its features."""
    if not _is_arm64():
        return ""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=cpu_name(), features=cpu_features()
    )

    def emits(instruction, *signs):
        module = llvm.parse_assembly(SUM_OF_BYTES.format(*signs))
        return instruction in machine.emit_assembly(module)

    if emits("usdot", "zext", "sext"):  # which comes with SMMLA
        return "smmla"
    return "sdot" if emits("sdot", "sext", "sext") else ""


_FEATURES = {name[1:] for name in cpu_features().split(",") if name.startswith("+")}
# Values in a vector register, and vectors of points at a time: as many as fit the registers
# beside lanes.ROWS centroids.
if "avx512f" in _FEATURES:
    WIDTH, VECTORS = 16, 4
elif "avx2" in _FEATURES:
    WIDTH, VECTORS = 8, 2
else:
    WIDTH, VECTORS = 4, 4
# How four bytes are multiplied with four others and added up, or "" where it takes too long: as
# with AVX-512 without VNNI, whose two units for vectors gain little by it.
if {"avx512f", "avx512vnni"} <= _FEATURES or ("avxvnni" in _FEATURES and WIDTH == 8):
    INT8 = "vnni"
elif WIDTH == 8:
    INT8 = "avx2"
else:
    INT8 = _arm_products()

# Whether one instruction makes float32 of float16.
HALVES = bool({"f16c", "avx512f"} & _FEATURES) or _is_arm64()

# The functions that look up 16 bytes of each plane in a table of 16 bytes, by their planes.
if "avx512bw" in _FEATURES:
    LOOKUPS = {4: "llvm.x86.avx512.pshuf.b.512", 1: "llvm.x86.ssse3.pshuf.b.128"}
elif "avx2" in _FEATURES:
    LOOKUPS = {2: "llvm.x86.avx2.pshuf.b", 1: "llvm.x86.ssse3.pshuf.b.128"}
elif _FEATURES & {"ssse3", "sse4.1", "sse4.2", "avx"}:
    LOOKUPS = {1: "llvm.x86.ssse3.pshuf.b.128"}
elif _is_arm64():
    LOOKUPS = {1: "llvm.aarch64.neon.tbl1.v16i8"}
else:
    LOOKUPS = {}

NUMBER = ir.IntType(64)
FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
INTS = ir.VectorType(ir.IntType(32), WIDTH)
FUSED = ("contract",)


def pointer(builder, base, offset, kind):
    """Return the address base + offset (bytes, an int or a value) as a pointer to `kind`."""
    offset = NUMBER(offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def splat(builder, value, kind):
    """Return a vector whose elements all are this value."""
    single = builder.insert_element(kind(ir.Undefined), value, ir.IntType(32)(0))
    zeros = ir.VectorType(ir.IntType(32), kind.count)([0] * kind.count)
    return builder.shuffle_vector(single, kind(ir.Undefined), zeros)


@intrinsic
def _lowest_bit(_typing, bits):
    """Return the number of zeros below the lowest one."""

    def generate(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


@njit(inline="always")  # a call would count the array's references, in inner loops
def address(a):
    """Return where an array begins, as a signed integer."""
    return np.int64(a.ctypes.data)


@njit
def lowest_bit(bits):
    """Return the place of the lowest one in an int64 other than 0."""
    return _lowest_bit(bits)


@intrinsic
def _prefetch(_typing, at):
    """Have the line of the cache at an address loaded."""

    def generate(context, builder, _signature, args):
        kind, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        load = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [kind, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        builder.call(load, [builder.inttoptr(args[0], kind), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit
def prefetch(at, size):
    """Have memory of some bytes from an address on loaded into the cache."""
    for offset in range(0, size, 64):
        _prefetch(at + offset)
