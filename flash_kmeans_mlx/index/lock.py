"""The lock of an index: one change at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Lock"]

T = TypeVar("T")


class Lock:
    """Runs one call at a time. An error or an interrupt, wherever it is raised, frees the lock."""

    def __init__(self) -> None:
        # An RLock knows who holds it from the instruction on that takes it.
        self._lock = threading.RLock()
        self._process = os.getpid()

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` while no other thread does, and return its result.

        Raises:
            RuntimeError: This thread holds the lock already, for example below a signal handler.
        """
        # After a fork, the threads that held the lock do not exist here.
        if self._process != os.getpid():
            self._lock = threading.RLock()
            self._process = os.getpid()
        if self._is_held_here():
            raise RuntimeError(
                "an index can't be changed within a change of it: wait until that has ended"
            )
        try:
            with self._lock:
                return call()
        finally:
            # After an interrupt between the instructions of `with`.
            if self._is_held_here():
                self._lock.release()

    def _is_held_here(self) -> bool:
        # A private method, but threading.Condition uses it too.
        return self._lock._is_owned()  # pyright: ignore[reportAttributeAccessIssue]
