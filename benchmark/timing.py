"""Times: what is kept of them, and how often a run is repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SETTLE = 0.15  # seconds before each turn: OpenBLAS's threads spin for a tenth of one after a product, on somebody's CPU
_SHORT = 0.05
_MOST_REPEATS = 20
_LONG_TURN = 4.0
_RUNS = 3
_RUNS_IF_LONG = 2
USUAL_RUNS = f"{_RUNS} further turns ({_RUNS_IF_LONG} where all contestants together take over {_LONG_TURN:.0f} s a turn)"


@dataclass(frozen=True)
class Times:
    """The seconds of one contestant's runs.

    Attributes:
        cold: The first call in its process, imports excluded; None where something else ran before.
        warm: All later ones.
    """

    cold: float | None
    warm: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """A quantile of the warm times."""
        return float(np.quantile(self.warm, q))

    @property
    def p50(self) -> float:
        """The median of the warm times."""
        return self.quantile(0.5)


def usual_runs(seconds: float) -> int:
    """How many warm turns are timed unless told, where one of all contestants takes this long."""
    return _RUNS_IF_LONG if seconds > _LONG_TURN else _RUNS


def repeats(seconds: float) -> int:
    """How often a run that takes this long is repeated in one turn, so that a turn is long enough to be timed well."""
    return int(np.clip(_SHORT / max(seconds, 1e-9), 1, _MOST_REPEATS))
