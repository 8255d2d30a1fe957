"""The suite ``growth``: how the time of k-means grows with N, K and D.

One quantity at a time doubles, the others stay in the middle of their ranges. The slope of time on
doubly logarithmic axes is 1 where time is proportional.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from rich.console import RenderableType

from .. import figures, report
from ..cases import Array, Case, Job, embeddings, gauss
from ..ours import FlashKMeansMLX
from ..runner import Row, Settings, Suite, Workers
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
        others = ", ".join(
            f"{name}={size:,}" for name, size in MIDDLE.items() if name != self.quantity
        )
        return f"{self.quantity} = {sizes}; {others}"

    def cases(self) -> list[Case]:
        """Return one case for each size."""
        shapes = [{**MIDDLE, self.quantity: size} for size in SIZES[self.quantity]]
        make = STRUCTURES[self.structure]
        return [Case(self.name, 1, s["N"], s["D"], s["K"], ITERS, make) for s in shapes]


@dataclass
class GrowthRow(Row):
    """One size, with the seconds of each run by phase."""

    size: int = 0
    spent: dict[str, list[float]] = field(
        default_factory=lambda: {phase: [] for phase in PHASES.values()}
    )


@dataclass
class GrowthResult:
    """All sizes of a case."""

    case: GrowthCase
    rows: list[GrowthRow]

    def slope(self, phase: str) -> float | None:
        """Return the slope of a phase, if at least two sizes are timed."""
        timed = [(row.size, median(row.spent[phase])) for row in self.rows if row.spent[phase]]
        return slope(*zip(*timed, strict=True)) if len(timed) > 1 else None

    def table(self, width: int) -> RenderableType:
        del width
        quantity = self.case.quantity
        cells = []
        for row in self.rows:
            times = {name: median(spent) for name, spent in row.spent.items() if spent}
            named = {name: report.seconds(times.get(phase)) for name, phase in PHASES.items()}
            cells.append({quantity: f"{row.size:,}", **named})
        slopes = {name: self.slope(phase) for name, phase in PHASES.items()}
        grows = [f"{quantity}^{slope:.2f} in {name}" for name, slope in slopes.items() if slope]
        notes = [f"time grows as {', '.join(grows)}"] if grows else []
        problems = dict.fromkeys(row.problem for row in self.rows if row.problem)
        title = f"{self.case.name}: {self.case.description()}"
        return report.table(title, cells, [*notes, *problems])

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "structure": self.case.structure,
            "quantity": self.case.quantity,
            "middle": MIDDLE,
            "iters": ITERS,
            "slopes": {phase: self.slope(phase) for phase in PHASES.values()},
            "rows": [row.as_json() for row in self.rows],
        }


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


class GrowthSuite(Suite[GrowthCase, GrowthResult]):
    """Growth of time with N, K and D."""

    name: ClassVar[str] = "growth"
    question: ClassVar[str] = "How does the time of k-means grow with N, K and D?"
    legend: ClassVar[str] = (
        f"Medians of {{runs}} runs of k-means++, and of one of {ITERS} iterations from rows.\n"
    )
    plot = staticmethod(figures.plot_growth)
    usual_runs: ClassVar[int] = 3

    def jobs(self) -> Sequence[GrowthCase]:
        return [GrowthCase(structure, quantity) for structure in STRUCTURES for quantity in SIZES]

    def run(
        self, job: GrowthCase, settings: Settings, show: Callable[[GrowthResult, str], None]
    ) -> list[GrowthResult]:
        ours = FlashKMeansMLX()
        rows = [GrowthRow(ours, size=size) for size in SIZES[job.quantity]]
        result = GrowthResult(job, rows)
        with Workers(GrowthWork, rows, settings.threads, partial(show, result)) as workers:
            for row, case in zip(rows, job.cases(), strict=True):
                x = case.data()
                workers.load({"x": x[0], "start": case.start(x)[0]})
                for run in range(settings.runs or self.usual_runs):
                    answer = workers.ask(row, "run", f"{job.quantity}={row.size:,}", seed=run)
                    for phase, spent in answer.items():
                        row.spent[phase].append(spent)
        show(result, "")
        return [result]


def slope(sizes: Sequence[float], times: Sequence[float] | Array) -> float:
    """Return the slope of log time over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
