"""Weights and costs as all backends treat them."""

from __future__ import annotations

import numpy as np

__all__ = ["most_costly", "unit_weights"]


def unit_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (B, N) scaled to at most 1 by powers of two, and those powers (B, 1).

    Products with them stay inside float32's range.
    """
    unit = np.exp2(np.ceil(np.log2(weights.max(1, keepdims=True)))).astype(np.float32)
    return weights / unit, unit


def most_costly(costs: np.ndarray, n: int) -> np.ndarray:
    """Return the indices of the n largest costs above -inf, in order; ties by index."""
    n = min(n, int((costs > -np.inf).sum()))
    if not n:
        return np.zeros(0, np.int64)
    candidates = np.flatnonzero(costs >= np.partition(costs, -n)[-n])
    return candidates[np.argsort(-costs[candidates], kind="stable")][:n]
