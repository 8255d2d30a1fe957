"""Checks of saved inverted lists, which may be damaged."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_counts", "check_part"]


def check_counts(counts: np.ndarray, nlist: int, ids: np.ndarray) -> None:
    """Refuse counts that are not those of `nlist` lists of the ids."""
    counts_fit = counts.shape == (nlist,) and counts.dtype == np.int64
    if not counts_fit or counts.min() < 0 or counts.sum() != len(ids):
        raise ValueError(
            f"counts of shape {counts.shape} do not fit {nlist} lists of {ids.shape} ids"
        )


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
    if dtype.kind == "f" and not np.isfinite(rows).all():
        raise ValueError("rows are not finite")
    ids_fit = ids.ndim == 1 and ids.dtype == np.int64
    if not ids_fit or len(np.unique(ids)) < len(ids) or ids.min(initial=0) < 0:
        raise ValueError("ids must be distinct and >= 0")
    labels_fit = labels.shape == ids.shape and labels.dtype == np.int64
    if not labels_fit or not ((labels >= 0) & (labels < nlist)).all():
        raise ValueError(f"labels must be {len(ids)} of {nlist} lists")
