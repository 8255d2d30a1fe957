"""Runs a job: one worker process a contestant, asked in turn, judged before its times count."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import gate
from .cases import Array, Job
from .contestants import Contestant, FlashKMeansMLX
from .memory import bound
from .process import WorkerError, WorkerProcess
from .timing import SETTLE, Times, repeats, usual_runs

_LONG = 5.0


@dataclass(frozen=True)
class Settings:
    """How jobs are run.

    Attributes:
        threads: Threads of every contestant.
        runs: Warm turns that are timed; None for the usual number.
        warmup: Turns between the cold one and those.
        seeding: Whether k-means++ is timed on every case, not only where it is quick.
    """

    threads: int
    runs: int | None = None
    warmup: int = 0
    seeding: bool = False


@dataclass
class Row:
    """One contestant in one job: what the table shows.

    Attributes:
        contestant: Who.
        kind: ``"lloyd"``, ``"seeding"``, ``"fit"`` or ``"knn"``.
        problem: Why there is no time: not installed, failed or wrong.
        verdicts: What the gate found, by the result's digest.
        inertias: Float64 inertia of each run.
    """

    contestant: Contestant
    kind: str
    problem: str = ""
    cold: float | None = None
    warm: list[float] = field(default_factory=list)
    verdicts: dict[str, gate.Verdict] = field(default_factory=dict)
    inertias: list[float] = field(default_factory=list)
    n_iter: int = 0
    passes: float = 0.0
    backend: str = ""
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The contestant's name, with the backend that ran."""
        name = f"{self.contestant.name} ({self.backend})" if self.backend else self.contestant.name
        return f"{name}, seeding" if self.kind == "seeding" else name

    @property
    def times(self) -> Times | None:
        """The times, if the result may show any."""
        return None if self.problem or not self.warm else Times(self.cold, tuple(self.warm))

    @property
    def inertia(self) -> float:
        """Mean float64 inertia of the runs; NaN if there is none."""
        return (
            float(np.mean(self.inertias))
            if self.inertias and not self.contestant.yardstick
            else float("nan")
        )

    @property
    def regret(self) -> float:
        """Largest label regret of any run."""
        return max((verdict.regret for verdict in self.verdicts.values()), default=0.0)


@dataclass
class Result:
    """All rows of a job, and our peak memory beyond the input in bytes with its bound."""

    job: Job
    rows: list[Row]
    memory: int | None = None
    bound: int = 0
    points_judged: int = 0

    def section(self, kind: str) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def base(self, kind: str) -> Row | None:
        """Our row, with which the others are compared; the first of several, None without a time of ours."""
        ours = [row for row in self.section(kind) if isinstance(row.contestant, FlashKMeansMLX)]
        return next((row for row in ours if row.times is not None), None)

    def standard(self, kind: str) -> Row | None:
        """The row whose inertia is the unit: scikit-learn's, or else the first one."""
        valid = [row for row in self.section(kind) if row.times is not None and row.inertias]
        named = [row for row in valid if row.contestant.name == "scikit-learn"]
        exact = [row for row in valid if row.contestant.same_start and not row.contestant.yardstick]
        return next(iter(named or exact), None)


def run(
    job: Job,
    contestants: Sequence[Contestant],
    settings: Settings,
    progress: Callable[[Result, str], None],
) -> Result:
    """Runs a job.

    Args:
        job: What to run.
        contestants: Who may take part.
        settings: Threads and numbers of runs.
        progress: Called after every turn with what is known and with what comes next.
    """
    case = job.case
    kinds = [job.kind]
    if job.kind == "lloyd" and (settings.seeding or "seeding" in case.tags):
        kinds.append("seeding")
    rows = [
        Row(c, kind, c.missing() or "")
        for kind in kinds
        for c in contestants
        if c.runs(kind, case.metric)
    ]
    result = Result(job, rows, bound=bound(case.B, case.N, case.D, case.K))
    progress(result, "making the data")
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="flash-kmeans-benchmark-"))
        )
        x = case.data()
        np.save(folder / "x.npy", x)
        start = case.ask() if job.kind == "knn" else case.start(x)
        np.save(folder / "start.npy", start)
        workers = {
            row.contestant: stack.enter_context(
                WorkerProcess(row.contestant, settings.threads, folder)
            )
            for row in rows
            if not row.problem
        }
        ours = next(
            (
                row
                for row in rows
                if isinstance(row.contestant, FlashKMeansMLX) and job.kind == "lloyd"
            ),
            None,
        )
        observer = ours and stack.enter_context(
            WorkerProcess(ours.contestant, settings.threads, folder)
        )
        turns = _Turns(result, x, start, workers, folder, settings, progress)
        turns.load()
        for kind in kinds:
            turns.take(kind)
        if observer is not None and ours is not None and not ours.problem:
            progress(result, "memory")
            turns.memory(ours.contestant, observer)
    progress(result, "")
    return result


