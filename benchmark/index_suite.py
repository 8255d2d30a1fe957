"""The suite ``index``: training, adding, searching and memory of vector indexes, ours beside faiss's, turn by turn.

Every contestant has a process of its own. Recall is the share of the 10 nearest vectors, found by exact search, that are among
the 10 found; errors are mean squared distances, relative to the variance of the vectors.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from .cases import Array
from .indexes import CASES, CONTESTANTS, IndexCase, IndexContestant, K, Ours
from .process import WorkerError, WorkerProcess
from .report import seconds
from .timing import SETTLE, repeats

RUNS = 5
RECALL_GAP = 0.01  # below faiss's, from which ours is wrong; another start moves it by up to 0.006


@dataclass
class Entry:
    """What is known of one contestant's index; seconds are lists of warm turns.

    Attributes:
        searches: By nprobe, the seconds of a batch of queries.
        recalls: By nprobe.
        coarse, kept: Errors of quantization: of the centroids, and of the vectors as the index keeps them.
        memory: Bytes of the index.
        problem: Why there are no figures.
    """

    contestant: str
    train: list[float] = field(default_factory=list)
    add: list[float] = field(default_factory=list)
    searches: dict[int, list[float]] = field(default_factory=dict)
    recalls: dict[int, float] = field(default_factory=dict)
    coarse: float | None = None
    kept: float | None = None
    memory: int | None = None
    problem: str = ""


@dataclass
class IndexResult:
    """All entries of one kind of index on one case."""

    case: IndexCase
    factory: str
    n: int
    entries: list[Entry]

    def ours(self) -> Entry | None:
        """Our entry, if it has figures."""
        return next((e for e in self.entries if e.contestant == Ours.name and not e.problem), None)


def select(names: str | None) -> list[IndexCase]:
    """The cases of these names, separated by commas; all of them for None.

    Raises:
        ValueError: A name is unknown.
    """
    known = {case.name: case for case in CASES}
    chosen = list(known) if names is None else names.split(",")
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"unknown case {name!r} of the index suite; known are {', '.join(known)}"
            )
    return [known[name] for name in chosen]


def run(
    case: IndexCase, threads: int, runs: int, progress: Callable[[IndexResult, str], None]
) -> list[IndexResult]:
    """Run a case; one result for each kind of index."""
    results = []
    x, queries = case.data()
    truth = _exact(x, queries)
    with tempfile.TemporaryDirectory(prefix="flash-kmeans-benchmark-") as name:
        folder = Path(name)
        np.save(folder / "x.npy", x)
        np.save(folder / "queries.npy", queries)
        for factory in case.factories:
            entries = [Entry(c.name, problem=c.missing() or "") for c in CONTESTANTS]
            result = IndexResult(case, factory, len(x), entries)
            with ExitStack() as stack:
                turns = _Turns(result, x, truth, threads, folder, stack, progress)
                turns.build(runs)
                turns.describe()
                turns.search(runs)
            judge(result)
            progress(result, "")
            results.append(result)
    return results


def _exact(x: Array, queries: Array) -> Array:
    from flash_kmeans_mlx import knn

    return knn(queries, x, K)[1]


class _Turns:
    """Asks the workers in turn."""

    def __init__(
        self,
        result: IndexResult,
        x: Array,
        truth: Array,
        threads: int,
        folder: Path,
        stack: ExitStack,
        progress: Callable[[IndexResult, str], None],
    ) -> None:
        self.result, self.x, self.truth, self.folder, self.progress = (
            result,
            x,
            truth,
            folder,
            progress,
        )
        self.workers: dict[str, WorkerProcess] = {}
        self.observers: dict[str, WorkerProcess] = {}
        for contestant, entry in zip(CONTESTANTS, result.entries, strict=True):
            if not entry.problem:
                for group in (self.workers, self.observers):
                    group[entry.contestant] = stack.enter_context(
                        self._started(contestant, threads)
                    )

    def _started(self, contestant: IndexContestant, threads: int) -> WorkerProcess:
        worker = WorkerProcess(contestant, threads, self.folder, "indexes")
        worker.receive()
        worker.ask(
            op="load", x=str(self.folder / "x.npy"), queries=str(self.folder / "queries.npy")
        )
        return worker

    def _ask(self, entry: Entry, op: str, doing: str, **request: Any) -> dict[str, Any]:
        if entry.problem:
            return {}
        self.progress(self.result, f"{entry.contestant}, {doing}")
        time.sleep(SETTLE)
        worker = (self.observers if op == "memory" else self.workers)[entry.contestant]
        try:
            return worker.ask(op=op, **request)
        except WorkerError as error:
            entry.problem = f"failed: {error}"
            return {}

    def build(self, runs: int) -> None:
        """Train and add, a cold turn first."""
        for turn in range(runs + 1):
            for op in ("train", "add"):
                for entry in self.result.entries:
                    request = {"factory": self.result.factory} if op == "train" else {}
                    answer = self._ask(
                        entry, op, f"{op}, turn {turn}" if turn else f"{op}, cold", **request
                    )
                    if turn and answer:
                        getattr(entry, op).append(answer["seconds"])

    def describe(self) -> None:
        """Memory, and errors of quantization."""
        from flash_kmeans_mlx import knn

        variance = float(np.var(self.x, axis=0, dtype=np.float64).sum())
        for entry in self.result.entries:
            entry.memory = self._ask(entry, "memory", "memory", factory=self.result.factory).get(
                "bytes"
            )
            prefix = str(self.folder / "described")
            self._ask(entry, "describe", "errors", factory=self.result.factory, save=prefix)
            if entry.problem:
                continue
            kept = np.load(prefix + "-kept.npy")
            gap = kept.astype(np.float64) - self.x[: len(kept)]
            entry.kept = float(np.square(gap).sum(1).mean()) / variance
            if self.result.factory.startswith("IVF"):
                nearest, _ = knn(self.x, np.load(prefix + "-centroids.npy"), 1)
                entry.coarse = float(nearest.mean(dtype=np.float64)) / variance

    def search(self, runs: int) -> None:
        """The queries in one batch, for every nprobe; short searches a few times in a turn."""
        for nprobe in self.result.case.nprobes(self.result.factory):
            counts: dict[str, int] = {}
            for turn in range(runs + 1):
                for entry in self.result.entries:
                    path = str(self.folder / "found")
                    doing = f"searching {nprobe} lists" if nprobe else "searching"
                    count = counts.get(entry.contestant, 1)
                    answer = self._ask(
                        entry, "search", doing, nprobe=nprobe, repeats=count, save=path
                    )
                    if answer:
                        counts[entry.contestant] = repeats(answer["seconds"][-1])
                    if answer and turn:
                        entry.searches.setdefault(nprobe, []).extend(answer["seconds"])
                    elif answer:
                        entry.recalls[nprobe] = recall(np.load(path + ".npy"), self.truth)


def judge(result: IndexResult) -> None:
    """No figures for an index that finds less than it must."""
    theirs = next((e for e in result.entries if e.contestant == "faiss" and not e.problem), None)
    for entry in result.entries:
        for nprobe, found in entry.recalls.items():
            least = theirs.recalls[nprobe] - RECALL_GAP if theirs else 0.0
            if result.factory.endswith("Flat") and nprobe == result.case.nlist:
                least = 1 - 1e-3  # of equally near vectors either may be found
            if found < least and not entry.problem:
                entry.problem = (
                    f"wrong: recall {found:.3f} with nprobe={nprobe} must be >= {least:.3f}"
                )


def recall(found: Array, truth: Array) -> float:
    """The share of the true ids (Q, K) that are among those found (Q, K)."""
    return (
        float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]))
        / truth.shape[1]
    )


def tables(result: IndexResult, doing: str = "") -> RenderableType:
    """What is known so far, for the terminal."""
    case = result.case
    title = f"{case.name}: {result.factory}, {result.n:,} x {case.points.D}, {case.queries:,} queries in a batch, k={K}"
    build = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("", "train", "x ours", "add/s", "memory", "error of centroids", "of vectors"):
        build.add_column(column, justify="right" if column else "left")
    ours = result.ours()
    for entry in result.entries:
        known = not entry.problem and bool(entry.train and entry.add)
        build.add_row(
            entry.contestant + (f": {entry.problem}" if entry.problem else ""),
            seconds(median(entry.train)) if known else "",
            f"{median(entry.train) / median(ours.train):.2f}"
            if known and ours and ours.train
            else "",
            f"{result.n / median(entry.add):,.0f}" if known else "",
            f"{entry.memory / 1e6:.1f} MB" if known and entry.memory is not None else "",
            f"{entry.coarse:.4f}" if known and entry.coarse is not None else "",
            f"{entry.kept:.4f}" if known and entry.kept is not None else "",
        )
    found = Table(box=box.SIMPLE_HEAD)
    for column in (
        "nprobe",
        *(f"{e.contestant}: recall" for e in result.entries),
        "queries/s, ours",
        "faiss",
        "ours / faiss",
    ):
        found.add_column(column, justify="right")
    theirs = next((e for e in result.entries if e.contestant == "faiss" and not e.problem), None)
    for nprobe in ours.searches if ours else ():
        rates = [
            case.queries / median(e.searches[nprobe]) if e and e.searches.get(nprobe) else None
            for e in (ours, theirs)
        ]
        found.add_row(
            str(nprobe or ""),
            *(f"{e.recalls[nprobe]:.3f}" if nprobe in e.recalls else "" for e in result.entries),
            *(f"{rate:,.0f}" if rate else "" for rate in rates),
            f"{rates[0] / rates[1]:.2f}" if rates[0] and rates[1] else "",
        )
    return Group(build, found, doing)


def median(values: list[float]) -> float:
    """The middle one."""
    return float(np.median(values))


def as_json(result: IndexResult) -> dict[str, Any]:
    """A result for the result file."""
    case = result.case
    shape = {
        "n": result.n,
        "d": case.points.D,
        "nlist": case.nlist,
        "m": case.m,
        "queries": case.queries,
        "k": K,
    }
    return {
        "case": case.name,
        "index": result.factory,
        **shape,
        "entries": [asdict(entry) for entry in result.entries],
    }


def header(about: dict[str, Any], runs: int) -> str:
    """What is compared, on what."""
    where, packages = (
        about["machine"],
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    )
    return f"""{where["cpu"]}, {where["cores"]} CPUs, {where["system"]}, Python {where["python"]}, {about["threads"]} threads
{packages}

Medians of {runs} turns after a cold one. Recall: the share of the {K} nearest that are among the {K} found. Errors: mean
squared distances to centroids, and to vectors as the index keeps them, over the variance. Memory: what the process grew by.
"""


def write(path: Path, about: dict[str, Any], results: list[IndexResult]) -> Path:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {**about, "suite": "index", "indexes": [as_json(result) for result in results]},
            indent=1,
        )
        + "\n"
    )
    return path
