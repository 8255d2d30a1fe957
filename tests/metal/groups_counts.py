"""Counts of what the kernels with bounds compute and move, iteration by iteration.

    PYTHONPATH=tests python -m metal.groups_counts

writes the third table of benchmark/results/metal-votes.md. The emulator counts a small problem.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from flash_kmeans_mlx.benchmark.cases import CASES, Case, embeddings, gauss

from flash_kmeans_mlx.backends.metal import groups, kernels, launch
from metal.emulator import EmulatedKernel, emulation
from metal.votes import MAX_ITERATIONS, PAGE, means, replace_table

PROBLEMS = (
    next(case for case in CASES if case.name == "patches"),
    Case("embeddings", 1, 2048, 768, 256, 1, embeddings),
    Case("gauss", 1, 2048, 128, 256, 1, gauss),
)
ROWS, CLUSTERS = 2048, 256
COUNTED = (1, 2, 5, 10)
HEAD = [
    "| case | iteration | fused: matrix operations | groups | share | fused: KB | groups: KB |",
    "|---|---|---|---|---|---|---|",
]


class Step(NamedTuple):
    """Arrays that a call made, products of 8x8 matrices, and bytes each once per threadgroup."""

    arrays: tuple[mx.array, ...]
    matrix: int
    moved: int


def step(call: Callable[[], tuple[mx.array, ...]], *, counted: bool) -> Step:
    with emulation(count=counted) as run:
        arrays = call()
        mx.eval(*arrays)
    if not counted:
        return Step(arrays, 0, 0)
    moved = sum(t.read_once + t.written_once for found in run.launches for t in found.buffers)
    return Step(arrays, sum(found.work.matrix for found in run.launches), moved)


def lines(case: Case) -> list[str]:
    """Return the lines of the table for a case."""
    rows = case.data()[0]
    rows = rows[:: len(rows) // ROWS][:ROWS] - rows.mean(0)
    n, d = rows.shape
    c = rows[:: n // CLUSTERS][:CLUSTERS]
    tiles = groups.tiles_for(CLUSTERS, d)
    assert tiles is not None
    x = mx.array(rows[None])
    square = mx.square(x).sum(-1)
    grouping = groups.group_centroids(c[None], tiles)
    bounds = groups.start(n, mx.array(c[None]), tiles)
    plain = partial(kernels.assign, tiles=launch.assign_tiles(d)[0])
    bounded = partial(groups.assign, tiles=tiles, grouping=grouping, square=square)
    out = []
    labels = np.zeros(n, np.int64)
    for t in range(1, MAX_ITERATIONS + 1):
        inner = mx.array(c[None])
        args = (x, inner, -0.5 * mx.square(inner).sum(-1), None)
        counted = t in COUNTED

        def with_bounds(args: Any = args, before: groups.Bounds = bounds) -> tuple[mx.array, ...]:
            labels, after = bounded(*args, bounds=before)
            return labels, *after

        ours = step(with_bounds, counted=counted)
        bounds = groups.Bounds(*ours.arrays[1:])
        if counted:
            fused = step(partial(plain, *args), counted=True)
            np.testing.assert_array_equal(np.array(ours.arrays[0]), np.array(fused.arrays[0]))
            out.append(
                f"| {case.name} | {t} | {fused.matrix} | {ours.matrix}"
                f" | {ours.matrix / fused.matrix:.3f} | {fused.moved / 1e3:.0f}"
                f" | {ours.moved / 1e3:.0f} |"
            )
        before, labels = labels, np.array(ours.arrays[0])[0].astype(np.int64)
        if t > 1 and (labels == before).all():
            break
        c = means(rows, labels, c)
    share = groups.share_compared(bounds, tiles)
    out.append(f"| {case.name} | all {int(np.array(bounds.steps))} | | | {share:.3f} | | |")
    return out


if __name__ == "__main__":
    mx.fast.metal_kernel = EmulatedKernel
    table = [*HEAD, *(line for case in PROBLEMS for line in lines(case))]
    print("\n".join(table))
    PAGE.write_text(replace_table(PAGE.read_text("utf-8"), HEAD, table), "utf-8")
