"""Inverted lists as the scanning kernels take them."""

from typing import NamedTuple

import numpy as np

BLOCK = 16  # rows, as in index/lists.py


class Lists(NamedTuple):
    """Rows of all lists in one pool of blocks, transposed; see index/lists.py.

    A row's slot is BLOCK times its block plus its place there.

    Attributes:
        payload: (blocks, width, BLOCK) rows.
        ids: (slots,) int64.
        owner: (blocks,) the list that a block belongs to.
        next: (blocks,) the block that follows in the list, or -1.
        first: (lists,) the first block.
        counts: (lists,) rows.
    """

    payload: np.ndarray
    ids: np.ndarray
    owner: np.ndarray
    next: np.ndarray
    first: np.ndarray
    counts: np.ndarray
