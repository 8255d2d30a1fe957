"""The vectors that a command is given: files, folders and patterns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import backends, validation
from ..shards.parts import FileSource
from ..shards.source import Source, open_source

__all__ = ["for_backend", "open_data", "paths"]

READ_BYTES = 1 << 22  # at a time, of rows that are read into memory


def open_data(data: list[str]) -> Source:
    """Return the rows of all files that the arguments name; nothing but headers is read."""
    return open_source(data[0] if len(data) == 1 else data, "DATA")


def paths(source: Source) -> list[str]:
    """Return the paths of the files of a source."""
    return [part.path for part in source.parts] if isinstance(source, FileSource) else []


def for_backend(source: Source, backend: str | None, max_mem_gb: float) -> tuple[Any, float]:
    """Return points as the backend takes them, and the part of the cap that they leave.

    The CPU reads a source again in each pass, and takes what others have no memory for, unless they
    are named. Other backends get the rows in memory.

    Raises:
        ValueError: The rows do not fit under the cap.
    """
    n, d = source.shape
    size = n * d * source.dtype.itemsize
    cap = validation.cap(max_mem_gb)
    is_large = size > (cap or _memory()) // 2
    if backends.resolve(backend) == "cpu" or (backend is None and is_large):
        return source, max_mem_gb
    need = f"DATA of shape {source.shape}, which it reads into memory,"
    validation.check_room(
        cap, size + 1, need, f"on the {backend} backend", "raise it, or take --backend cpu"
    )
    rows = np.empty((n, d), source.dtype)
    step = max(1, READ_BYTES // (d * source.dtype.itemsize))
    with source.cursor() as cursor:
        for lo in range(0, n, step):
            hi = min(n, lo + step)
            rows[lo:hi] = cursor.read(lo, hi)
    return rows, (cap - size) / 1e9 if cap else 0.0


def _memory() -> int:
    """Return the bytes of memory of this machine."""
    if not hasattr(os, "sysconf"):
        return 1 << 34
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
