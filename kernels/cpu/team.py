"""Threads that run one kernel together: they wait for one another without going through Python, which costs 0.1 ms."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .jit import njit
from .options import JIT

ARRIVED, NEXT, ABORTED = 0, 1, 2  # the fields of a team's state, int64
SPINS = 2000  # before a thread that waits lets another have its core


@intrinsic
def _add(_typing, address, value):
    """Atomically add to the int64 at `address`; returns what was there."""

    def generate(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _yield(_typing, address):
    """Call the C function `int f(void)` at `address`."""

    def generate(_context, builder, _signature, args):
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), [])

    return types.int32(types.int64), generate


@njit(**JIT)
def add(state, field, value):
    """Atomically add to a field of the state; returns what it was."""
    return _add(np.int64(state.ctypes.data) + 8 * field, value)  # pyright: ignore[reportCallIssue]


@njit(**JIT)
def meet(state, size, sched_yield):
    """Wait until all `size` threads are here; False if one has gone for good."""
    if size == 1:
        return True
    target = (add(state, ARRIVED, 1) // size + 1) * size
    spins = 0
    while add(state, ARRIVED, 0) < target:
        if add(state, ABORTED, 0):
            return False
        spins += 1
        if spins > SPINS:
            _yield(sched_yield)  # pyright: ignore[reportCallIssue]
    return True
