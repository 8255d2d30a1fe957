"""Jobs of the suites kmeans and neighbours: timed runs whose results the gate judges."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from .. import gate
from ..cases import KMeansJob
from ..contestants import Array, Contestant, Outcome
from ..memory import Peak, bound
from ..ours import FlashKMeansDefaults, FlashKMeansMLX, FlashKMeansSklearn
from ..peers import Faiss, Matmul, PyKDTree, ScikitLearn, ScikitLearnIntelex, SuperKMeans
from ..runner import Settings, Show, Workers
from ..timing import repeats, usual_runs
from ..worker import Work
from .judged_rows import JudgedResult, JudgedRow

# Jobs other than Lloyd's iterations are timed once if a run of all contestants takes longer.
_TIMED_ONCE = 5.0
_SMALL_N = 4096
_SMALL_K = 8


class JudgedWork(Work):
    """Runs of one contestant in its worker process."""

    def load(self, x: str, start: str, queries: bool, **case: Any) -> None:
        """Load .npy files; ``queries`` says that those of a search take the place of a start."""
        self.points = np.load(x)
        self.start: Any = np.load(start)
        if queries:
            self.start = self.contestant.convert(self.start, case["dtype"])
        self.x = self.contestant.convert(self.points, case["dtype"])
        self.case = case

    def run(
        self, kind: str, repeats: int, seed: int, save: str, iters: int | None = None
    ) -> dict[str, Any]:
        """Run it several times, save what the last call returned, and return seconds and numbers.

        ``save`` is the prefix of the files; ``iters`` takes the place of the case's own.
        """
        k = self.case["K"]
        metric = self.case["metric"]
        arguments = {
            "lloyd": (self.x, self.start, iters or self.case["iters"], metric),
            "seeding": (self.x, k, seed),
            "fit": (self.x, k, seed),
            "knn": (self.x, self.start, k, metric),
        }[kind]
        call: Callable[..., Outcome] = getattr(self.contestant, kind)
        seconds: list[float] = []
        outcome = None
        for _ in range(repeats):
            del outcome  # its memory is free again before the next call
            begin = perf_counter()
            outcome = call(*arguments)
            seconds.append(perf_counter() - begin)
        assert outcome is not None
        digest = hashlib.sha1(np.ascontiguousarray(outcome.centroids).data)
        np.save(save + "-centroids.npy", outcome.centroids)
        if outcome.labels is not None:
            digest.update(np.ascontiguousarray(outcome.labels).data)
            np.save(save + "-labels.npy", outcome.labels)
        names = ("n_iter", "passes", "inertia", "backend", "engine")
        numbers = {name: getattr(outcome, name) for name in names}
        return {"seconds": seconds, "digest": digest.hexdigest(), **numbers}

    def memory(self) -> dict[str, Any]:
        """Return the peak memory of Lloyd iterations, in bytes.

        A small run comes first. It loads code and starts threads, which no later run pays for.
        """
        few = np.ascontiguousarray(self.points[:1, :_SMALL_N])
        few = self.contestant.convert(few, self.case["dtype"])
        metric = self.case["metric"]
        self.contestant.lloyd(few, self.start[:1, :_SMALL_K], 2, metric)
        peak = Peak()
        self.contestant.lloyd(self.x, self.start, self.case["iters"], metric)
        return {"bytes": peak.beyond()}

    def peaks(self, threads: int) -> dict[str, Any]:
        """Return the peak rates of the CPU."""
        from ..peaks import measure

        return measure(threads)


def contestants(settings: Settings) -> list[Contestant]:
    """Return everyone who may take part in k-means and in searches, ours first."""
    ours = [FlashKMeansMLX(backend) for backend in settings.backends]
    sklearn = [ScikitLearn(), ScikitLearnIntelex()] if settings.sklearn else []
    others = [Faiss(), SuperKMeans(settings.threads), PyKDTree(), Matmul()]
    return [*ours, FlashKMeansDefaults(), FlashKMeansSklearn(), *sklearn, *others]


def run(job: KMeansJob, settings: Settings, show: Show) -> list[JudgedResult]:
    """Run a job, see `Suite`."""
    case = job.case
    kinds = [job.kind]
    if job.kind == "lloyd" and (settings.seeding or "seeding" in case.tags):
        kinds.append("seeding")
    rows = [
        JudgedRow(contestant, contestant.missing() or "", kind)
        for kind in kinds
        for contestant in contestants(settings)
        if contestant.runs(kind, case.metric)
    ]
    result = JudgedResult(job, rows, bound=bound(case.B, case.N, case.D, case.K))
    with Workers(JudgedWork, rows, settings.threads, partial(show, result)) as workers:
        workers.show("making the data")
        x = case.data()
        case = case.sized_like(x)
        result.take_sizes(case)
        start = case.query_points() if job.kind == "knn" else case.start(x)
        options = {name: getattr(case, name) for name in ("K", "iters", "metric", "dtype")}
        workers.load({"x": x, "start": start}, queries=job.kind == "knn", **options)
        runs = _Runs(result, x, start, workers, settings)
        for kind in kinds:
            runs.take(kind)
        ours = next((row for row in rows if row.ours), None)
        on_cpu = next((row for row in rows if row.ours and row.backend == "cpu"), None)
        if on_cpu is not None and job.kind != "knn":
            result.peaks = workers.ask(on_cpu, "peaks", threads=settings.threads)
        if ours is not None and job.kind == "lloyd":
            result.memory = workers.ask(ours, "memory", alone=True).get("bytes")
    show(result, "")
    return [result]


class _Runs:
    """The runs of a job: the workers are asked in turn, and their results are judged."""

    def __init__(
        self, result: JudgedResult, x: Array, start: Array, workers: Workers, settings: Settings
    ) -> None:
        self.result = result
        self.x = x
        self.start = start
        self.workers = workers
        self.settings = settings
        self.case = result.job.case

    def take(self, kind: str) -> None:
        """Take the cold run of every contestant, then the warm ones."""
        rows = [row for row in self.result.section(kind) if not row.problem]
        warmup = self.settings.warmup
        run = 0
        last = 0.0
        while run <= warmup + (self.settings.runs or usual_runs(last)):
            if kind != "lloyd" and run > 1 + warmup and last > _TIMED_ONCE:
                break
            started = time.perf_counter()
            for row in rows:
                self._run(row, run)
            last = time.perf_counter() - started if run else 0.0
            run += 1
        self._compare(rows)

    def _run(self, row: JudgedRow, run: int) -> None:
        iters = None
        if row.contestant.yardstick:
            ours = self.result.base("lloyd")
            iters = round(ours.passes) if ours is not None and ours.passes else self.case.iters + 1
        known = row.warm or ([row.cold] if row.cold is not None else [])
        answer = self.workers.ask(
            row,
            "run",
            f"run {run}" if run else "cold",
            kind=row.kind,
            repeats=repeats(known[-1]) if known and run else 1,
            seed=run,
            save=str(self.workers.folder / f"{id(row)}"),
            iters=iters,
        )
        if not answer:
            return
        row.n_iter = answer["n_iter"]
        row.passes = answer["passes"]
        row.backend = answer["backend"]
        row.engine = answer["engine"]
        if not row.contestant.yardstick:
            self._judge(row, answer)
        if run == 0:
            row.cold = answer["seconds"][0] if row.kind != "seeding" else None
        if run > self.settings.warmup:
            row.warm += answer["seconds"]
            if row.engine and row.kind != "seeding":
                spent = row.engine["seconds"]
                seconds = spent["assignment"] + spent["update"]
                row.rates.append(self.result.products(row) / seconds)

    def _judge(self, row: JudgedRow, answer: dict[str, Any]) -> None:
        digest = answer["digest"]
        if digest not in row.verdicts:
            row.verdicts[digest] = self._verdict(row, answer["inertia"])
        verdict = row.verdicts[digest]
        if row.kind != "seeding":
            self.result.rows_judged = max(self.result.rows_judged, verdict.rows)
        row.inertias.append(verdict.inertia)
        if not verdict.ok:
            row.problem = f"wrong: {verdict.reason}"
        elif row.kind == "lloyd" and row.n_iter > self.case.iters:
            row.problem = f"wrong: {row.n_iter} iterations where {self.case.iters} were asked for"

    def _verdict(self, row: JudgedRow, inertia: float | None) -> gate.Verdict:
        case = self.case
        prefix = self.workers.folder / f"{id(row)}"
        centroids = np.load(f"{prefix}-centroids.npy")
        if row.kind == "seeding":
            return gate.judge_seeds(self.x, centroids)
        labels = np.load(f"{prefix}-labels.npy")
        if row.kind == "knn":
            return gate.judge_neighbours(self.x, self.start, labels, centroids, case.metric, case.K)
        return gate.judge(self.x, labels, centroids, inertia, case.metric, case.dtype)

    def _compare(self, rows: list[JudgedRow]) -> None:
        """Compare the inertias from one start, or of one seeding, which may differ by little."""
        judged = [
            row for row in rows if not row.problem and row.inertias and row.contestant.same_start
        ]
        if not judged or judged[0].kind == "fit":
            return
        limit = gate.SEEDING_LIMIT if judged[0].kind == "seeding" else gate.INERTIA_LIMIT
        inertias = [float(np.mean(row.inertias)) for row in judged]
        for row, inertia in zip(judged, inertias, strict=True):
            first = next(iter(row.verdicts.values()))
            verdict = gate.compare(replace(first, inertia=inertia), min(inertias), limit)
            if not verdict.ok:
                row.problem = f"wrong: {verdict.reason}"
