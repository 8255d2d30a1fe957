"""Times of runs, and numbers of runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Seconds before each run. OpenBLAS's threads keep a CPU busy for 0.1 s after a product.
SETTLE = 0.15
_SHORT = 0.05
_MAX_REPEATS = 20
_LONG = 4.0
RUNS = 3
_RUNS_IF_LONG = 2


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant's runs.

    Attributes:
        cold: The first call in its process, imports excluded. None where something else ran before.
        warm: All later calls.
    """

    cold: float | None
    warm: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """Return a quantile of the warm times."""
        return float(np.quantile(self.warm, q))

    @property
    def p50(self) -> float:
        """Median of the warm times."""
        return self.quantile(0.5)


def usual_runs(seconds: float) -> int:
    """Return the usual number of warm runs, where one run of all contestants takes ``seconds``."""
    return _RUNS_IF_LONG if seconds > _LONG else RUNS


def repeats(seconds: float) -> int:
    """Return how many calls of this length make one run long enough to be timed well."""
    return int(np.clip(_SHORT / max(seconds, 1e-9), 1, _MAX_REPEATS))


def median(values: list[float]) -> float:
    """Return the median of the values."""
    return float(np.median(values))
