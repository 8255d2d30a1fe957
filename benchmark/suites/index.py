"""The suite ``index``: training, adding, searching and memory of vector indexes, beside faiss's.

Recall is the share of the 10 nearest vectors, found by exact search, that are among the 10 found.
Errors are mean squared distances, relative to the variance of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from .. import figures, report
from ..cases import INDEXES, Array, IndexCase
from ..contestants import Contestant
from ..ours import FlashKMeansMLX
from ..peers import Faiss, FaissTrainedByUs
from ..report import seconds
from ..runner import Result, Row, Settings, Show, Suite, Workers
from ..timing import median, repeats
from . import index_batches, index_kinds
from .index_work import RECALL_GAP, IndexWork, K, recall

# Of equally near vectors either may be found.
EXACT_RECALL = 1 - 1e-3


CONTESTANTS: tuple[Contestant, ...] = (FlashKMeansMLX(), Faiss(), FaissTrainedByUs())


@dataclass
class IndexRow(Row):
    """One contestant's index. Seconds are those of the warm runs.

    Attributes:
        train: Seconds of training.
        add: Seconds of adding all vectors.
        searches: Seconds of a batch of queries, by nprobe.
        recalls: Recall, by nprobe.
        batches: Queries a second in smaller batches, by nprobe, then by the size of a batch.
        coarse: Error of the lists' centroids.
        kept: Error of the vectors as the index stores them.
        memory: Bytes of the index.
    """

    train: list[float] = field(default_factory=list)
    add: list[float] = field(default_factory=list)
    searches: dict[int, list[float]] = field(default_factory=dict)
    recalls: dict[int, float] = field(default_factory=dict)
    batches: dict[int, dict[int, float]] = field(default_factory=dict)
    coarse: float | None = None
    kept: float | None = None
    memory: int | None = None


@dataclass
class IndexResult(Result):
    """All rows of one kind of index; n vectors are in the index."""

    job: IndexCase
    rows: list[IndexRow]
    factory: str
    n: int

    def valid(self, contestant: type[Contestant]) -> IndexRow | None:
        """Return the contestant's row, if it has figures."""
        rows = [row for row in self.rows if type(row.contestant) is contestant and not row.problem]
        return next(iter(rows), None)

    def title(self) -> str:
        shape = f"{self.n:,} x {self.job.points.D}"
        queries = f"{self.job.points.queries:,} queries in a batch, k={K}"
        return f"{self.job.name}: {self.factory}, {shape}, {queries}"

    def table(self, width: int) -> RenderableType:
        ours = self.valid(FlashKMeansMLX)
        searches = [self._searching(nprobe) for nprobe in (ours.searches if ours else ())]
        name = "ef" if self.factory.startswith("HNSW") else "nprobe"
        batches = index_batches.cells(ours, self.valid(Faiss), name)
        tables = [report.table("", lines, (), width) for lines in (searches, batches)]
        return Group(super().table(width), *tables)

    def cells(self, row: IndexRow) -> dict[str, str]:
        if row.problem or not row.train or not row.add:
            return {"contestant": row.name}
        ours = self.valid(FlashKMeansMLX)
        relative = median(row.train) / median(ours.train) if ours and ours.train else None
        return {
            "contestant": row.name,
            "train": seconds(median(row.train)),
            "x ours": f"{relative:.2f}" if relative else "",
            "add/s": f"{self.n / median(row.add):,.0f}",
            "memory": f"{row.memory / 1e6:.1f} MB" if row.memory is not None else "",
            "error of centroids": f"{row.coarse:.4f}" if row.coarse is not None else "",
            "of vectors": f"{row.kept:.4f}" if row.kept is not None else "",
        }

    def _searching(self, nprobe: int) -> dict[str, str]:
        recalls = {
            f"{row.name}: recall": f"{row.recalls[nprobe]:.3f}"
            for row in self.rows
            if nprobe in row.recalls
        }
        ours, theirs = (
            self.job.points.queries / median(row.searches[nprobe])
            if row and nprobe in row.searches
            else None
            for row in (self.valid(FlashKMeansMLX), self.valid(Faiss))
        )
        return {
            "ef" if self.factory.startswith("HNSW") else "nprobe": str(nprobe or ""),
            **recalls,
            "queries/s, ours": f"{ours:,.0f}" if ours else "",
            "faiss": f"{theirs:,.0f}" if theirs else "",
            "ours / faiss": f"{ours / theirs:.2f}" if ours and theirs else "",
        }

    def figures(self) -> dict[str, Any]:
        return {
            "index": self.factory,
            "n": self.n,
            "d": self.job.points.D,
            "nlist": self.job.nlist,
            "m": self.job.m,
            "queries": self.job.points.queries,
            "k": K,
        }


