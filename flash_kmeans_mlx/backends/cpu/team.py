"""Run one kernel by all threads together; see kernels/cpu/team.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

from . import kernels
from .workers import Workers

__all__ = ["CALL", "alone", "run_team"]

CALL = 3_000_000_000  # products in one call of a kernel, some 50 ms: Ctrl-C waits for its end


def alone() -> kernels.team.Team:
    """Return a team of one thread."""
    return kernels.team.Team(np.zeros(kernels.team.FIELDS, np.int64), 0, 1, 0)


def run_team(workers: Workers, size: int, task: Callable[[int, kernels.team.Team], object]) -> None:
    """Call task(slot, team) by `size` threads at the same time."""
    state = np.zeros(kernels.team.FIELDS, np.int64)

    def join(slot: int, _i: int) -> None:
        task(slot, kernels.team.Team(state, slot, size, _sched_yield()))

    def abort() -> None:
        state[kernels.team.ABORTED] = 1

    workers.run(join, size, abort)


@cache
def _sched_yield() -> int:
    """Return the address of the C function."""
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
