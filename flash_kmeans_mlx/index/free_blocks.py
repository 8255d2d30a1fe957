"""Which blocks of a pool may be taken: those never used, and those that no lists have any more."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np

__all__ = ["FreeBlocks", "Version"]


class Version:
    """Marks the lists between two removals, for weak references.

    Lists refer to the version they have, and a version to the next one: it is alive while any lists
    of it or of an older one are.
    """

    __slots__ = ("__weakref__", "newer")


class FreeBlocks(NamedTuple):
    """Free blocks of a pool. Immutable.

    Attributes:
        n_used: Blocks that were ever taken: 0, 1, ... n_used - 1. All others are free.
        free: (M,) int64, blocks below n_used that no lists have.
        retired: Blocks below n_used that only older lists may have, with the newest version of
            these lists.
    """

    n_used: int = 0
    free: np.ndarray = np.zeros(0, np.int64)
    retired: tuple[tuple[weakref.ref[Version], np.ndarray], ...] = ()

    def take(self, n: int) -> tuple[np.ndarray, FreeBlocks]:
        """Return n free blocks (n,) int64, and what is free without them."""
        free = [self.free]
        retired = []
        for version, blocks in self.retired:
            if version() is None:
                free.append(blocks)
            else:
                retired.append((version, blocks))
        reusable = np.concatenate(free)
        n_used = self.n_used + max(0, n - len(reusable))
        taken = np.concatenate([reusable[:n], np.arange(self.n_used, n_used)])
        return taken, FreeBlocks(n_used, reusable[n:], tuple(retired))

    def retire(self, blocks: np.ndarray, version: Version) -> FreeBlocks:
        """Return what is free once only this version and older ones have the blocks (M,)."""
        return self._replace(retired=(*self.retired, (weakref.ref(version), blocks)))

    def unlisted(self) -> np.ndarray:
        """Return the blocks (M,) int64 below n_used that the newest lists do not have."""
        return np.concatenate([self.free, *(blocks for _, blocks in self.retired)])
