"""Rows of the suite index, their tables and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType

from .. import report
from ..cases import IndexCase
from ..contestants import Contestant
from ..ours import FlashKMeansMLX
from ..peers import Faiss
from ..report import seconds
from ..runner import Row
from ..timing import median

K = 10  # neighbours of each query


@dataclass
class IndexRow(Row):
    """One contestant's index. Seconds are those of the warm runs.

    Attributes:
        train: Seconds of training.
        add: Seconds of adding all vectors.
        searches: Seconds of a batch of queries, by nprobe.
        recalls: Recall, by nprobe.
        coarse: Error of the lists' centroids.
        kept: Error of the vectors as the index stores them.
        memory: Bytes of the index.
    """

    train: list[float] = field(default_factory=list)
    add: list[float] = field(default_factory=list)
    searches: dict[int, list[float]] = field(default_factory=dict)
    recalls: dict[int, float] = field(default_factory=dict)
    coarse: float | None = None
    kept: float | None = None
    memory: int | None = None


@dataclass
class IndexResult:
    """All rows of one kind of index on one case; n vectors are in the index."""

    case: IndexCase
    factory: str
    n: int
    rows: list[IndexRow]

    def valid(self, contestant: type[Contestant]) -> IndexRow | None:
        """Return the contestant's row, if it has figures."""
        rows = [row for row in self.rows if type(row.contestant) is contestant and not row.problem]
        return next(iter(rows), None)

    def table(self, width: int) -> RenderableType:
        del width
        case = self.case
        title = (
            f"{case.name}: {self.factory}, {self.n:,} x {case.points.D},"
            f" {case.queries:,} queries in a batch, k={K}"
        )
        problems = [f"{row.name}: {row.problem}" for row in self.rows if row.problem]
        building = report.table(title, [self._building(row) for row in self.rows], problems)
        ours = self.valid(FlashKMeansMLX)
        searches = [self._searching(nprobe) for nprobe in (ours.searches if ours else ())]
        return Group(building, report.table("", searches, ()))

    def _building(self, row: IndexRow) -> dict[str, str]:
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
            self.case.queries / median(row.searches[nprobe])
            if row and nprobe in row.searches
            else None
            for row in (self.valid(FlashKMeansMLX), self.valid(Faiss))
        )
        return {
            "nprobe": str(nprobe or ""),
            **recalls,
            "queries/s, ours": f"{ours:,.0f}" if ours else "",
            "faiss": f"{theirs:,.0f}" if theirs else "",
            "ours / faiss": f"{ours / theirs:.2f}" if ours and theirs else "",
        }

    def as_json(self) -> dict[str, Any]:
        case = self.case
        return {
            "case": case.name,
            "index": self.factory,
            "n": self.n,
            "d": case.points.D,
            "nlist": case.nlist,
            "m": case.m,
            "queries": case.queries,
            "k": K,
            "rows": [row.as_json() for row in self.rows],
        }
