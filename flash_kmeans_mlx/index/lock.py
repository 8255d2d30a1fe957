"""One writer at a time; one writer or many readers at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Lock", "ReadersWriterLock"]

T = TypeVar("T")


class Lock:
    """Runs one call at a time, and is free after it, whatever is raised where."""

    def __init__(self) -> None:
        # An RLock knows who holds it from the very instruction that takes it.
        self._lock = threading.RLock()

    def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, called while no other thread is in here.

        Raises:
            RuntimeError: this thread is in here already: a signal handler, for one.
        """
        if self._mine():
            raise RuntimeError("an index can't be changed within a change of it: wait until that has ended")
        try:
            with self._lock:
                return call()
        finally:
            if self._mine():  # an interrupt between the instructions of `with`
                self._lock.release()

    def _mine(self) -> bool:
        return self._lock._is_owned()  # pyright: ignore[reportAttributeAccessIssue]  # used by threading.Condition too


class ReadersWriterLock:
    """Readers share, a writer is alone; one that waits goes before readers that come later. It can't be taken twice."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0  # writers

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody writes meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
