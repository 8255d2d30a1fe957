"""Peak rates of the CPU: multiply-adds a second of float32 and of 8-bit integers.

Independent sums in registers, without loads, by the instructions that the kernels use.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flash_kmeans_mlx.backends.cpu import kernels

FLOATS, INTS, WIDTH = kernels.ir.FLOATS, kernels.ir.INTS, kernels.ir.WIDTH
_SUMS = 12  # more than latency times instructions a cycle
_ROUNDS = 1 << 23  # about 15 ms
_TRIES = 8
# A vector register, in LLVM's constraints of inline assembly, by the kind of CPU.
_REGISTERS = {"x86_64": "x", "AMD64": "x", "arm64": "w", "aarch64": "w"}
_REGISTER = _REGISTERS.get(platform.machine())
_BYTES = 4  # products of bytes that are added to a sum of 32 bits

llvm.initialize_native_asmparser()


def _loop(kind: Any, one: float, add: Callable[..., Any]) -> Any:
    """Return a function that adds products to all sums, as often as it is told.

    It returns the bits of all sums added up, so that none of them can be left out.

    Args:
        kind: LLVM's type of a vector.
        one: The elements of both factors.
        add: Adds the products of two vectors to a sum.
    """

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        sums = [cgutils.alloca_once_value(builder, kind([one] * WIDTH)) for _ in range(_SUMS)]
        factor = cgutils.alloca_once_value(builder, kind([one] * WIDTH))
        same = ir.FunctionType(kind, [kind])
        with cgutils.for_range(builder, args[0]):
            for total in sums:
                # No instruction, but the compiler can't know that the factor is the same again.
                unknown = builder.asm(same, "", f"={_REGISTER},0", [builder.load(factor)], True)
                builder.store(unknown, factor)
                builder.store(add(builder, builder.load(total), unknown, unknown), total)
        used = INTS([0] * WIDTH)
        for total in sums:
            used = builder.add(used, builder.bitcast(builder.load(total), INTS))
        return builder.extract_element(used, ir.IntType(32)(0))

    @intrinsic
    def loop(_typing: Any, rounds: Any) -> Any:
        return types.int32(types.int64), generate

    @njit(nogil=True)
    def run(rounds: int) -> int:
        return loop(rounds)  # pyright: ignore[reportCallIssue]  # the typing context

    return run


def _fused(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return total + a * b, by one instruction where the CPU has it."""
    flags = kernels.ir.FUSED
    return builder.fadd(total, builder.fmul(a, b, flags=flags), flags=flags)


add_floats = _loop(FLOATS, 1.0, _fused)
add_bytes = _loop(INTS, 0x01010101, kernels.int8_products.multiply)


def measure(threads: int) -> dict[str, float | None]:
    """Return the multiply-adds a second of all threads together, the best of several tries.

    Each thread measures the CPU time that it used, so that other processes don't count.

    Returns:
        ``"float32"``, and ``"int8"``, which is None where the kernels use no products of bytes.
        Both are None on other kinds of CPU than x86-64 and ARM64.
    """
    loops = {"float32": (add_floats, WIDTH), "int8": (add_bytes, WIDTH * _BYTES)}
    rates: dict[str, float | None] = dict.fromkeys(loops)
    with ThreadPoolExecutor(threads) as pool:
        for name, (run, products) in loops.items():
            if _REGISTER is None or (name == "int8" and not kernels.ir.INT8):
                continue
            run(1)  # which compiles it
            count = _ROUNDS * _SUMS * products
            rates[name] = max(
                sum(count / spent for spent in pool.map(_seconds, [run] * threads))
                for _ in range(_TRIES)
            )
    return rates


def _seconds(run: Callable[[int], int]) -> float:
    begin = thread_time()
    run(_ROUNDS)
    return thread_time() - begin
