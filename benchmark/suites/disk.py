"""The suite ``disk``: a search in a file, beside the same search in memory and the reading alone.

Fits of points in files are in `disk_fits`.

The file is in the system's cache ("cached"), or is removed from it before every run ("uncached", on
Linux). Peak memory must not exceed ``max_mem_gb``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import figures, gate, report
from ..cases import Job
from ..contestants import Array
from ..memory import Peak
from ..ours import FlashKMeansMLX
from ..runner import Result, Row, Settings, Show, Suite, Workers
from ..timing import median
from ..worker import Work
from .disk_fits import FitCase, FitResult, run_fits

D = 128
K = 100
QUERIES = 1000
FEW = 10
CAP_GB = 0.5
JUDGED = 64  # queries
_PIECE = 50_000
_BUFFER_ROWS = 65_536
_STATES = ("cached", "uncached") if hasattr(os, "posix_fadvise") else ("cached",)
_WAYS = (
    "in memory",
    f"{FEW} queries in memory",
    *(
        f"{way}, {state}"
        for state in _STATES
        for way in ("from disk", "reading alone", f"{FEW} queries from disk")
    ),
)


@dataclass(frozen=True)
class DiskCase(Job):
    """A file of n rows."""

    n: int = 1_000_000

    @property
    def name(self) -> str:
        return "disk"

    def description(self) -> str:
        rows = f"{self.n:,} x {D} float32 in a .npy file"
        return f"{QUERIES:,} queries, {rows}, k={K}, max_mem_gb={CAP_GB:g}"


@dataclass
class DiskRow(Row):
    """One way of working on the file, with the seconds of its runs."""

    way: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.way

    @property
    def base(self) -> str:
        """The way that this one is compared with, or an empty string."""
        way, _, state = self.way.partition(", ")
        bases = {"from disk": "in memory", f"{FEW} queries from disk": f"reading alone, {state}"}
        return bases.get(way, "")


@dataclass
class DiskResult(Result):
    """All ways of a case.

    Attributes:
        memory: Peak memory of a search from disk beyond what the process held before, in bytes.
        results: The part of it that the results take.
        regret: The worst neighbour's regret.
    """

    job: DiskCase
    rows: list[DiskRow]
    memory: int | None = None
    results: int = 0
    regret: float = 0.0

    def notes(self) -> list[str]:
        peak = "" if self.memory is None else f"{self.memory / 1e6:.0f} MB of {CAP_GB * 1e3:.0f} MB"
        return [
            *dict.fromkeys(row.problem for row in self.rows if row.problem),
            f"peak memory of the search from disk: {peak};"
            f" regret {self.regret:.1e} (judged: {JUDGED} queries)",
        ]

    def cells(self, row: DiskRow) -> dict[str, str]:
        base = next((other for other in self.rows if other.way == row.base), None)
        timed = row.seconds and not row.problem
        rate = ""
        if base is not None and timed:
            rate = f"{np.median(np.divide(base.seconds[: len(row.seconds)], row.seconds)):.2f}"
        return {
            "way": row.way,
            "p50": report.seconds(median(row.seconds)) if timed else "",
            "rate": rate,
            "base": f"of: {row.base}" if rate else "",
        }

    def figures(self) -> dict[str, Any]:
        memory = {"bytes": self.memory, "bound": CAP_GB * 1e9, "results": self.results}
        shape = {"n": self.job.n, "d": D, "k": K, "queries": QUERIES, "few": FEW}
        return {**shape, "memory": memory, "regret": self.regret}


class DiskWork(Work):
    """Searches of this package in its worker process."""

    folder: Path
    arrays: dict[str, Array]

    def load(self, folder: str) -> None:
        """Load code and start threads, for searches in memory and in files."""
        from flash_kmeans_mlx import knn

        x = np.random.default_rng(0).standard_normal((2000, D), np.float32)
        knn(x[:QUERIES], x, K)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "x.npy"
            np.save(path, x)
            knn(path, path, K, max_mem_gb=CAP_GB)
        self.folder = Path(folder)

    def read(self) -> None:
        """Read the arrays for the searches in memory."""
        names = ("docs", "queries", "few")
        self.arrays = {name: np.load(self.folder / f"{name}.npy") for name in names}

    def _search(self, queries: str = "queries") -> tuple[Array, Array]:
        from flash_kmeans_mlx import knn

        path = self.folder / "docs.npy"
        return knn(self.folder / f"{queries}.npy", path, K, max_mem_gb=CAP_GB)

    def judge(self) -> dict[str, Any]:
        """Return whether the neighbours are the nearest ones."""
        distances, indices = self._search()
        x = np.load(self.folder / "docs.npy")[None]
        queries = np.load(self.folder / "queries.npy")[None, :JUDGED]
        verdict = gate.judge_neighbours(
            x, queries, indices[None, :JUDGED], distances[None, :JUDGED], "euclidean", K
        )
        return {"problem": verdict.reason, "regret": verdict.regret}

    def memory(self) -> dict[str, Any]:
        """Return the peak memory of one search, results included, in bytes."""
        peak = Peak()
        found = self._search()
        return {"bytes": peak.beyond(), "results": sum(array.nbytes for array in found)}

    def time(self, way: str) -> dict[str, Any]:
        """Return the seconds of one way."""
        from flash_kmeans_mlx import knn
        from flash_kmeans_mlx.files import open_vectors

        path = self.folder / "docs.npy"

        def read() -> None:
            for _ in open_vectors(path).chunks(_BUFFER_ROWS, recycled=True):
                pass

        name, _, state = way.partition(", ")
        work: dict[str, Callable[[], Any]] = {
            "in memory": lambda: knn(self.arrays["queries"], self.arrays["docs"], K),
            f"{FEW} queries in memory": lambda: knn(self.arrays["few"], self.arrays["docs"], K),
            "from disk": self._search,
            "reading alone": read,
            f"{FEW} queries from disk": lambda: self._search("few"),
        }
        _cache(path, keep=state != "uncached")
        begin = perf_counter()
        work[name]()
        return {"seconds": perf_counter() - begin}


def run(
    job: DiskCase | FitCase, settings: Settings, show: Show
) -> list[DiskResult] | list[FitResult]:
    """Run a case, see `Suite`: judge and measure memory first, then time all ways in turn."""
    if isinstance(job, FitCase):
        return run_fits(job, settings, show)
    rows = [DiskRow(FlashKMeansMLX(), way=way) for way in _WAYS]
    result = DiskResult(job, rows)
    with Workers(DiskWork, rows, settings.threads, partial(show, result)) as workers:
        workers.show("making the data")
        _make(workers.folder, job.n)
        workers.load({}, folder=str(workers.folder))
        verdict = workers.ask(rows[0], "judge", alone=True)
        memory = workers.ask(rows[0], "memory", alone=True)
        result.regret = verdict.get("regret", 0.0)
        result.memory = memory.get("bytes")
        result.results = memory.get("results", 0)
        problem = verdict.get("problem")
        if not problem and memory.get("bytes", 0) > CAP_GB * 1e9:
            problem = f"peak memory {memory['bytes'] / 1e6:.0f} MB"
        for row in rows:
            row.problem = row.problem or (f"wrong: {problem}" if problem else "")
        workers.ask(rows[0], "read", "reading the file")
        for count in range(settings.runs or SUITE.usual_runs):
            for row in rows:
                answer = workers.ask(row, "time", f"run {count + 1}", way=row.way)
                row.seconds += answer.values()
    show(result, "")
    return [result]


def _make(folder: Path, n: int) -> None:
    """Write a large file piece by piece, and two small ones."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, D)}
    with (folder / "docs.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for lo in range(0, n, _PIECE):
            file.write(rng.standard_normal((min(_PIECE, n - lo), D), np.float32).tobytes())
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be removed from the cache
    np.save(folder / "queries.npy", rng.standard_normal((QUERIES, D), np.float32))
    np.save(folder / "few.npy", rng.standard_normal((FEW, D), np.float32))


def _cache(path: Path, keep: bool) -> None:
    """Bring the file into the system's cache, or remove it from there."""
    with path.open("rb", buffering=0) as file:
        if keep:
            buffer = bytearray(1 << 24)
            while file.readinto(buffer):
                pass
        else:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_JOBS = [DiskCase(), FitCase(), FitCase("disk-fits-quick", 50_000)]
SUITE = Suite(
    name="disk",
    question="What do a search and a fit from files cost, beside those in memory?",
    legend="""\
Medians of {runs} runs.
cached    the file is in the system's cache
uncached  the file is removed from the cache before every run
rate      of a fit: CPU time in memory, as a share of that from the file
""",
    jobs=_JOBS,
    groups={"quick": [_JOBS[0], _JOBS[2]], "all": _JOBS},
    run=run,
    plot=figures.plot_disk,
    adapt=lambda jobs, settings: [replace(job, **settings.shape) for job in jobs],
    options=frozenset({"n"}),
)
