"""The case ``disk``: a search in a file, against the same search in memory and against reading the file alone.

A process of its own measures memory, a further one times, turn by turn; the neighbours are judged before. The file is in the
system's cache ("cached"), or is dropped from it before every turn ("uncached", on Linux).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from . import gate
from .memory import Peak
from .process import environment
from .report import seconds

N, D, K, QUERIES, FEW = 1_000_000, 128, 100, 1000, 10
CAP_GB = 0.5
JUDGED = 64
_PIECE = 50_000
_BUFFER_ROWS = 65_536


def run(screen: Console, threads: int, n: int = N, runs: int = 5) -> tuple[dict[str, Any], bool]:
    """Run the case with n rows; returns its figures, and whether neighbours and memory were as they must be."""
    with tempfile.TemporaryDirectory(prefix="flash-kmeans-benchmark-") as folder:
        screen.print(
            f"disk: {QUERIES:,} queries, {n:,} x {D} float32 in a .npy file, k={K}, max_mem_gb={CAP_GB:g}"
        )
        _make(Path(folder), n)
        answers = [_worker(op, folder, threads, runs) for op in ("judge", "memory", "times")]
    found: dict[str, Any] = {
        "n": n,
        "d": D,
        "k": K,
        "queries": QUERIES,
        "few": FEW,
        "cap": CAP_GB * 1e9,
    }
    for answer in answers:
        found |= answer
    good = not found["problem"] and found["memory"] <= found["cap"]
    if found["problem"]:
        screen.print(f"wrong: {found['problem']}")
    else:
        screen.print(_table(found["seconds"]))
    screen.print(
        f"peak memory of the search from disk: {found['memory'] / 1e6:.0f} MB of {found['cap'] / 1e6:.0f} MB;"
        f" regret {found['regret']:.1e} (judged: {JUDGED} queries)\n"
    )
    return found, good


def _table(times: dict[str, list[float]]) -> Table:
    table = Table("", "p50", "rate", box=None)
    for name, values in times.items():
        state = name.rpartition(", ")[2]
        base = {
            "from disk": "in memory",
            f"{FEW} queries from disk": f"reading alone, {state}",
        }.get(name.rpartition(", ")[0])
        rate = f"{np.median(np.divide(times[base], values)):.2f} of: {base}" if base else ""
        table.add_row(name, seconds(float(np.median(values))), rate)
    return table


def _make(folder: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, D)}
    with (folder / "docs.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for lo in range(0, n, _PIECE):
            file.write(rng.standard_normal((min(_PIECE, n - lo), D), np.float32).tobytes())
        file.flush()
        os.fsync(file.fileno())  # only clean pages can be dropped from the cache
    np.save(folder / "queries.npy", rng.standard_normal((QUERIES, D), np.float32))
    np.save(folder / "few.npy", rng.standard_normal((FEW, D), np.float32))


def _worker(op: str, folder: str, threads: int, runs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "flash_kmeans_mlx.benchmark.disk", op, folder, str(runs)]
    done = subprocess.run(
        command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def _search(folder: Path, queries: str = "queries.npy") -> Any:
    from flash_kmeans_mlx import knn

    return knn(folder / queries, folder / "docs.npy", K, max_mem_gb=CAP_GB)


def _warm_up() -> None:
    """Load code and start threads, in memory and from a file."""
    from flash_kmeans_mlx import knn

    x = np.random.default_rng(0).standard_normal((2000, D), np.float32)
    knn(x[:QUERIES], x, K)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        knn(Path(folder) / "x.npy", Path(folder) / "x.npy", K, max_mem_gb=CAP_GB)


def judge(folder: Path, runs: int) -> dict[str, Any]:
    """Whether the neighbours are the nearest ones."""
    del runs
    distances, indices = _search(folder)
    x, queries = np.load(folder / "docs.npy")[None], np.load(folder / "queries.npy")[None, :JUDGED]
    verdict = gate.judge_neighbours(
        x, queries, indices[None, :JUDGED], distances[None, :JUDGED], "euclidean", K
    )
    return {"problem": verdict.reason, "regret": verdict.regret}


def memory(folder: Path, runs: int) -> dict[str, Any]:
    """Peak memory of one search from disk beyond what the process held before it, results included, in bytes."""
    del runs
    _warm_up()
    peak = Peak()
    found = _search(folder)
    return {"memory": peak.beyond(), "results": sum(array.nbytes for array in found)}


def times(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds of every way to work on the file, one number a turn."""
    from flash_kmeans_mlx import knn
    from flash_kmeans_mlx.files import open_vectors

    _warm_up()
    path = folder / "docs.npy"
    x, queries = np.load(path), np.load(folder / "queries.npy")

    def read() -> None:
        for _ in open_vectors(path).chunks(_BUFFER_ROWS, recycled=True):
            pass

    few = np.load(folder / "few.npy")
    ways: dict[str, Callable[[], Any]] = {
        "in memory": lambda: knn(queries, x, K),
        f"{FEW} queries in memory": lambda: knn(few, x, K),
    }
    for state in ("cached", "uncached") if hasattr(os, "posix_fadvise") else ("cached",):
        ways[f"from disk, {state}"] = lambda: _search(folder)
        ways[f"reading alone, {state}"] = read
        ways[f"{FEW} queries from disk, {state}"] = lambda: _search(folder, "few.npy")
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, work in ways.items():
            _cache(path, keep="uncached" not in name)
            begin = perf_counter()
            work()
            spent[name].append(perf_counter() - begin)
    return {"seconds": spent}


def _cache(path: Path, keep: bool) -> None:
    """Have the file in the system's cache, or out of it."""
    with path.open("rb", buffering=0) as file:
        if keep:
            buffer = bytearray(1 << 24)
            while file.readinto(buffer):
                pass
        else:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    work = {"judge": judge, "memory": memory, "times": times}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]))))
