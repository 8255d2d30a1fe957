"""What a counted launch does, as `msl/count.cpp` counts it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy.typing as npt

__all__ = ["Counter", "Traffic", "Work"]


@dataclass(frozen=True)
class Traffic:
    """Accesses of a launch to one buffer; shapes and strides of inputs are not counted.

    Attributes:
        name: Of the buffer.
        size: Its bytes.
        read: Bytes that lanes ask for.
        written: Bytes that lanes write.
        read_once: Bytes read, each byte once per threadgroup.
        written_once: Bytes written, each byte once per threadgroup.
        instructions: Loads and stores of a simdgroup.
        lines: Different lines of 128 bytes that each of them touches, added up.
        fetched: Different lines that a threadgroup touches between two of its barriers, added up:
            what a cache asks for that keeps a line no longer.
    """

    name: str
    size: int
    read: int
    written: int
    read_once: int
    written_once: int
    instructions: int
    lines: int
    fetched: int


PER_BUFFER = len(fields(Traffic)) - 2  # without its name and size


@dataclass(frozen=True)
class Work:
    """What the simdgroups of a launch do besides accesses to buffers.

    Attributes:
        matrix: Products of 8x8 matrices.
        simd: Other operations among the lanes of a simdgroup.
        simdgroup_barriers: Barriers of one simdgroup.
        threadgroup_barriers: Barriers of a threadgroup, once for each of its simdgroups.
        shared_reads: Loads of a simdgroup from threadgroup memory.
        read_cycles: The most different words of 4 bytes that such a load asks of one of 32 banks,
            added up. A word that several lanes ask for counts once.
        read_least: The cycles if words were spread evenly over the banks.
        shared_writes: Stores likewise.
        write_cycles: Their cycles.
        write_least: Their least cycles.
    """

    matrix: int = 0
    simd: int = 0
    simdgroup_barriers: int = 0
    threadgroup_barriers: int = 0
    shared_reads: int = 0
    read_cycles: int = 0
    read_least: int = 0
    shared_writes: int = 0
    write_cycles: int = 0
    write_least: int = 0

    @property
    def cycles(self) -> int:
        """Cycles of threadgroup memory."""
        return self.read_cycles + self.write_cycles


class Counter:
    """Counts one launch of a library that was compiled to count."""

    def __init__(self, library: ctypes.CDLL, buffers: Sequence[npt.NDArray[Any]]) -> None:
        self._library = library
        self._n = len(buffers)
        pointers = (ctypes.c_void_p * self._n)(*[b.ctypes.data for b in buffers])
        sizes = (ctypes.c_uint64 * self._n)(*[b.nbytes for b in buffers])
        library.count_begin(pointers, sizes, self._n)

    def end(self) -> tuple[list[list[int]], Work]:
        """Return the counts of each buffer and of the launch, and free what counting took.

        Those of a buffer are in the order of `Traffic`.
        """
        numbers = (ctypes.c_uint64 * (PER_BUFFER * self._n + len(fields(Work))))()
        self._library.count_end(numbers)
        buffers, work = numbers[: PER_BUFFER * self._n], numbers[PER_BUFFER * self._n :]
        rows = [buffers[i : i + PER_BUFFER] for i in range(0, len(buffers), PER_BUFFER)]
        return rows, Work(*work)
