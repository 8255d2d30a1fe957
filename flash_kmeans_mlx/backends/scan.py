"""The interface of a backend to scans of inverted lists: the lists as they are read."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Lists"]


class Lists(Protocol):
    """Inverted lists in blocks of 16 rows; `index.lists.InvertedLists` describes its parts.

    Rows of lists of vectors begin with the vectors, those of lists of codes with the codes.

    Attributes:
        payload: (blocks, width, 16) rows.
        ids: (blocks, 16) int64.
        owner: (blocks,) int32, the list of each block.
        next: (blocks,) int32, the next block of the list, or -1.
        first: (nlist,) int32, the first block of each list, or -1.
        counts: (nlist,) int64, the rows of each list.
        cache: A backend's own values for a list, kept until the list changes.
        parts: A backend's own value for these lists, which never change; None at first.
    """

    @property
    def payload(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def owner(self) -> np.ndarray: ...

    next: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    cache: dict[int, Any]
    parts: Any

    def slots(self, number: int) -> np.ndarray:
        """Return the slots (n,) int64 of a list's rows."""
        ...

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """Return the rows (n, width) at these slots."""
        ...
