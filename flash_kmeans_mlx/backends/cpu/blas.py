"""Hold BLAS, which NumPy calls, to one thread while our own threads run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["single_threaded"]


@cache
def _libraries() -> list[Any]:  # threadpoolctl has no types
    from threadpoolctl import ThreadpoolController

    return [
        lib
        for lib in ThreadpoolController().select(user_api="blas").lib_controllers
        if lib.num_threads
    ]


def _set_threads(counts: list[int]) -> None:
    import threadpoolctl

    # From threadpoolctl 3.8 on, the thread that set OpenBLAS's number last owns it. Here a lock
    # decides instead.
    openblas: Any = threadpoolctl.OpenBLASController
    release = getattr(openblas, "clear_controlling_thread", lambda force: None)
    release(force=True)
    for library, count in zip(_libraries(), counts, strict=True):
        library.set_num_threads(count)
    release(force=True)


_lock = threading.RLock()
_users = 0
_before: list[int] = []


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS to one thread.

    The setting is the process's: the first to enter makes it, the last to leave undoes it.
    """
    global _users, _before  # noqa: PLW0603  # BLAS's setting is global too
    entered = False
    process = os.getpid()
    try:
        with _lock:
            if _users == 0:
                _before = [library.num_threads for library in _libraries()]
                _set_threads([1] * len(_before))
            _users += 1
            entered = True
        yield
    finally:
        if entered and os.getpid() == process:
            with _lock:
                _users -= 1
                if _users == 0:
                    _set_threads(_before)


def _release_in_child() -> None:
    """Undo the setting: the threads that asked for it don't exist in a forked process."""
    global _users  # noqa: PLW0603
    _lock.release()
    if _users:
        _users = 0
        _set_threads(_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_release_in_child
    )
