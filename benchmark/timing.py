"""Times of runs, and numbers of runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Seconds before each run. OpenBLAS's threads keep a CPU busy for 0.1 s after a product.
SETTLE = 0.15
_SHORT = 0.05
_MAX_REPEATS = 20
_LONG = 4.0
RUNS = 3
_RUNS_IF_LONG = 2


def usual_runs(seconds: float) -> int:
    """Return the usual number of warm runs, where one run of all contestants takes ``seconds``."""
    return _RUNS_IF_LONG if seconds > _LONG else RUNS


def repeats(seconds: float) -> int:
    """Return how many calls of this length make one run long enough to be timed well."""
    return int(np.clip(_SHORT / max(seconds, 1e-9), 1, _MAX_REPEATS))


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile of the values."""
    return float(np.quantile(values, q))


def median(values: Sequence[float]) -> float:
    """Return the median of the values."""
    return quantile(values, 0.5)
