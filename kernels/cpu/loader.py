"""Load compiled kernels into the process, without Numba."""

import ctypes
import struct
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from .kinds import Kind, classes
from .target import machine

__all__ = ["FUNCTIONS", "OBJECTS", "load"]

# What the functions of entry.py use; its addresses go into a table.
FUNCTIONS = (
    "PyBool_FromLong",
    "PyErr_NoMemory",
    "PyErr_Occurred",
    "PyEval_RestoreThread",
    "PyEval_SaveThread",
    "PyFloat_AsDouble",
    "PyFloat_FromDouble",
    "PyLong_AsLongLong",
    "PyLong_FromLongLong",
    "PyLong_FromUnsignedLongLong",
    "PyTuple_New",
    "Py_IncRef",
)
OBJECTS = (
    *(NotImplemented, None, True, int, float, bool),
    *(np.ndarray, np.bool_, np.float32, np.float64),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
)
METH_FASTCALL = 0x80


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@cache
def _engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())


@cache
def _functions() -> tuple[int, ...]:
    found = (getattr(ctypes.pythonapi, name) for name in FUNCTIONS)
    return tuple(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in found)


_kept: list[Any] = []  # what the functions point to


def load(code: bytes, symbol: str, kinds: tuple[Kind, ...]) -> Any:
    """Return the function `symbol` of object code, for arguments of these kinds.

    No two symbols that are loaded may have the same name.

    Raises:
        RuntimeError: The code has no such function.
    """
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"compiled code lacks {symbol}")
    addresses = (*_functions(), *map(id, OBJECTS), *map(id, classes(kinds)))
    table = struct.pack(f"{len(addresses)}Q", *addresses)
    method = _Method(symbol.encode(), address, METH_FASTCALL, None)
    _kept.append((method, table, kinds))
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(ctypes.addressof(method), table, None)
