"""Inverted lists as files hold them: in blocks, those of one list after those of another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Links", "links_of", "rows_in_blocks", "without_old_rows"]


class Links(NamedTuple):
    """Which blocks belong to which list; see `lists.InvertedLists`.

    Attributes:
        owner: (blocks,) int32.
        next: (blocks,) int32.
        first: (nlist,) int32.
        last: (nlist,) int32.
    """

    owner: np.ndarray
    next: np.ndarray
    first: np.ndarray
    last: np.ndarray


def links_of(counts: np.ndarray, block: int) -> Links:
    """Return the links of lists of counts (nlist,) rows, whose blocks lie one after another.

    Nothing in a file says where a block belongs, so that no damage leads a scan out of the blocks.
    """
    n_blocks = -(-counts // block)
    ends = np.cumsum(n_blocks)
    has_blocks = n_blocks > 0
    first = np.where(has_blocks, ends - n_blocks, -1).astype(np.int32)
    last = np.where(has_blocks, ends - 1, -1).astype(np.int32)
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), n_blocks)
    following = np.arange(1, len(owner) + 1, dtype=np.int32)
    following[last[has_blocks]] = -1
    return Links(owner, following, first, last)


def rows_in_blocks(counts: np.ndarray, block: int) -> np.ndarray:
    """Return (blocks, block) bool, where there is a row in blocks that lie one after another."""
    n_blocks = -(-counts // block)
    has_row = np.ones((int(n_blocks.sum()), block), bool)
    has_blocks = n_blocks > 0
    n_in_last = (counts[has_blocks, None] - 1) % block + 1
    has_row[np.cumsum(n_blocks)[has_blocks] - 1] = np.arange(block) < n_in_last
    return has_row


def without_old_rows(
    counts: np.ndarray, payload: np.ndarray, ids: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the state of lists, with zeros where there is no row: removed ones stay in no file.

    Args:
        counts: (nlist,) int64, the rows of each list.
        payload: (blocks, width, block), list after list; changed in place.
        ids: (blocks, block) int64, the same.
    """
    empty, lane = np.nonzero(~rows_in_blocks(counts, ids.shape[1]))
    payload[empty, :, lane] = 0
    ids[empty, lane] = 0
    return {"counts": counts, "payload": payload, "ids": ids}
