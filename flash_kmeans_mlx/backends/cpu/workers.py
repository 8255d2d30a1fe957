"""Threads for one fit: they start when there is work for more than one, and end with the fit."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from queue import SimpleQueue

from ...progress import SILENT, Progress

__all__ = ["Workers", "thread_count"]

THREADS_PER_CPU = 8  # more only take memory


def thread_count() -> int:
    """Return FLASH_KMEANS_THREADS, at most THREADS_PER_CPU for each CPU.

    Where it is not set, return the number of CPUs that this process may use.

    Raises:
        ValueError: If FLASH_KMEANS_THREADS is not a whole number >= 1.
    """
    value = os.environ.get("FLASH_KMEANS_THREADS", "")
    if value:
        if not value.isdecimal() or not value.strip("0"):
            raise ValueError(f"FLASH_KMEANS_THREADS={value!r} must be a whole number >= 1")
        threads = float(value)
        if threads <= THREADS_PER_CPU:
            return int(threads)  # the system takes longer to count CPUs than a small fit
        return int(min(threads, THREADS_PER_CPU * _cpu_count()))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return _cpu_count()


@cache
def _cpu_count() -> int:
    return os.cpu_count() or 1


@cache
def _current_cpu() -> Callable[[], int]:
    """Return Linux's sched_getcpu; elsewhere a function that returns -1."""
    return ctypes.PyDLL(None).sched_getcpu if sys.platform == "linux" else lambda: -1


@contextmanager
def _only_on(cpus: set[int], allowed: set[int]) -> Iterator[None]:
    """Keep this thread on some of the CPUs that it is allowed.

    A sandbox may forbid it: then the fit is only slower.
    """
    if len(allowed) < 2:
        yield
        return
    try:
        _move(cpus)
        yield
    finally:
        try:
            _move(allowed)
        finally:
            _move(allowed)  # in case Ctrl-C came before the first


def _move(cpus: set[int]) -> None:
    with suppress(OSError):
        os.sched_setaffinity(0, cpus)


class _Job:
    """The tasks of one call of `Workers.run`."""

    def __init__(
        self,
        task: Callable[[int, int], object],
        n_tasks: int,
        abort: Callable[[], object] | None,
        progress: Progress,
        work: float,
    ) -> None:
        self._task = task
        self._n = n_tasks
        self._abort = abort
        self._progress = progress
        self._work = work
        self._next = itertools.count()  # next() is atomic
        self._stopped = False
        # Each helper's error, or None, once it has ended.
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()

    def work(self, slot: int, cpus: set[int], allowed: set[int]) -> None:
        """Take tasks until there are no more, or one has failed."""
        try:
            with _only_on(cpus, allowed):
                while not self._stopped and (i := next(self._next)) < self._n:
                    self._task(slot, i)
                    self._progress.advance(self._work)
        except BaseException:
            self.stop()
            raise

    def help(self, slot: int, cpus: set[int], allowed: set[int]) -> None:
        """Call `work` in another thread than the caller's."""
        try:
            self.work(slot, cpus, allowed)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            self.done.put(error)
        else:
            self.done.put(None)

    def stop(self) -> None:
        """Have the others end after the task they are at: there was an error or Ctrl-C."""
        self._stopped = True
        if self._abort:
            self._abort()


class Workers:
    """Threads that run tasks; the caller is one of them.

    Tasks must release the GIL and write to memory of their own.

    Attributes:
        n: Number of threads.
        progress: Is told of tasks that are done.
    """

    def __init__(self, n: int, progress: Progress = SILENT) -> None:
        self.n = n
        self.progress = progress
        self._busy = False
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(
        self,
        task: Callable[[int, int], object],
        n_tasks: int,
        abort: Callable[[], object] | None = None,
        work: float = 0.0,
    ) -> None:
        """Call task(slot, i) for i in range(n_tasks); raise what a task raised.

        Args:
            task: Is given the number of its thread, slot < n, and the number of the task.
            n_tasks: Number of tasks.
            abort: For tasks that wait for one another, at most n. Called when one of them has
                failed, it ends the waiting of the others.
            work: The work that the tasks are together, for the progress.
        """
        if self._busy:
            raise RuntimeError(
                "a task can't run tasks: its own thread could be the one that they wait for"
            )
        each = work / max(1, n_tasks)
        helpers = min(self.n, n_tasks) - 1
        if helpers <= 0:
            self._run_alone(task, n_tasks, each)
            return
        # Linux wakes threads where the thread that woke them runs, and leaves them there for
        # milliseconds. Tasks that wait for one another would take twice as long: for those, the
        # caller keeps its CPU to itself.
        here = _current_cpu()() if abort else -1
        allowed = os.sched_getaffinity(0) if here >= 0 else set()
        job = _Job(task, n_tasks, abort, self.progress, each)
        busy = 0
        errors = []
        try:
            self._busy = True
            self._start(helpers)
            for slot in range(1, helpers + 1):
                self._jobs.put(partial(job.help, slot, allowed - {here}, allowed))
                busy += 1
            job.work(0, {here}, allowed)
        except BaseException:
            job.stop()
            raise
        finally:  # nobody writes after we return
            while busy:
                errors.append(job.done.get())
                busy -= 1
            self._busy = False
        for error in filter(None, errors):
            raise error

    def _run_alone(self, task: Callable[[int, int], object], n_tasks: int, work: float) -> None:
        """Call task(0, i) for i in range(n_tasks), each of which is so much work."""
        self._busy = True
        try:
            for i in range(n_tasks):
                task(0, i)
                self.progress.advance(work)
        finally:
            self._busy = False

    def _start(self, n: int) -> None:
        while len(self._threads) < n:
            thread = threading.Thread(target=_serve, args=(self._jobs,), name="flash-kmeans")
            self._threads.append(thread)  # before it starts, so that Ctrl-C can't lose it
            thread.start()

    def close(self) -> None:
        """Join the threads."""
        self._busy = False  # Ctrl-C may have ended `run` while it waited
        self._jobs.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # it never started
                thread.join()
        self._threads = []
        self._jobs = SimpleQueue()

    def __del__(self) -> None:
        self._jobs.put(None)  # in case Ctrl-C kept `close` from it


def _serve(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    """Do jobs until there is None, which is left for the other threads."""
    while (job := jobs.get()) is not None:
        job()
        del job  # or its arrays would stay alive
    jobs.put(None)
