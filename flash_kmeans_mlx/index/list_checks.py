"""Checks of saved inverted lists, which may be damaged."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_blocks", "check_counts", "check_finite", "check_ids", "check_part"]


def check_counts(counts: np.ndarray, nlist: int, ids: np.ndarray) -> None:
    """Refuse counts that are not those of `nlist` lists of the ids."""
    counts_fit = counts.shape == (nlist,) and counts.dtype == np.int64
    if not counts_fit or counts.min() < 0 or counts.sum() != len(ids):
        raise ValueError(
            f"counts of shape {counts.shape} do not fit {nlist} lists of {ids.shape} ids"
        )


def check_blocks(
    counts: np.ndarray,
    payload: np.ndarray,
    ids: np.ndarray,
    nlist: int,
    like: np.ndarray,
    most: int,
) -> None:
    """Refuse arrays of other sizes than `nlist` lists of these counts have in blocks.

    Args:
        counts: Rows of each list.
        payload: Rows in blocks like those of `like`.
        ids: Ids in blocks.
        nlist: Number of lists.
        like: (0, width, block).
        most: Blocks that there may be.
    """
    n, block = len(ids), like.shape[2]
    if n > most or ids.shape != (n, block) or ids.dtype != np.int64:
        raise ValueError(
            f"ids of shape {ids.shape} and dtype {ids.dtype} must be up to {most} blocks of {block}"
        )
    counts_fit = counts.shape == (nlist,) and counts.dtype == np.int64
    # The sum can't overflow, as no list is larger than all ids.
    is_count = counts_fit and counts.min() >= 0 and counts.max() <= ids.size
    if not is_count or (-(-counts // block)).sum() != n:
        raise ValueError(f"counts of shape {counts.shape} do not fit {nlist} lists of {n} blocks")
    shape = (n, *like.shape[1:])
    if payload.shape != shape or payload.dtype != like.dtype:
        raise ValueError(
            f"payload of shape {payload.shape} and dtype {payload.dtype} must be"
            f" {shape} of {like.dtype}"
        )


def check_finite(rows: np.ndarray) -> None:
    """Refuse rows of floats that are not finite."""
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise ValueError("rows are not finite")


def check_ids(ids: np.ndarray) -> None:
    """Refuse ids (N,) that are not distinct integers >= 0."""
    ids_fit = ids.ndim == 1 and ids.dtype == np.int64
    # By sorting: `np.unique` hashes millions of ids ten times slower.
    if not ids_fit or (np.diff(np.sort(ids), prepend=-1) <= 0).any():
        raise ValueError("ids must be distinct and >= 0")


def check_part(
    labels: np.ndarray, rows: np.ndarray, ids: np.ndarray, nlist: int, width: int, dtype: Any
) -> None:
    """Refuse rows that are not (N, width) of a dtype, with N lists and distinct ids.

    Raises:
        ValueError: The message says what does not fit.
    """
    if rows.shape != (len(ids), width) or rows.dtype != dtype:
        raise ValueError(
            f"rows of shape {rows.shape} and dtype {rows.dtype} must be"
            f" {(len(ids), width)} of {dtype}"
        )
    check_finite(rows)
    check_ids(ids)
    labels_fit = labels.shape == ids.shape and labels.dtype == np.int64
    if not labels_fit or not ((labels >= 0) & (labels < nlist)).all():
        raise ValueError(f"labels must be {len(ids)} of {nlist} lists")
