"""Arrays that are mapped from files."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from ..errors import VectorFileError

__all__ = ["check_mapped", "is_mapped", "map_address", "release_map", "release_pages"]


def check_mapped(x: Any) -> None:
    """Refuse an array mapped from a file that has become smaller.

    Reading past the end of the file would end the process (SIGBUS).

    Raises:
        VectorFileError: The file ends before the array does.
    """
    while isinstance(x, np.ndarray) and isinstance(x.base, np.ndarray):
        x = x.base
    owner = getattr(x, "_mmap", None)
    if isinstance(x, np.memmap) and isinstance(owner, mmap.mmap):
        size, end = owner.size(), x.offset + x.nbytes
        if size < end:
            raise VectorFileError(
                f"cannot read {str(x.filename)!r}: it has become smaller while it was mapped,"
                f" {size} bytes of {end};"
                " leave files alone while they are read"
            )


def is_mapped(x: Any) -> bool:
    """Return whether an array, or the one that it is a view of, is mapped from a file."""
    while isinstance(x, np.ndarray):
        x = x.base
    return isinstance(x, mmap.mmap)


def map_address(owner: mmap.mmap) -> int:
    """Return where a map begins in memory."""
    return np.frombuffer(owner, np.uint8).__array_interface__["data"][0]


def release_pages(owner: mmap.mmap, part: np.ndarray) -> None:
    """Release the pages of this part of a map: they count as memory of this process."""
    if not part.flags.c_contiguous or not hasattr(mmap, "MADV_DONTNEED"):
        return
    begin = part.__array_interface__["data"][0] - map_address(owner)
    if 0 <= begin < len(owner):  # otherwise it was decompressed
        page = begin // mmap.PAGESIZE * mmap.PAGESIZE
        owner.madvise(mmap.MADV_DONTNEED, page, begin + part.nbytes - page)


def release_map(owner: mmap.mmap) -> None:
    """Release all pages of a map."""
    if hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
