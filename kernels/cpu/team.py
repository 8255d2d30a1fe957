"""Threads that run one kernel together and wait for one another inside it.

Through Python, every wait would take 0.1 ms.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .ir import NUMBER, address, pointer
from .jit import intrinsic, njit, types

ARRIVED, NEXT, ABORTED = 0, 1, 2  # fields of a team's state
FIELDS = 3
SPINS = 2000  # checks before a waiting thread lets another one have its core


class Team(NamedTuple):
    """A thread's place in its team.

    Attributes:
        state: (FIELDS,) int64, zeros at first, shared by the team.
        slot: The thread's number, from 0 on.
        size: Threads in the team.
        sched_yield: Address of the C function, or 0 for a team of one.
    """

    state: np.ndarray
    slot: int
    size: int
    sched_yield: int


@intrinsic
def _add(_typing, address, value):
    """Atomically add to the int64 at `address`; return its old value."""

    def generate(_context, builder, _signature, args):
        place = pointer(builder, args[0], 0, NUMBER)
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _yield(_typing, address):
    """Call the C function `int f(void)` at `address`."""

    def generate(_context, builder, _signature, args):
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(args[0], function), [])

    return types.int32(types.int64), generate


@njit
def add(state, field, value):
    """Atomically add to a field of a team's state; return its old value."""
    return _add(address(state) + 8 * field, value)


@njit
def meet(team):
    """Wait until the whole team is here; return False if one of its threads has failed."""
    if team.size == 1:
        return True
    target = (add(team.state, ARRIVED, 1) // team.size + 1) * team.size
    spins = 0
    while add(team.state, ARRIVED, 0) < target:
        if add(team.state, ABORTED, 0):
            return False
        spins += 1
        if spins > SPINS:
            _yield(team.sched_yield)
    return True
