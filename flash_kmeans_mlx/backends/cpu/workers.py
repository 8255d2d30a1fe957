"""Threads for one fit: started when there is work for more than one, gone when the fit ends."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

__all__ = ["Workers", "thread_count"]


def thread_count() -> int:
    """FLASH_KMEANS_THREADS, or the CPUs this process may use."""
    value = os.environ.get("FLASH_KMEANS_THREADS", "")
    if value:
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(f"FLASH_KMEANS_THREADS={value!r} must be a whole number >= 1")
        return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _sched_getcpu() -> Callable[[], int]:
    """The C function on Linux; elsewhere one that says -1."""
    return getattr(ctypes.CDLL(None), "sched_getcpu", lambda: -1) if sys.platform == "linux" else lambda: -1


def _leave(cpu: int, slot: int) -> None:
    """Move this thread off the caller's CPU, where Linux likes to wake it and may leave it for milliseconds."""
    if cpu < 0 or _sched_getcpu()() != cpu:
        return
    allowed = os.sched_getaffinity(0)
    others = sorted(allowed - {cpu})
    if others:
        os.sched_setaffinity(0, {others[slot % len(others)]})
        os.sched_setaffinity(0, allowed)


class Workers:
    """Run tasks on `n` threads, the caller being one of them. Tasks must release the GIL and write to places of their own."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool: ThreadPoolExecutor | None = None

    def run(self, task: Callable[[int, int], object], n_tasks: int, abort: Callable[[], object] = lambda: None) -> None:
        """Call task(slot, i) for i in range(n_tasks); slot < n is the thread's own number. Raises what a task raised.

        Tasks that wait for one another, at most n, go on without those that failed once `abort` has been called.
        """
        helpers = min(self.n, n_tasks) - 1
        queue = itertools.count()  # next() is atomic
        stop = False

        here = _sched_getcpu()()

        def work(slot: int) -> None:
            nonlocal stop
            try:
                if slot:
                    _leave(here, slot)
                while not stop and (i := next(queue)) < n_tasks:
                    task(slot, i)
            except BaseException:
                stop = True  # Ctrl-C and errors: the others finish the task they are at
                abort()
                raise

        if helpers < 1:
            work(0)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n - 1, thread_name_prefix="flash-kmeans")
        futures = []
        try:
            for slot in range(1, helpers + 1):
                futures.append(self._pool.submit(work, slot))
            work(0)
        except BaseException:
            abort()
            raise
        finally:  # nobody writes after we return
            wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Join the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
