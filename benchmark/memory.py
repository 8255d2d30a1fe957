"""Peak memory of this process, and the bound that our fits keep."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Peak:
    """Measures how far resident memory rises above its level at the creation of this object.

    On Linux the kernel's high-water mark (``VmHWM``) is set back to the present level first, so
    that an earlier peak doesn't hide a later one. Elsewhere ``ru_maxrss`` serves. It can't be set
    back, and on Linux it would start at the parent's.
    """

    def __init__(self) -> None:
        if _RESET.exists() and os.access(_RESET, os.W_OK):
            _RESET.write_text("5")
        self.before = resident()

    def beyond(self) -> int:
        """Return the bytes above the start, at the highest point since."""
        return max(0, _high_water() - self.before)


def bound(b: int, n: int, d: int, k: int) -> int:
    """Return how many bytes a fit may use beyond its input.

    They are 64 MB, four float64 copies of the centroids, and for each point 16 bytes and, for
    bounds that save products, K / 16 + 4 min(D, 64).
    """
    return 64_000_000 + 4 * b * k * d * 8 + b * n * (16 + k // 16 + 4 * min(d, 64))


def resident() -> int:
    """Return the bytes that this process has in memory; the peak, where that is all we can read."""
    return _status("VmRSS") if _STATUS.exists() else _high_water()


def resident_trimmed() -> int:
    """Return the resident bytes after giving free memory back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


def _high_water() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
