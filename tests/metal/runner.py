"""Runs compiled kernels on NumPy buffers: in this process, or in one of their own under a sanitizer."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metal import compiler
from metal.counts import Counter, Work
from metal.source import EmulationError

Buffer = npt.NDArray[Any]
Size = Sequence[int]

MAX_THREADS = 1024
MESSAGE_BYTES = 1280
TSAN_THREADS = 8000  # each GPU thread is a thread to TSan, which stops at 8128
FAILED = 8
OPTIONS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0",
    # It sleeps for a second before the program exits; no thread is left that could race then.
    "TSAN_OPTIONS": "halt_on_error=1:history_size=4:atexit_sleep_ms=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
REPORT = re.compile(
    r"ERROR:|WARNING: ThreadSanitizer|runtime error:|SUMMARY:|^ *#[0-3] |^ *(Previous )?(atomic )?(read|write) of",
    re.IGNORECASE,
)


class SanitizerError(EmulationError):
    """A sanitizer's finding; `report` is all that it said."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class Outcome(NamedTuple):
    threadgroup_bytes: int
    buffers: list[list[int]]  # the counts of each, see Traffic
    work: Work


def check_launch(grid: Size, threadgroup: Size) -> None:
    """The limits that Metal puts on a launch."""
    if min(grid) < 1 or min(threadgroup) < 1:
        raise EmulationError(
            f"an empty launch: grid {tuple(grid)}, threadgroup {tuple(threadgroup)}"
        )
    if max(grid) >= 2**32:
        raise EmulationError(f"grid {tuple(grid)} is beyond 2^32 threads")
    threads = int(np.prod([min(g, t) for g, t in zip(grid, threadgroup, strict=True)]))
    if threads > MAX_THREADS:
        raise EmulationError(
            f"{threads} threads in a threadgroup, more than the {MAX_THREADS} there may be"
        )


def run_library(
    cpp: str,
    buffers: Sequence[Buffer],
    grid: Size,
    threadgroup: Size,
    *,
    order: int = 0,
    threads: int = 1,
    count: bool = False,
    contract: bool = False,
    flush: bool = False,
    first: int = 0,
) -> Outcome:
    """Runs the threadgroups from the `first` one on (the last one if it is beyond the grid), changing buffers in place."""
    lib = compiler.library(cpp, count, contract)
    pointers = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    memory = ctypes.c_ulong()
    counter = Counter(lib, buffers) if count else None
    failed = lib.emu_run(
        pointers,
        (ctypes.c_uint * 3)(*grid),
        (ctypes.c_uint * 3)(*threadgroup),
        ctypes.c_ulong(first),
        order,
        1 if count else threads,
        int(flush),
        message,
        ctypes.c_size_t(MESSAGE_BYTES),
        ctypes.byref(memory),
    )
    counts, work = counter.end() if counter else ([], Work())
    if failed:
        raise EmulationError(message.value.decode())
    return Outcome(memory.value, counts, work)


@cache
def without_randomised_addresses() -> tuple[str, ...]:
    """TSan of g++ 12 can't place its shadow where the kernel randomises much; where that can't be turned off, we try."""
    command = ("setarch", "-R")
    if not shutil.which(command[0]):
        return ()
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else ()


def run_sanitized(
    cpp: str,
    sanitizer: str,
    buffers: Sequence[Buffer],
    grid: Size,
    threadgroup: Size,
    *,
    order: int = 0,
) -> Outcome:
    """The whole grid under "address" (with undefined behaviour) or "thread"; buffers are changed in place."""
    if sanitizer == "thread" and np.prod(grid) > TSAN_THREADS:
        raise EmulationError(
            f"{np.prod(grid)} threads, more than the {TSAN_THREADS} that the thread sanitizer can follow"
        )
    program = compiler.executable(cpp, sanitizer)
    with tempfile.TemporaryDirectory(prefix="emulator-") as work:
        given, result = Path(work, "given"), Path(work, "result")
        with given.open("wb") as file:
            file.write(struct.pack("=QQ3I3I", len(buffers), order, *grid, *threadgroup))
            file.write(struct.pack(f"={len(buffers)}Q", *[b.nbytes for b in buffers]))
            for b in buffers:
                file.write(b.tobytes())
        run = subprocess.run(
            [*without_randomised_addresses(), str(program), str(given), str(result)],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **OPTIONS},
            check=False,
        )
        if run.returncode == FAILED:
            raise EmulationError(run.stderr.partition("EMULATOR: ")[2].strip())
        if run.returncode:
            lines = [line.rstrip() for line in run.stderr.splitlines() if REPORT.search(line)]
            raise SanitizerError("\n".join(lines[:12]) or run.stderr[-2000:], run.stderr)
        with result.open("rb") as file:
            (memory,) = struct.unpack("=Q", file.read(8))
            for b in buffers:
                b.reshape(-1).view(np.uint8)[:] = np.frombuffer(file.read(b.nbytes), np.uint8)
    return Outcome(memory, [], Work())
