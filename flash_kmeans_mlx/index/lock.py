"""One writer at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Lock"]

T = TypeVar("T")


class Lock:
    """Runs one call at a time, and is free after it, whatever is raised where."""

    def __init__(self) -> None:
        # An RLock knows who holds it from the very instruction that takes it.
        self._lock = threading.RLock()
        self._process = os.getpid()

    def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, called while no other thread is in here.

        Raises:
            RuntimeError: this thread is in here already: a signal handler, for one.
        """
        if self._process != os.getpid():  # forked: the threads that held the lock don't exist here
            self._lock = threading.RLock()
            self._process = os.getpid()
        if self._mine():
            raise RuntimeError(
                "an index can't be changed within a change of it: wait until that has ended"
            )
        try:
            with self._lock:
                return call()
        finally:
            if self._mine():  # an interrupt between the instructions of `with`
                self._lock.release()

    def _mine(self) -> bool:
        return self._lock._is_owned()  # pyright: ignore[reportAttributeAccessIssue]  # used by threading.Condition too
