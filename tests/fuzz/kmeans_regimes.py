"""Regimes of the CPU backend: sizes made small so that small problems meet all of them, and a watch that tells which."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from engine import Watch
from kmeans_cases import DIMENSIONS, LOOPS, NAMES, Case

from flash_kmeans_mlx.backends.cpu import int8, looped, seeds, trial, tuner
from flash_kmeans_mlx.backends.cpu.int8 import Int8
from flash_kmeans_mlx.backends.cpu.kernels import ir
from flash_kmeans_mlx.backends.cpu.looped import LoopedCpuPoints
from flash_kmeans_mlx.backends.cpu.plan import Plan
from flash_kmeans_mlx.backends.cpu.points import CpuPoints
from flash_kmeans_mlx.backends.cpu.pruning import Pruning
from flash_kmeans_mlx.backends.cpu.tuner import Tuner
from flash_kmeans_mlx.backends.points import Problem, Step
from flash_kmeans_mlx.shards import copied

PLAN = importlib.import_module("flash_kmeans_mlx.backends.cpu.plan")
# The sizes at which the backend changes its way, and what they are in this test.
SMALLER: list[tuple[Any, str, Any]] = [
    (PLAN, "SMALL", 60_000),
    (PLAN, "LOOPED", 2_000_000),
    (PLAN, "SHARDS", 3),
    (PLAN, "SHARD_ROWS", 600),
    (PLAN, "TILE_VALUES", 1 << 12),
    (PLAN, "RESIDENT_BYTES", 300_000),
    (PLAN, "LOOPED_BYTES", 200_000),
    (PLAN, "FLIGHT_BYTES", 20_000),
    (PLAN, "PIECE_BYTES", 30_000),
    (tuner, "RESIDENT_BYTES", 100_000),
    (tuner, "COPIED_DIMS", 8),
    (tuner, "COPIED_BYTES", 50_000),
    (tuner, "MIN_SEEDS", 4),
    (tuner, "MIN_POINT_PASSES", 0),
    (tuner, "MIN_PRODUCTS", 0),
    (tuner, "MIN_POINTS", 1100),
    (trial, "RUN", 16),
    (int8, "MIN_DIMS", 9),
    (int8, "MIN_PRODUCTS", 0),
    (int8, "MIN_FIRST_PRODUCTS", 500),
    (tuner, "WIDTHS", (15, 7, 3)),
    (looped, "ALONE", 100_000),
    (looped, "CALL", 1_000_000),
    (seeds, "ALONE", 20_000),
    (seeds, "CALL", 500_000),
]
Seen = set[tuple[str, Any]]
STRATEGIES = {
    "loop",
    "tiles",
    "int8",
    "head 3",
    "head 7",
    "head 15",
    "shards",
}
# What a problem can meet, by the field of the plan or by what was seen of the fit; all of it must be met.
REGIMES: dict[str, set[Any]] = {
    "looped": {True, False},
    "team": {True, False},
    "resident": {True, False},
    "tile": set(DIMENSIONS),
    "cuts": {"one", "some", "most"},
    "flight": {"all shards", "some shards"},
    "threads": {"one", "more"},
    "spare": {"enough", "short"},
    "piece": {"in memory", "a shard", "some rows"},
    "held": {"counted"},
    "stream": {"none", "copied", "read as it is"},
    "strategy": STRATEGIES,
    "bytes": {"kept", "of a tile"},
    "loop": {(team, ended) for team in (False, True) for ended in ("by bytes", "by tiles")},
    "seeding": {
        (team, kind) for team in (False, True) for kind in ("rows", "columns", "head", "bytes")
    },
    "read": {"in place", "converted"},
    "frame": {"as given", "shifted", "scaled", "centred"},
}
# Of these, the ones that a processor without products of bytes can't meet.
OF_BYTES: Seen = {
    ("strategy", "int8"),
    *((name, value) for name in ("bytes", "loop") for value in REGIMES[name]),
    *(("seeding", (team, "bytes")) for team in (False, True)),
}


@contextmanager
def prepared(case: Case, seen: Seen | None = None, **changes: Any) -> Iterator[str | None]:
    """Set the backend up as a case wants it, and yield the name to pass as `strategy`.

    Args:
        case: The problem.
        seen: The regimes that are met are added to it.
        changes: Fields of the case that are other ones.
    """
    case = dataclasses.replace(case, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_KMEANS_THREADS", str(case.threads))
        patch.setattr(copied, "LEAST_PASSES", 3 if case.seed % 2 else 1000)
        for module, name, value in SMALLER if case.smaller else ():
            patch.setattr(module, name, value)
        if case.way not in (*NAMES, *LOOPS):
            patch.setattr(PLAN, "plan", without_loop)
        if case.way.isdecimal():
            patch.setattr(Tuner, "_fastest", lambda tuner, *_: head(tuner, int(case.way)))
            patch.setattr(Pruning, "pays", lambda _: True)
        elif case.way in ("bytes", "dropped", *LOOPS):
            patch.setattr(Tuner, "_fastest", lambda *_: None)
        if case.way == "dropped":
            patch.setattr(Int8, "pays", lambda way: way.rows() < 700)
        elif case.way in LOOPS:
            most = 0 if case.way == "dropped loop" else 1 << 60
            patch.setattr(looped, "most_compared", lambda *_: most)
        elif case.way == "dropped head":
            patch.setattr(Tuner, "_fastest", lambda tuner, *_: head(tuner, 7))
            patch.setattr(Pruning, "pays", lambda way: way.rows() < 700)
        if seen is not None:
            watch(Watch(patch, seen))
        yield case.way if case.way in NAMES else None


def without_loop(problem: Problem, threads: int, make_plan: Any = PLAN.plan) -> Plan:
    """Return a plan as for bounds: no loop in a kernel."""
    return make_plan(dataclasses.replace(problem, strategy="head"), threads)


def head(pruning: Tuner, width: int) -> np.ndarray | None:
    """Return directions, as if `width` of them had been found fastest."""
    width = min(width, pruning.points.shape[2] - 1, pruning.points.shape[1])
    return pruning._directions(width) if width > 0 and pruning._fits(width) else None


def piece(found: Plan) -> str:
    """Return how much of a stream's shard is read at a time."""
    if not found.piece:
        return "in memory"
    return "a shard" if found.piece >= max(np.diff(found.cuts)) else "some rows"