class _Turns:
    """Asks the workers of a job in turn and judges what they return."""

    def __init__(
        self,
        result: Result,
        x: Array,
        start: Array,
        workers: dict[Contestant, WorkerProcess],
        folder: Path,
        settings: Settings,
        progress: Callable[[Result, str], None],
    ) -> None:
        self.result, self.x, self.start, self.workers, self.folder = (
            result,
            x,
            start,
            workers,
            folder,
        )
        self.settings, self.progress = settings, progress
        self.case = result.job.case

    def load(self) -> None:
        """Waits until every library is imported and the data are read."""
        self.progress(self.result, "starting the workers")
        for contestant, worker in list(self.workers.items()):
            try:
                worker.receive()
                self._load(worker)
            except WorkerError as error:
                self._drop(contestant, error)

    def take(self, kind: str) -> None:
        """The cold turn of every contestant, then the warm ones."""
        rows = [row for row in self.result.section(kind) if not row.problem]
        turn, last = 0, 0.0
        while turn <= self.settings.warmup + (self.settings.runs or usual_runs(last)):
            if kind != "lloyd" and turn > 1 + self.settings.warmup and last > _LONG:  # timed once
                break
            started = time.perf_counter()
            self._round(rows, turn)
            last = time.perf_counter() - started if turn else 0.0
            turn += 1
        self._compare(rows)

    def memory(self, contestant: Contestant, worker: WorkerProcess) -> None:
        """The peak memory of a contestant, in a process that has run nothing else."""
        try:
            worker.receive()
            self._load(worker)
            self.result.memory = int(worker.ask(op="memory")["bytes"])
        except WorkerError as error:
            self._drop(contestant, error)

    def _load(self, worker: WorkerProcess) -> None:
        case, folder = self.case, self.folder
        problem = {"iters": case.iters, "metric": case.metric, "dtype": case.dtype, "k": case.K}
        problem["queries"] = self.result.job.kind == "knn"
        worker.ask(op="load", x=str(folder / "x.npy"), start=str(folder / "start.npy"), **problem)

    def _round(self, rows: list[Row], turn: int) -> None:
        for row in rows:
            if not row.problem:
                self.progress(self.result, f"{row.name}, {f'turn {turn}' if turn else 'cold'}")
                self._turn(row, turn)

    def _turn(self, row: Row, turn: int) -> None:
        worker = self.workers[row.contestant]
        passes = None
        if row.contestant.yardstick:
            ours = self.result.base("lloyd")
            passes = round(ours.passes) if ours is not None and ours.passes else self.case.iters + 1
        known = row.warm or ([row.cold] if row.cold is not None else [])
        count = repeats(known[-1]) if known and turn else 1
        prefix = str(self.folder / f"{id(row)}")
        time.sleep(SETTLE)
        try:
            answer = worker.ask(op=row.kind, repeats=count, seed=turn, save=prefix, passes=passes)
        except WorkerError as error:
            self._drop(row.contestant, error)
            return
        row.n_iter, row.passes, row.backend = answer["n_iter"], answer["passes"], answer["backend"]
        row.engine = answer["engine"]
        self._judge(row, answer, prefix)
        if turn == 0:
            row.cold = answer["seconds"][0] if row.kind != "seeding" else None
        if turn > self.settings.warmup:
            row.warm += answer["seconds"]

    def _judge(self, row: Row, answer: dict[str, Any], prefix: str) -> None:
        if row.contestant.yardstick:
            return
        digest = answer["digest"]
        if digest not in row.verdicts:
            centroids = np.load(prefix + "-centroids.npy")
            if row.kind == "knn":
                labels = np.load(prefix + "-labels.npy")
                row.verdicts[digest] = gate.judge_neighbours(
                    self.x, self.start, labels, centroids, self.case.metric, self.case.K
                )
            elif row.kind == "seeding":
                row.verdicts[digest] = gate.judge_seeds(self.x, centroids)
            else:
                labels = np.load(prefix + "-labels.npy")
                metric, dtype = self.case.metric, self.case.dtype
                row.verdicts[digest] = gate.judge(
                    self.x, labels, centroids, answer["inertia"], metric, dtype
                )
        verdict = row.verdicts[digest]
        self.result.points_judged = max(
            self.result.points_judged, verdict.rows if row.kind != "seeding" else 0
        )
        row.inertias.append(verdict.inertia)
        if not verdict.ok:
            row.problem = f"wrong: {verdict.reason}"
        elif row.kind == "lloyd" and row.n_iter > self.case.iters:
            row.problem = f"wrong: {row.n_iter} iterations where {self.case.iters} were asked for"

    def _compare(self, rows: list[Row]) -> None:
        """The results of one start, or of the same seeding, may differ by little."""
        judged = [
            row for row in rows if not row.problem and row.inertias and row.contestant.same_start
        ]
        if not judged or judged[0].kind == "fit":
            return
        check = gate.compare_seeds if judged[0].kind == "seeding" else gate.compare
        best = min(row.inertia for row in judged)
        for row in judged:
            verdict = check(replace(next(iter(row.verdicts.values())), inertia=row.inertia), best)
            if not verdict.ok:
                row.problem = f"wrong: {verdict.reason}"

    def _drop(self, contestant: Contestant, error: WorkerError) -> None:
        for row in self.result.rows:
            if row.contestant == contestant and not row.problem:
                row.problem = f"failed: {error}"
