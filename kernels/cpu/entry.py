"""The function by which Python calls a compiled kernel, in LLVM's language.

It is one of CPython's "fast" functions: it reads the arguments, checks that they are of the kinds
that the kernel was compiled for, runs the kernel without the GIL, and makes Python objects of the
result. It returns NotImplemented for arguments of other kinds. All that it needs from the process
stands in a table of addresses, which is its `self`: its code names no symbol of Python or Numba.
"""

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types  # pyright: ignore[reportPrivateImportUsage]
from numba.core.runtime import nrtdynmod
from numba.np import numpy_support
from numba.np.arrayobj import populate_array

from .kinds import Kind, classes
from .loader import FUNCTIONS, OBJECTS

WORD, HALF, CHAR, INT1 = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.IntType(1)
POINTER = CHAR.as_pointer()
# Where structures of CPython and NumPy have their fields; these belong to their binary interfaces.
HEAD = object.__basicsize__
TYPE = HEAD - 8
TUPLE_SIZE, TUPLE_ITEMS = HEAD, tuple.__basicsize__
BYTES = bytes.__basicsize__ - 1
DATA, NDIM, SHAPE, STRIDES, DESCR, FLAGS = (HEAD + i for i in (0, 8, 16, 24, 40, 48))
BYTE_ORDER, TYPE_NUMBER = HEAD + 10, HEAD + 12
C_CONTIGUOUS, ALIGNED = 0x1, 0x100
FASTCALL = ir.FunctionType(POINTER, [POINTER, POINTER.as_pointer(), WORD])


def numba_type(kind: Kind) -> Any:
    """Return Numba's type for a kind."""
    if kind == "none":
        return types.none
    if isinstance(kind, str):
        return numpy_support.from_dtype(np.dtype(kind))
    if isinstance(kind[0], type):
        return types.BaseTuple.from_types([numba_type(inner) for inner in kind[1:]], kind[0])
    dtype, ndim, layout = kind
    element = numpy_support.from_dtype(np.dtype(dtype))
    return types.Array(element, ndim, layout[0], aligned=not layout.endswith("U"))


def add_entry(context: Any, module: ir.Module, fndesc: Any, kinds: tuple[Kind, ...], name: str):
    """Add to a module the function `name`, which calls the kernel of `fndesc`."""
    function = ir.Function(module, FASTCALL, name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    writer = _Writer(context, builder, function, kinds)
    n_arguments = ir.Constant(WORD, len(kinds))
    writer.require(builder.icmp_unsigned("==", function.args[2], n_arguments))
    arguments = [
        writer.unboxed(kind, builder.load(builder.gep(function.args[1], [WORD(i)])))
        for i, kind in enumerate(kinds)
    ]
    thread = writer.call("PyEval_SaveThread", POINTER)
    status, result = context.call_conv.call_function(
        builder,
        context.declare_function(module, fndesc),
        fndesc.restype,
        fndesc.argtypes,
        arguments,
    )
    writer.call("PyEval_RestoreThread", ir.VoidType(), thread)
    with builder.if_then(status.is_error, likely=False):  # only memory can be lacking
        builder.ret(writer.call("PyErr_NoMemory", POINTER))
    builder.ret(writer.boxed(fndesc.restype, result))


def add_runtime(module: ir.Module) -> None:
    """Add Numba's functions that allocate and free arrays, which it has in a library of its own."""
    structure = nrtdynmod._meminfo_struct_type
    malloc = ir.Function(module, ir.FunctionType(POINTER, [WORD]), "malloc")
    free = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), "free")

    kind = ir.FunctionType(POINTER, [WORD, HALF])
    allocate = ir.Function(module, kind, "NRT_MemInfo_alloc_aligned")
    builder = ir.IRBuilder(allocate.append_basic_block())
    size, alignment = allocate.args
    alignment = builder.zext(alignment, WORD)
    # The structure, then the array at the next multiple of the alignment.
    header = WORD(64)
    block = builder.call(malloc, [builder.add(builder.add(size, alignment), header)])
    with builder.if_then(builder.icmp_unsigned("==", block, POINTER(None)), likely=False):
        builder.ret(POINTER(None))
    first = builder.add(builder.ptrtoint(block, WORD), header)
    first = builder.add(first, builder.sub(alignment, WORD(1)))
    first = builder.and_(first, builder.neg(alignment))
    info = builder.bitcast(block, structure.as_pointer())
    values = (WORD(1), POINTER(None), POINTER(None), builder.inttoptr(first, POINTER), size)
    for i, value in enumerate(values):
        builder.store(value, builder.gep(info, [HALF(0), HALF(i)]))
    builder.ret(block)

    kind = ir.FunctionType(ir.VoidType(), [POINTER])
    release = ir.Function(module, kind, "NRT_MemInfo_call_dtor")
    builder = ir.IRBuilder(release.append_basic_block())
    builder.call(free, release.args)
    builder.ret_void()


