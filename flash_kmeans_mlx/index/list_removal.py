"""Removals from inverted lists: which blocks a list keeps, and which rows move where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["Removal", "planned"]


class Removal(NamedTuple):
    """The change of some lists (L,).

    Attributes:
        counts: (L,) int64, rows that are left.
        chain: (M,) int64, the blocks that they keep, those of one list after another.
        lengths: (L,) int64, how many of them each list keeps.
        changed: (C,) int64, places in `chain` of the blocks that change.
        holes: (R,) int64, places to fill, counted along the blocks of `chain`.
        movers: (R,) int64, slots of the rows that fill them.
        dropped: (K,) int64, the blocks that no list keeps.
    """

    counts: np.ndarray
    chain: np.ndarray
    lengths: np.ndarray
    changed: np.ndarray
    holes: np.ndarray
    movers: np.ndarray
    dropped: np.ndarray


def planned(slots: np.ndarray, lists: Iterable[np.ndarray], n_blocks: int, block: int) -> Removal:
    """Return the change of lists: their last rows move to the places of removed ones.

    Args:
        slots: (S,) int64, those to remove.
        lists: All slots (n,) int64 of each list that has some of them, block by block.
        n_blocks: Blocks of all lists.
        block: Slots of a block.
    """
    is_removed = np.zeros(n_blocks * block, bool)
    is_removed[slots] = True
    counts, lengths = [], []
    chains, stale, holes, movers, dropped = [], [], [], [], []
    start = 0
    for list_slots in lists:
        blocks = list_slots[::block] // block
        removed = is_removed[list_slots]
        n_left = len(list_slots) - np.count_nonzero(removed)
        keep = -(-n_left // block)
        hole = np.flatnonzero(removed[:n_left])
        changed = np.zeros(keep, bool)
        changed[hole // block] = True
        changed[n_left // block :] = True  # the last block, if it has room for rows to come
        chains.append(blocks[:keep])
        stale.append(changed)
        holes.append(start * block + hole)
        movers.append(list_slots[n_left:][~removed[n_left:]])
        dropped.append(blocks[keep:])
        counts.append(n_left)
        lengths.append(keep)
        start += keep
    return Removal(
        counts=np.array(counts),
        chain=np.concatenate(chains),
        lengths=np.array(lengths),
        changed=np.flatnonzero(np.concatenate(stale)),
        holes=np.concatenate(holes),
        movers=np.concatenate(movers),
        dropped=np.concatenate(dropped),
    )
