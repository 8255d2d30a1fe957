"""The suite ``growth``: how the time of k-means grows with N, K and D.

One quantity at a time doubles, the others stay in the middle of their ranges. The slope of time on
doubly logarithmic axes is 1 where time is proportional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from .. import figures, report
from ..cases import Array, Case, Job, embeddings, gauss
from ..ours import FlashKMeansMLX
from ..runner import Result, Row, Settings, Show, Suite, Workers
from ..timing import median
from ..worker import Work

SIZES = {"N": (12_500, 25_000, 50_000, 100_000), "K": (64, 128, 256, 512), "D": (64, 128, 256, 512)}
MIDDLE = {"N": 50_000, "K": 256, "D": 128}
STRUCTURES = {"no-structure": gauss, "low-rank": embeddings}
PHASES = {"k-means++": "seeding", "an iteration": "iteration"}
ITERS = 10


@dataclass(frozen=True)
class GrowthCase(Job):
    """Points of one structure, of which one quantity grows."""

    structure: str
    quantity: str

    @property
    def name(self) -> str:
        return f"{self.structure}-{self.quantity}"

    def description(self) -> str:
        sizes = ", ".join(f"{size:,}" for size in SIZES[self.quantity])
        others = (f"{name}={n:,}" for name, n in MIDDLE.items() if name != self.quantity)
        return f"{self.quantity} = {sizes}; {', '.join(others)}"

    def cases(self) -> list[Case]:
        """Return one case for each size."""
        shapes = [{**MIDDLE, self.quantity: size} for size in SIZES[self.quantity]]
        make = STRUCTURES[self.structure]
        return [Case(self.name, 1, s["N"], s["D"], s["K"], ITERS, make) for s in shapes]


@dataclass
class GrowthRow(Row):
    """One size, with the seconds of each run by phase."""

    size: int = 0
    spent: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PHASES.values()})


@dataclass
class GrowthResult(Result):
    """All sizes of a case."""

    job: GrowthCase
    rows: list[GrowthRow]

    def slope(self, phase: str) -> float | None:
        """Return the slope of a phase, if at least two sizes are timed."""
        timed = [row for row in self.rows if row.spent[phase] and not row.problem]
        times = [median(row.spent[phase]) for row in timed]
        return slope([row.size for row in timed], times) if len(timed) > 1 else None

    def cells(self, row: GrowthRow) -> dict[str, str]:
        timed = {name: [] if row.problem else row.spent[phase] for name, phase in PHASES.items()}
        named = {name: report.seconds(median(t)) if t else "" for name, t in timed.items()}
        return {self.job.quantity: f"{row.size:,}", **named}

    def notes(self) -> list[str]:
        slopes = {name: self.slope(phase) for name, phase in PHASES.items()}
        grows = ", ".join(
            f"{self.job.quantity}^{slope:.2f} in {name}" for name, slope in slopes.items() if slope
        )
        return [*([f"time grows as {grows}"] if grows else []), *super().notes()]

    def figures(self) -> dict[str, Any]:
        slopes = {phase: self.slope(phase) for phase in PHASES.values()}
        kind = {"structure": self.job.structure, "quantity": self.job.quantity}
        return {**kind, "middle": MIDDLE, "iters": ITERS, "slopes": slopes}


class GrowthWork(Work):
    """k-means in its worker process."""

    x: Array
    start: Array

    def load(self, x: str, start: str) -> None:
        """Load .npy files and run a small fit, which loads code and starts threads."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        self.x = np.load(x)
        self.start = np.load(start)
        batch_kmeans_Euclid(self.x[:5000], min(len(self.start), 100), 2, init="k-means++")

    def run(self, seed: int) -> dict[str, Any]:
        """Return the seconds of k-means++, and those of one of `ITERS` iterations from rows."""
        from flash_kmeans_mlx import batch_kmeans_Euclid

        k = len(self.start)
        result = batch_kmeans_Euclid(self.x, k, 0, init="k-means++", seed=seed)
        seeding = result.seconds["seeding"]
        begin = perf_counter()
        result = batch_kmeans_Euclid(self.x, k, ITERS, init_centroids=self.start)
        return {"seeding": seeding, "iteration": (perf_counter() - begin) / result.n_iter}


def run(job: GrowthCase, settings: Settings, show: Show) -> list[GrowthResult]:
    """Run a case, see `Suite`, one size after the other."""
    rows = [GrowthRow(FlashKMeansMLX(), size=size) for size in SIZES[job.quantity]]
    result = GrowthResult(job, rows)
    with Workers(GrowthWork, rows, settings.threads, partial(show, result)) as workers:
        for row, case in zip(rows, job.cases(), strict=True):
            x = case.data()
            workers.load({"x": x[0], "start": case.start(x)[0]})
            for seed in range(settings.runs or SUITE.usual_runs):
                answer = workers.ask(row, "run", f"{job.quantity}={row.size:,}", seed=seed)
                for phase, seconds in answer.items():
                    row.spent[phase].append(seconds)
    show(result, "")
    return [result]


def slope(sizes: Sequence[float], times: Sequence[float] | Array) -> float:
    """Return the slope of log time over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


SUITE = Suite(
    name="growth",
    question="How does the time of k-means grow with N, K and D?",
    legend=f"Medians of {{runs}} runs of k-means++, and of one of {ITERS} iterations from rows.\n",
    jobs=[GrowthCase(structure, quantity) for structure in STRUCTURES for quantity in SIZES],
    run=run,
    plot=figures.plot_growth,
    usual_runs=3,
)
