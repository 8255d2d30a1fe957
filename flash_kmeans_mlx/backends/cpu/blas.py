"""scipy's sgemm for Numba kernels, one thread per call while we run our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

__all__ = ["sgemm_address", "single_threaded"]


@cache
def sgemm_address() -> np.uintp:
    """The address of BLAS's sgemm (32-bit integers), to be called from a kernel."""
    import scipy.linalg.cython_blas  # noqa: F401  # the lookup below needs it loaded
    from numba.extending import get_cython_function_address

    return np.uintp(get_cython_function_address("scipy.linalg.cython_blas", "sgemm"))


@cache
def _controller():  # threadpoolctl has no types
    import scipy.linalg.cython_blas  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_users = 0
_limit = None


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold BLAS to one thread. The setting is the process's: the first to enter makes it, the last to leave undoes it."""
    global _users, _limit  # noqa: PLW0603  # BLAS's setting is global too
    with _lock:
        _users += 1
        if _users == 1:
            _limit = _controller().limit(limits=1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _limit is not None:
                _limit.restore_original_limits()
                _limit = None