def stream(points: CpuPoints) -> str:
    """Return how points that are read in each pass are read."""
    if not points.plan.piece:
        return "none"
    is_copy = isinstance(points.problem.x.rows, copied.CopiedSource)
    return "copied" if is_copy else "read as it is"


def watch(watching: Watch) -> None:
    """Have the backend name its regimes."""

    def of_plan(found: Plan, problem: Problem, _threads: int) -> Iterator[tuple[str, Any]]:
        full = problem.x.shape[0] * found.shards
        words = {
            "cuts": "one" if found.shards == 1 else "most" if found.shards >= 4 else "some",
            "flight": "all shards" if found.flight == full else "some shards",
            "threads": "one" if found.threads == 1 else "more",
            "spare": "enough" if found.spare > 1 << 29 else "short",
            "piece": piece(found),
            "held": "counted",
        }
        for field in dataclasses.fields(found):
            yield field.name, words.get(field.name, getattr(found, field.name))

    def of_points(_: Any, points: CpuPoints) -> Iterator[tuple[str, Any]]:
        frame = points.frame
        yield "stream", stream(points)
        for b in range(0 if points.plan.piece else points.shape[0]):
            yield "read", "in place" if points.sources.direct[b] else "converted"
            if frame.centre[b].any():
                yield "frame", "centred"
            if frame.identity[b]:
                yield "frame", "as given"
            else:
                yield "frame", "shifted" if frame.shift[b].any() else "scaled"

    def of_bytes(_: Any, _way: Int8, _points: Any, kept: bool) -> Iterator[tuple[str, Any]]:
        yield "bytes", "kept" if kept else "of a tile"

    watching.after(PLAN, "plan", of_plan)
    watching.after(CpuPoints, "__enter__", of_points)
    watching.after(Int8, "__init__", of_bytes)
    watch_loop(watching)
    watch_seeding(watching)


def watch_loop(watching: Watch) -> None:
    """Have the loop in a kernel name how it ended, where it had points as bytes for two passes."""
    used: list[Any] = []  # memory of the loop at hand, one for each team

    def of_memory(memory: Any, _points: LoopedCpuPoints) -> tuple[()]:
        if memory:
            used.append(memory)
        return ()

    def of_loop(step: Step, points: LoopedCpuPoints, *_: Any) -> Iterator[tuple[str, Any]]:
        for memory in used if step.iterations.max() > 1 else ():
            yield "loop", (points.plan.team, "by tiles" if memory.most[0] < 0 else "by bytes")
        used.clear()

    watching.after(LoopedCpuPoints, "_by_bytes", of_memory)
    watching.after(LoopedCpuPoints, "step", of_loop)


def watch_seeding(watching: Watch) -> None:
    """Have k-means++ name how it reads the points."""
    kinds: dict[int, str] = {}  # of runs, by their identity: they are met one after another

    def of_run(run: Any, _points: Any, _b: int, _square: Any, kept: Any) -> tuple[()]:
        if kept is None:
            kinds[id(run)] = "rows"
        elif isinstance(kept, Int8):
            kinds[id(run)] = "bytes"
        else:
            kinds[id(run)] = "head" if kept.basis.shape[1] else "columns"
        return ()

    def of_call(run: Any, team: Any, *_: Any) -> Iterator[tuple[str, Any]]:
        yield "seeding", (team.size > 1, kinds[id(run)])

    watching.before(seeds._Run, "__init__", of_run)
    watching.before(seeds._Run, "__call__", of_call)


def missed(seen: Seen, metric: str) -> Seen:
    """Return the regimes that no problem met."""
    wanted = {(name, value) for name, values in REGIMES.items() for value in values}
    if metric == "euclidean":
        wanted.discard(("frame", "centred"))
    return wanted - seen - (set() if ir.INT8 else OF_BYTES)
