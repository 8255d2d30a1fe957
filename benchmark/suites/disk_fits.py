"""Fits of points in files, beside the same fit in memory: the case ``disk-fits`` of the suite disk.

All fits have the bits of the fit in memory. Peak memory must not exceed ``max_mem_gb``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from .. import report
from ..cases import Job
from ..contestants import Array
from ..memory import Peak
from ..ours import FlashKMeansMLX
from ..runner import Result, Row, Settings, Show, Workers
from ..timing import median
from ..worker import Work

__all__ = ["FitCase", "FitResult", "run_fits"]

D, K, CENTRES = 64, 256, 300
ITERS = 10
CAP_GB = 0.5
USUAL_RUNS = 3
IN_MEMORY = "fit in memory"
CHUNKS = "chunks"
_PYARROW = (".arrow", ".parquet") if importlib.util.find_spec("pyarrow") else ()
FORMATS = (".npy", ".safetensors", ".fvecs", *_PYARROW, CHUNKS)
_SMALL = 2000  # points of the fits that load code
_ROWS = 65_536  # of a row group, a batch or a chunk


@dataclass(frozen=True)
class FitCase(Job):
    """Files of n rows."""

    name: str = "disk-fits"  # pyright: ignore[reportIncompatibleMethodOverride]
    n: int = 1_000_000

    def description(self) -> str:
        points = f"{self.n:,} x {D} float32, K={K}, {ITERS} iterations"
        return f"{points}, max_mem_gb={CAP_GB:g}"


@dataclass
class FitRow(Row):
    """A fit of one kind of source.

    Attributes:
        way: The name in tables.
        source: A suffix of FORMATS, or "".
        seconds: Wall time of the runs.
        cpu: Seconds of all CPUs in the runs.
        memory: Peak memory beyond what the process held before, in bytes.
    """

    way: str = ""
    source: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: int | None = None

    @property
    def name(self) -> str:
        return self.way


@dataclass
class FitResult(Result):
    """All kinds of sources."""

    job: FitCase
    rows: list[FitRow]

    def cells(self, row: FitRow) -> dict[str, str]:
        base = self.rows[0].cpu[: len(row.cpu)]
        timed = row.seconds and not row.problem
        rate = f"{np.median(np.divide(base, row.cpu)):.2f}" if timed and row.source else ""
        return {
            "way": row.way,
            "p50": report.seconds(median(row.seconds)) if timed else "",
            "CPU": report.seconds(median(row.cpu)) if timed else "",
            "rate": rate,
            "peak": "" if row.memory is None else f"{row.memory / 1e6:.0f} MB",
        }

    def figures(self) -> dict[str, Any]:
        return {"n": self.job.n, "d": D, "k": K, "iters": ITERS, "bound": CAP_GB * 1e9}


class Chunks:
    """Copies of some rows at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n = len(np.load(path, mmap_mode="r"))

    def __iter__(self) -> Iterator[Array]:
        for lo in range(0, self._n, _ROWS):
            # A new map each time: pages of a map count as memory of this process.
            yield np.array(np.load(self._path, mmap_mode="r")[lo : lo + _ROWS])


class FitWork(Work):
    """Fits of this package in its worker process."""

    folder: Path
    x: Array
    wanted: Any

    def load(self, folder: str, n: int) -> None:
        """Write the files, unless they are there, and load code."""
        self.folder = Path(folder)
        for stem, rows in (("small", _SMALL), ("x", n)):
            if not (self.folder / f"{stem}.npy").exists():
                _make(self.folder / stem, rows)
        for source in FORMATS:
            self._fit(source, "small")
        self._fit("", "small")

    def _fit(self, source: str, stem: str = "x") -> Any:
        from flash_kmeans_mlx import batch_kmeans_Euclid

        path = self.folder / f"{stem}.npy"
        first = np.array(np.load(path, mmap_mode="r")[:K])
        options = {"init_centroids": first, "backend": "cpu"}
        if not source:
            x = self.x if stem == "x" else np.load(path)
            return batch_kmeans_Euclid(x, K, ITERS, **options)
        x = Chunks(path) if source == CHUNKS else path.with_suffix(source)
        return batch_kmeans_Euclid(x, K, ITERS, max_mem_gb=CAP_GB, **options)

    def memory(self, source: str) -> dict[str, Any]:
        """Return the peak memory of a fit, its result included."""
        peak = Peak()
        result = self._fit(source)
        found = peak.beyond()
        del result
        return {"bytes": found}

    def read(self) -> None:
        """Read the points, and fit them in memory."""
        self.x = np.load(self.folder / "x.npy")
        self.wanted = self._fit("")

    def time(self, source: str) -> dict[str, Any]:
        """Return the seconds of a fit, or what is wrong with it."""
        begin, begin_cpu = perf_counter(), process_time()
        result = self._fit(source)
        seconds, cpu = perf_counter() - begin, process_time() - begin_cpu
        same = np.array_equal(result.labels, self.wanted.labels)
        same = same and np.array_equal(result.centroids, self.wanted.centroids)
        problem = "" if same else "wrong: other bits than in memory"
        return {"seconds": [seconds], "cpu": [cpu], "problem": problem}


def _make(path: Path, n: int) -> None:
    """Write n points in every format."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, D), np.float32) * np.float32(1.2)
    x = centres[rng.integers(CENTRES, size=n)] + rng.standard_normal((n, D), np.float32)
    rows = np.empty((n, 1 + D), np.float32)
    rows[:, 0] = np.int32(D).view(np.float32)
    rows[:, 1:] = x
    rows.tofile(path.with_suffix(".fvecs"))
    del rows
    import mlx.core as mx

    mx.save_safetensors(str(path.with_suffix(".safetensors")), {"x": mx.array(x)})
    if _PYARROW:
        import pyarrow as pa
        import pyarrow.parquet

        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)})
        pyarrow.parquet.write_table(table, path.with_suffix(".parquet"), row_group_size=_ROWS)
        file = pa.OSFile(str(path.with_suffix(".arrow")), "wb")
        with file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=_ROWS)
    np.save(path.with_suffix(".npy"), x)  # the last one: its presence says that all are there


def run_fits(job: FitCase, settings: Settings, show: Show) -> list[FitResult]:
    """Run the case, see `Suite`: measure memory first, then time all fits in turn."""
    ours = FlashKMeansMLX()
    rows = [FitRow(ours, way=IN_MEMORY)]
    rows += [FitRow(ours, way=f"fit from {source}", source=source) for source in FORMATS]
    result = FitResult(job, rows)
    with Workers(FitWork, rows, settings.threads, partial(show, result)) as workers:
        workers.load({}, folder=str(workers.folder), n=job.n)
        for row in rows[1:]:
            row.memory = workers.ask(row, "memory", alone=True, source=row.source).get("bytes")
            if row.memory and row.memory > CAP_GB * 1e9:
                row.problem = f"wrong: peak memory {row.memory / 1e6:.0f} MB"
        workers.ask(rows[0], "read", "reading the file")
        for count in range(settings.runs or USUAL_RUNS):
            for row in rows:
                answer = workers.ask(row, "time", f"run {count + 1}", source=row.source)
                row.problem = row.problem or answer.get("problem", "")
                row.seconds += answer.get("seconds", [])
                row.cpu += answer.get("cpu", [])
    show(result, "")
    return [result]