def run(job: IndexCase, settings: Settings, show: Show) -> list[Result]:
    """Run a case; there is one result for each kind of index, and one of many kinds of codes."""
    from flash_kmeans_mlx import knn

    x = job.points.data()[0]
    queries = job.points.query_points()[0]
    truth = knn(queries, x, K)[1]
    runs = settings.runs or SUITE.usual_runs
    results: list[Result] = []
    for factory in job.factories:
        graph = factory.startswith("HNSW")  # which has no training of ours
        contestants = [c for c in CONTESTANTS if not (graph and isinstance(c, FaissTrainedByUs))]
        rows = [IndexRow(contestant, contestant.missing() or "") for contestant in contestants]
        result = IndexResult(job, rows, factory, len(x))
        with Workers(IndexWork, rows, settings.threads, partial(show, result)) as workers:
            workers.load({"x": x, "queries": queries}, factory=factory)
            _build(result, workers, runs)
            _describe(result, workers, x)
            _search(result, workers, truth, runs)
            _search_in_batches(result, workers)
        judge(result)
        show(result, "")
        results.append(result)
    if job.kinds:
        results.append(index_kinds.run(job, settings, show, x, queries, truth))
    return results


def _build(result: IndexResult, workers: Workers, runs: int) -> None:
    """Train and add, a cold run first."""
    for run in range(runs + 1):
        for op in ("train", "add"):
            for row in result.rows:
                answer = workers.ask(row, op, f"{op}, run {run}" if run else f"{op}, cold")
                if run and answer:
                    getattr(row, op).append(answer["seconds"])


def _describe(result: IndexResult, workers: Workers, x: Array) -> None:
    """Measure memory and errors of quantization."""
    from flash_kmeans_mlx import knn

    variance = float(np.var(x, axis=0, dtype=np.float64).sum())
    prefix = str(workers.folder / "described")
    for row in result.rows:
        row.memory = workers.ask(row, "memory", alone=True).get("bytes")
        workers.ask(row, "describe", "errors", save=prefix)
        if row.problem:
            continue
        kept = np.load(prefix + "-kept.npy")
        difference = kept.astype(np.float64) - x[: len(kept)]
        row.kept = float(np.square(difference).sum(1).mean()) / variance
        if result.factory.startswith("IVF"):
            squared, _ = knn(x, np.load(prefix + "-centroids.npy"), 1)
            row.coarse = float(squared.mean(dtype=np.float64)) / variance


def _search(result: IndexResult, workers: Workers, truth: Array, runs: int) -> None:
    """Search all queries in one batch for every nprobe, short searches several times a run."""
    path = str(workers.folder / "ids")
    for nprobe in result.job.nprobes(result.factory):
        doing = f"searching, {nprobe}" if nprobe else "searching"
        counts: dict[str, int] = {}
        for run in range(runs + 1):
            for row in result.rows:
                count = counts.get(row.name, 1)
                answer = workers.ask(row, "search", doing, nprobe=nprobe, repeats=count, save=path)
                if not answer:
                    continue
                counts[row.name] = repeats(answer["seconds"][-1])
                if run:
                    row.searches.setdefault(nprobe, []).extend(answer["seconds"])
                else:
                    row.recalls[nprobe] = recall(np.load(path + ".npy"), truth)


def _search_in_batches(result: IndexResult, workers: Workers) -> None:
    """Search in smaller batches, by libraries that search in different ways."""
    job = result.job
    rows = [row for row in result.rows if not isinstance(row.contestant, FaissTrainedByUs)]
    nprobes = index_batches.chosen(result.factory, job.nprobes(result.factory))
    n_queries = job.points.queries
    index_batches.measure(workers, rows, nprobes, n_queries)
    for row in rows:
        for nprobe in nprobes:
            if nprobe in row.searches:
                rate = n_queries / median(row.searches[nprobe])
                row.batches.setdefault(nprobe, {})[n_queries] = rate


def judge(result: IndexResult) -> None:
    """Give no figures to an index that finds less than it must."""
    theirs = result.valid(Faiss)
    for row in result.rows:
        for nprobe, found in row.recalls.items():
            least = theirs.recalls[nprobe] - RECALL_GAP if theirs else 0.0
            if result.factory.endswith("Flat") and nprobe == result.job.nlist:
                least = EXACT_RECALL
            if found < least and not row.problem:
                shortfall = f"recall {found:.3f} with nprobe={nprobe} must be >= {least:.3f}"
                row.problem = f"wrong: {shortfall}"


SUITE = Suite(
    name="index",
    question="How fast and how exact are vector indexes, beside faiss's?",
    legend="""\
Medians of {runs} runs after a cold one.
recall  the share of the 10 nearest vectors that are among the 10 found
ef      candidates that a search of a graph keeps
error   mean squared distance to centroids, and to the stored vectors, over the variance
memory  by how much the process grew
bytes a vector  what its code takes by definition, without its id of 8 bytes
""",
    jobs=INDEXES,
    run=run,
    plot=figures.plot_indexes,
)
