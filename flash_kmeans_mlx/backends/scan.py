"""Inverted lists as scans read them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Lists"]


class Lists(Protocol):
    """What a scan reads of inverted lists; see index/lists.py. Rows begin with the vectors as they are."""

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

    def slots(self, number: int) -> np.ndarray: ...
    def rows(self, slots: np.ndarray) -> np.ndarray: ...