class _Writer:
    """Writes the code that converts arguments and results."""

    def __init__(self, context: Any, builder: Any, function: Any, kinds: tuple[Kind, ...]) -> None:
        self._context = context
        self._builder = builder
        self._table = function.args[0]
        self._places = [*FUNCTIONS, *OBJECTS, *classes(kinds)]
        self._other = function.append_basic_block("other")
        with builder.goto_block(self._other):
            other = self._address(NotImplemented)
            self.call("Py_IncRef", ir.VoidType(), other)
            builder.ret(other)

    def _field(self, pointer: Any, offset: int, kind: Any) -> Any:
        """Return the value at some bytes behind a pointer."""
        place = self._builder.gep(pointer, [WORD(offset)])
        return self._builder.load(self._builder.bitcast(place, kind.as_pointer()))

    def _address(self, name: Any) -> Any:
        """Return the address that the table has for a function's name or an object."""
        return self._field(self._table, BYTES + 8 * self._places.index(name), POINTER)

    def call(self, name: str, returns: Any, *arguments: Any) -> Any:
        """Call a function of Python's C interface."""
        kind = ir.FunctionType(returns, [argument.type for argument in arguments])
        function = self._builder.bitcast(self._address(name), kind.as_pointer())
        return self._builder.call(function, arguments)

    def require(self, condition: Any) -> None:
        """Return NotImplemented to the caller unless a condition holds."""
        block = self._builder.append_basic_block()
        self._builder.cbranch(condition, block, self._other)
        self._builder.position_at_end(block)

    def _is(self, pointer: Any, name: Any) -> Any:
        return self._builder.icmp_unsigned("==", pointer, self._address(name))

    def unboxed(self, kind: Kind, value: Any) -> Any:
        """Return an argument as Numba passes it on."""
        if kind == "none":
            self.require(self._is(value, None))
            return self._context.get_dummy_value()
        python_type = self._field(value, TYPE, POINTER)
        if isinstance(kind, str):
            return self._scalar(kind, value, python_type)
        if isinstance(kind[0], type):
            self.require(self._is(python_type, kind[0]))
            size = self._field(value, TUPLE_SIZE, WORD)
            self.require(self._builder.icmp_unsigned("==", size, WORD(len(kind) - 1)))
            items = [
                self.unboxed(inner, self._field(value, TUPLE_ITEMS + 8 * i, POINTER))
                for i, inner in enumerate(kind[1:])
            ]
            return self._context.make_tuple(self._builder, numba_type(kind), items)
        self.require(self._is(python_type, np.ndarray))
        return self._array(kind, value)

    def _array(self, kind: Kind, value: Any) -> Any:
        builder = self._builder
        dtype, ndim, layout = kind
        numbers = {np.dtype(code).num for code in np.typecodes["All"] if np.dtype(code) == dtype}
        descr = self._field(value, DESCR, POINTER)
        number = self._field(descr, TYPE_NUMBER, HALF)
        is_dtype = INT1(0)
        for candidate in sorted(numbers):
            same = builder.icmp_unsigned("==", number, HALF(candidate))
            is_dtype = builder.or_(is_dtype, same)
        order = self._field(descr, BYTE_ORDER, CHAR)
        foreign = ">" if sys.byteorder == "little" else "<"
        is_native = builder.icmp_unsigned("!=", order, CHAR(ord(foreign)))
        flags = builder.and_(self._field(value, FLAGS, HALF), HALF(C_CONTIGUOUS | ALIGNED))
        in_order, is_aligned = layout[0] == "C", not layout.endswith("U")
        wanted = HALF(C_CONTIGUOUS * in_order | ALIGNED * is_aligned)
        is_laid_out = builder.icmp_unsigned("==", flags, wanted)
        has_ndim = builder.icmp_unsigned("==", self._field(value, NDIM, HALF), HALF(ndim))
        for condition in (is_dtype, is_native, is_laid_out, has_ndim):
            self.require(condition)
        sizes, strides = (
            [self._field(self._field(value, place, POINTER), 8 * i, WORD) for i in range(ndim)]
            for place in (SHAPE, STRIDES)
        )
        numba_array = numba_type(kind)
        array = self._context.make_array(numba_array)(self._context, builder)
        element = self._context.get_data_type(numba_array.dtype).as_pointer()
        populate_array(
            array,
            data=builder.bitcast(self._field(value, DATA, POINTER), element),
            shape=sizes,
            strides=strides,
            itemsize=WORD(np.dtype(dtype).itemsize),
            meminfo=None,
        )
        return array._getvalue()

    def _scalar(self, kind: str, value: Any, python_type: Any) -> Any:
        """Return an int, float or bool of Python, or a scalar of NumPy."""
        builder = self._builder
        numpy_type = np.dtype(kind).type
        is_numpy = self._is(python_type, numpy_type)
        if kind == "float64":  # np.float64 is a float
            self.require(builder.or_(is_numpy, self._is(python_type, float)))
            return self.call("PyFloat_AsDouble", ir.DoubleType(), value)
        if kind == "bool":
            is_python = self._is(python_type, bool)
            self.require(builder.or_(is_numpy, is_python))
            byte = self._field(value, HEAD, CHAR)
            is_true = builder.icmp_unsigned("!=", byte, CHAR(0))
            return builder.select(is_python, self._is(value, True), is_true)
        if kind == "int64":
            is_python = self._is(python_type, int)
            self.require(builder.or_(is_numpy, is_python))
            with builder.if_else(is_python) as (python, numpy):
                with python:
                    converted = self.call("PyLong_AsLongLong", WORD, value)
                    with builder.if_then(self._has_failed(converted), likely=False):
                        builder.ret(POINTER(None))
                    python_block = builder.block
                with numpy:
                    read = self._field(value, HEAD, WORD)
                    numpy_block = builder.block
            result = builder.phi(WORD)
            result.add_incoming(converted, python_block)
            result.add_incoming(read, numpy_block)
            return result
        self.require(is_numpy)
        return self._field(value, HEAD, self._context.get_value_type(numba_type(kind)))

    def _has_failed(self, converted: Any) -> Any:
        """Return whether an int had no place in an int64: the result is -1, and an error is set."""
        occurred = self.call("PyErr_Occurred", POINTER)
        is_error = self._builder.icmp_unsigned("!=", occurred, POINTER(None))
        minus_one = self._builder.icmp_signed("==", converted, WORD(-1))
        return self._builder.and_(minus_one, is_error)

    def boxed(self, numba_result: Any, value: Any) -> Any:
        """Return a result as a new reference to an object of Python."""
        builder = self._builder
        if isinstance(numba_result, types.NoneType):
            none = self._address(None)
            self.call("Py_IncRef", ir.VoidType(), none)
            return none
        if isinstance(numba_result, types.Boolean):
            return self.call("PyBool_FromLong", POINTER, builder.zext(value, WORD))
        if isinstance(numba_result, types.Integer):
            if numba_result.signed:  # pyright: ignore[reportAttributeAccessIssue]
                return self.call("PyLong_FromLongLong", POINTER, builder.sext(value, WORD))
            return self.call("PyLong_FromUnsignedLongLong", POINTER, builder.zext(value, WORD))
        if isinstance(numba_result, types.Float):
            wide = builder.fpext(value, ir.DoubleType())
            return self.call("PyFloat_FromDouble", POINTER, wide)
        if isinstance(numba_result, (types.Tuple, types.UniTuple)):
            result = self.call("PyTuple_New", POINTER, WORD(len(numba_result)))
            for i, inner in enumerate(numba_result):
                item = self.boxed(inner, builder.extract_value(value, i))
                place = builder.gep(result, [WORD(TUPLE_ITEMS + 8 * i)])
                builder.store(item, builder.bitcast(place, POINTER.as_pointer()))
            return result
        raise NotImplementedError(f"kernels return no {numba_result}")
