"""Contestants that must not get a time."""
# pyright: reportMissingImports=false

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flash_kmeans_mlx.benchmark.contestants import Array, Contestant, Outcome
from flash_kmeans_mlx.benchmark.gate import inertia


def nearest_labels(x: Array, c: Array) -> Array:
    """The nearest of ``(K, D)`` centroids to each of ``(N, D)`` points, in float64."""
    return ((x[:, None].astype(np.float64) - c[None]) ** 2).sum(axis=2).argmin(axis=1)


@dataclass(frozen=True)
class Honest(Contestant):
    """Doesn't move the centroids, and says so."""

    name: ClassVar[str] = "honest"
    package: ClassVar[str] = "numpy"

    def prepare(self) -> None:
        """Nothing to import."""

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Labels of the start."""
        labels = np.stack([nearest_labels(points, c) for points, c in zip(x, start, strict=True)])
        total = sum(inertia(*problem) for problem in zip(x, labels, start, strict=True))
        return Outcome(labels, start, iters, total, iters)


@dataclass(frozen=True)
class OneWrongLabel(Honest):
    """Puts one point into another cluster."""

    name: ClassVar[str] = "one wrong label"

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Labels of the start, but for the first point."""
        outcome = super().lloyd(x, start, iters, metric)
        assert outcome.labels is not None
        labels = outcome.labels.copy()
        labels[0, 0] = (labels[0, 0] + 1) % start.shape[1]
        return Outcome(labels, start, iters, None)


@dataclass(frozen=True)
class Boaster(Honest):
    """Reports half the inertia it has."""

    name: ClassVar[str] = "boaster"

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """The right labels and a wrong number."""
        outcome = super().lloyd(x, start, iters, metric)
        assert outcome.inertia is not None
        return Outcome(outcome.labels, start, iters, outcome.inertia / 2)


@dataclass(frozen=True)
class Eager(Honest):
    """Runs one iteration more than it was asked for."""

    name: ClassVar[str] = "eager"

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """As asked, and once more."""
        return super().lloyd(x, start, iters + 1, metric)


@dataclass(frozen=True)
class Broken(Honest):
    """Fails at its first run."""

    name: ClassVar[str] = "broken"

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Raises."""
        raise RuntimeError("out of order")


@dataclass(frozen=True)
class Talkative(Honest):
    """Prints to standard output, where the replies go."""

    name: ClassVar[str] = "talkative"

    def lloyd(self, x: Any, start: Array, iters: int, metric: str) -> Outcome:
        """Prints, then does its work."""
        print("iteration 1 of many")
        return super().lloyd(x, start, iters, metric)


@dataclass(frozen=True)
class Absent(Honest):
    """Belongs to a package that nobody has."""

    name: ClassVar[str] = "absent"
    package: ClassVar[str] = "no-such-package-for-k-means"
