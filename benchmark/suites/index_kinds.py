"""Kinds of codes beside each other: recall, queries a second, and bytes a vector."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rich.console import RenderableType

from .. import report
from ..cases import Array, IndexCase
from ..ours import FlashKMeansMLX
from ..peers import Faiss
from ..runner import Result, Row, Settings, Show, Workers
from ..timing import median, repeats
from .index_work import RECALL_GAP, IndexWork, K, recall

NPROBE = 16


def kinds(job: IndexCase) -> tuple[str, ...]:
    """Return the indexes that are compared, as factory strings of ours."""
    lists, codes, half = f"IVF{job.nlist}", f"PQ{job.m}", f"PQ{2 * job.m}x4"
    alone = (codes, half, "SQ8", "SQfp16", f"{codes},RFlat", f"{half},RFlat")
    return *alone, *(f"{lists},{kind}" for kind in alone)


def code_bytes(factory: str, d: int) -> int:
    """Return the bytes that vectors of d dimensions take by definition, without their ids."""
    *_, codes = [part for part in factory.split(",") if part != "RFlat"]
    refined = 4 * d if factory.endswith("RFlat") else 0
    if match := re.fullmatch(r"PQ(\d+)(?:x(\d+))?", codes):
        return -(-int(match[1]) * int(match[2] or 8) // 8) + refined
    return {"SQ8": d, "SQfp16": 2 * d, "Flat": 4 * d}[codes] + refined


@dataclass
class KindRow(Row):
    """One contestant's index of one kind.

    Attributes:
        index: The factory string.
        missing: Why the library does not make such an index; empty if it does.
        bytes: Of a vector, by definition.
        recall: Of the 10 nearest.
        seconds: Of a batch of all queries.
    """

    index: str = ""
    missing: str = ""
    bytes: int = 0
    recall: float | None = None
    seconds: list[float] = field(default_factory=list)


@dataclass
class KindsResult(Result):
    """All kinds of codes of one case; n vectors are in each index."""

    job: IndexCase
    rows: list[KindRow]
    n: int

    def title(self) -> str:
        shape = f"{self.n:,} x {self.job.points.D}"
        queries = f"{self.job.points.queries:,} queries in a batch, k={K}, nprobe={NPROBE}"
        return f"{self.job.name}: kinds of codes, {shape}, {queries}"

    def of(self, index: str) -> tuple[KindRow | None, KindRow | None]:
        """Return our row and that of faiss, where they have figures."""
        rows = [row for row in self.rows if row.index == index and row.seconds and not row.problem]
        ours, theirs = (
            next((row for row in rows if type(row.contestant) is kind), None)
            for kind in (FlashKMeansMLX, Faiss)
        )
        return ours, theirs

    def table(self, width: int) -> RenderableType:
        names = dict.fromkeys(row.index for row in self.rows)
        return report.table(self.title(), [self._line(name) for name in names], self.notes(), width)

    def notes(self) -> list[str]:
        missing = [
            f"{row.index}: not available in {row.name} ({row.missing})"
            for row in self.rows
            if row.missing
        ]
        return [*super().notes(), *missing]

    def _line(self, index: str) -> dict[str, str]:
        ours, theirs = self.of(index)
        queries = self.job.points.queries
        line = {
            "index": index,
            "bytes a vector": f"{code_bytes(index, self.job.points.D):,}",
            "recall, ours": "",
            "faiss's": "",
            "queries/s, ours": "",
            "faiss": "",
            "ours / faiss": "",
        }
        for row, recall_name, rate_name in (
            (ours, "recall, ours", "queries/s, ours"),
            (theirs, "faiss's", "faiss"),
        ):
            if row and row.recall is not None:
                line[recall_name] = f"{row.recall:.3f}"
                line[rate_name] = f"{queries / median(row.seconds):,.0f}"
        if ours and theirs:
            line["ours / faiss"] = f"{median(theirs.seconds) / median(ours.seconds):.2f}"
        return line

    def figures(self) -> dict[str, Any]:
        return {
            "index": "kinds of codes",
            "n": self.n,
            "d": self.job.points.D,
            "nlist": self.job.nlist,
            "nprobe": NPROBE,
            "queries": self.job.points.queries,
            "k": K,
        }


def run(
    job: IndexCase, settings: Settings, show: Show, x: Array, queries: Array, truth: Array
) -> KindsResult:
    """Build each kind once by each library, and search it by turns."""
    contestants = FlashKMeansMLX(), Faiss()
    rows = [
        KindRow(
            contestant,
            contestant.missing() or "",
            index=index,
            bytes=code_bytes(index, job.points.D),
        )
        for index in kinds(job)
        for contestant in contestants
    ]
    result = KindsResult(job, rows, len(x))
    with Workers(IndexWork, rows, settings.threads, partial(show, result)) as workers:
        workers.load({"x": x, "queries": queries})
        for index in kinds(job):
            built = [row for row in rows if row.index == index]
            for row in built:
                answer = workers.ask(row, "build", f"building {index}", factory=index)
                row.missing = answer.get("missing", "")
            made = [row for row in built if not row.missing]
            _search(workers, made, truth, settings.runs or RUNS)
    judge(result)
    show(result, "")
    return result


RUNS = 2  # timed ones, as there are many kinds


def _search(workers: Workers, rows: list[KindRow], truth: Array, runs: int) -> None:
    """Search all queries in one batch, a cold run first."""
    path = str(workers.folder / "ids")
    counts: dict[str, int] = {}
    for run in range(runs + 1):
        for row in rows:
            nprobe = NPROBE if row.index.startswith("IVF") else 0
            options = {"nprobe": nprobe, "repeats": counts.get(row.name, 1), "save": path}
            answer = workers.ask(row, "search", f"searching {row.index}", **options)
            if not answer:
                continue
            counts[row.name] = repeats(answer["seconds"][-1])
            if run:
                row.seconds.extend(answer["seconds"])
            else:
                row.recall = recall(np.load(path + ".npy"), truth)


def judge(result: KindsResult) -> None:
    """Give no figures to an index of ours that finds less than it must."""
    for index in dict.fromkeys(row.index for row in result.rows):
        ours, theirs = result.of(index)
        if not ours or not theirs or ours.recall is None or theirs.recall is None:
            continue
        least = theirs.recall - RECALL_GAP
        if ours.recall < least:
            ours.problem = f"wrong: {index}: recall {ours.recall:.3f} must be >= {least:.3f}"
