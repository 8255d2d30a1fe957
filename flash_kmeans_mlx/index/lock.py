"""One writer or many readers at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

__all__ = ["ReadersWriterLock"]

_locks: WeakSet[ReadersWriterLock] = WeakSet()


def _free_locks() -> None:
    """Free all locks: the threads that held them don't exist in a forked process."""
    for lock in list(_locks):
        lock.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


class ReadersWriterLock:
    """Readers share, a writer is alone; one that waits goes before readers that come later. It can't be taken twice."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0  # writers
        _locks.add(self)

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
