"""Definitions of the kernels for `mx.fast.metal_kernel`, and the calls of what it builds.

A definition names files of `kernels/metal`, inputs and outputs, and holds the few lines that call
the function in those files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import mlx.core as mx

from .definition import GROUPS, LANE, POINTS_IN, POSITION, PROBLEM, SIMDGROUP, Definition
from .device import Launch
from .groups_kernels import GROUPS_KERNELS

__all__ = ["BEST_TYPES", "DEFINITIONS", "Definition", "build", "call", "source_text"]

ROWS = "make_rows(x, weight, shift, factor, x_shape[1], x_shape[2])"
SCORES = "typedef Scores<T, NSG, RB, CB, BK, RES, VEC, FRAMED> S;"
FOUND_IN = ("found", "score", "old")
OLD_SUMS_IN = ("old_sums", "old_weight_sum", "old_counts")
SUMS_OUT = ("sums", "weight_sum", "counts")
PROGRESS_IN = ("running", "remaining", "status")
PROGRESS_OUT = ("active", "left", "result")
BEST = ("label", "score")
BEST_TYPES = (mx.uint32, mx.float32)


DEFINITIONS = {
    "assign_rows": Definition(
        ("common", "scores", "assign"),
        (*POINTS_IN, "running"),
        BEST,
        f"""
  {SCORES}
  threadgroup float2 tile[S::TILE / 2];
  threadgroup float2 bias_tile[S::BN / 2];
  if (running[{POSITION}.y] == 0) return;
  assign_rows<S>(
      {PROBLEM}, label, score, tile, bias_tile,
      {POSITION}, {GROUPS}, {SIMDGROUP}, {LANE});
""",
    ),
    "assign_points": Definition(
        ("common", "scores", "assign"),
        (*POINTS_IN, "running"),
        BEST,
        f"""
  threadgroup float4 tile[BN * (D / 4 + 1)];
  if (running[{POSITION}.y] == 0) return;
  assign_points<T, D, PT, BN, FRAMED>(
      {PROBLEM}, label, score, tile,
      {POSITION}, {GROUPS}, thread_index_in_threadgroup, threads_per_threadgroup.x);
""",
    ),
    "argmax": Definition(
        ("common", "argmax"),
        ("scores",),
        BEST,
        """
  best_of_rows<T, LANES, W>(
      scores, label, score, scores_shape[0], scores_shape[1], thread_position_in_grid.x);
""",
    ),
    "take_labels": Definition(
        ("common", "order"),
        (*FOUND_IN, "running"),
        ("labels", "changed"),
        f"""
  take_labels(
      found, score, old, running, labels, changed, found_shape[0], found_shape[1], found_shape[2],
      thread_position_in_grid.x, thread_position_in_grid.y, {LANE});
""",
    ),
    "count_labels": Definition(
        ("common", "order"),
        (*FOUND_IN, "weight", "running", "sizes"),
        ("labels", "changed", "counts"),
        f"""
  threadgroup uint table[TABLE];
  count_labels<WEIGHTED>(
      found, score, old, weight, running, sizes, labels, changed, counts,
      found_shape[0], found_shape[1], found_shape[2], table,
      {POSITION}.x, {GROUPS}.x, {POSITION}.y, {LANE});
""",
    ),
    "sort_chunk": Definition(
        ("common", "order"),
        ("labels", "weight", "order", "before", "base", "running", "sizes"),
        ("out",),
        f"""
  threadgroup uint table[TABLE];
  if (running[{POSITION}.y] == 0) return;
  sort_chunk<PLACE, INDEXED, WEIGHTED>(
      labels, weight, order, before, base, sizes, out, labels_shape[1], before_shape[1] - 1, table,
      {POSITION}.x, {GROUPS}.x, {POSITION}.y, {LANE});
""",
    ),
    "scan_counts": Definition(
        ("common", "order"),
        ("counts", "running"),
        ("base", "starts"),
        f"""
  threadgroup uint totals[NSG];
  if (running[{POSITION}.y] == 0) return;
  scan_counts<NSG>(
      counts, base, starts, totals, counts_shape[1], counts_shape[2],
      {POSITION}.y, {SIMDGROUP}, {LANE});
""",
    ),
    "find_offsets": Definition(
        ("common", "order"),
        ("labels", "order", "before", "running", "sizes"),
        ("offsets",),
        """
  if (running[thread_position_in_grid.y] == 0) return;
  find_offsets(
      labels, order, before, sizes, offsets, labels_shape[1], before_shape[1] - 1,
      thread_position_in_grid.x, thread_position_in_grid.y);
""",
    ),
    "sum_chunks": Definition(
        ("common", "accumulate"),
        ("x", "weight", "shift", "factor", "labels", "order", "offsets", "running", "sizes"),
        ("partial",),
        f"""
  if (running[{POSITION}.z] == 0) return;
  sum_chunk<T, LANES, W, WEIGHTED, FRAMED>(
      {ROWS}, labels, order, offsets, partial, offsets_shape[1] - 1, sizes[0], sizes[1],
      {POSITION}.x * NSG + {SIMDGROUP}, {POSITION}.y, {POSITION}.z, {LANE});
""",
    ),
    "sum_clusters": Definition(
        ("common", "accumulate", "stop"),
        (
            *("x", "weight", "shift", "factor", "order", "offsets", "partial"),
            *OLD_SUMS_IN,
            *PROGRESS_IN,
            *("changed", "sizes"),
        ),
        (*SUMS_OUT, *PROGRESS_OUT),
        f"""
  threadgroup float scratch[NSG * (LANES * W + 1)];
  const uint K = old_counts_shape[1], batch = {POSITION}.z;
  if ({POSITION}.x == 0 && {POSITION}.y == 0 && {SIMDGROUP} == 0)
    check_labels<true, STABLE>(
        running, remaining, status, changed, offsets, sizes[2] != 0, active, left, result,
        changed_shape[1], K, batch, {LANE});
  if (running[batch] == 0) {{
    keep_sums(
        old_sums, old_weight_sum, old_counts, sums, weight_sum, counts, K, x_shape[2], LANES * W,
        {POSITION}.x, {POSITION}.y, batch, {SIMDGROUP} * 32 + {LANE}, NSG * 32);
    return;
  }}
  sum_cluster<T, LANES, W, NSG, WEIGHTED, FRAMED>(
      {ROWS}, order, offsets, partial, sums, weight_sum, counts, K, sizes[0], sizes[1],
      scratch, {POSITION}.x, {POSITION}.y, batch, {SIMDGROUP}, {LANE});
""",
    ),
    "sum_dense": Definition(
        ("common", "accumulate"),
        ("x", "weight", "shift", "factor", "labels", "running", "sizes"),
        ("partial", "weight_sum", "counts"),
        f"""
  threadgroup float table[NSG * TABLE * 32];
  if (running[{POSITION}.z] == 0) return;
  sum_dense<T, LANES, WEIGHTED, FRAMED>(
      {ROWS}, labels, partial, weight_sum, counts, sizes[0], sizes[1],
      table + {SIMDGROUP} * (TABLE * 32),
      {POSITION}.x, {GROUPS}.x, {POSITION}.y * NSG + {SIMDGROUP}, {POSITION}.z, {LANE});
""",
    ),
    "join_dense": Definition(
        ("common", "accumulate"),
        ("partial", "weights", "rows", *OLD_SUMS_IN, "running"),
        SUMS_OUT,
        f"""
  threadgroup float scratch[NSG * (LANES + 1)];
  threadgroup uint row_scratch[NSG];
  const uint K = partial_shape[2], D = partial_shape[3], batch = {POSITION}.z;
  if (running[batch] == 0) {{
    keep_sums(
        old_sums, old_weight_sum, old_counts, sums, weight_sum, counts, K, D, LANES,
        {POSITION}.x, {POSITION}.y, batch, {SIMDGROUP} * 32 + {LANE}, NSG * 32);
    return;
  }}
  join_dense<LANES, NSG, WEIGHTED>(
      partial, weights, rows, sums, weight_sum, counts, partial_shape[1], K, D,
      scratch, row_scratch, {POSITION}.x, {POSITION}.y, batch, {SIMDGROUP}, {LANE});
""",
    ),
    "check_labels": Definition(
        ("common", "stop"),
        (*PROGRESS_IN, "changed", "counts", "sizes"),
        PROGRESS_OUT,
        f"""
  check_labels<false, STABLE>(
      running, remaining, status, changed, counts, sizes[0] != 0, active, left, result,
      changed_shape[1], counts_shape[1], {POSITION}.y, {LANE});
""",
    ),
    "move_centroids": Definition(
        ("common", "move"),
        ("sums", "weight_sum", "old", "shift", "scale", "active"),
        ("c", "normalised", "bias", "moved", "still"),
        f"""
  move_centroid<SPHERICAL, FRAMED>(
      sums, weight_sum, old, shift, scale, active, c, normalised, bias, moved, still,
      sums_shape[1], sums_shape[2], {POSITION}.x, {POSITION}.y, {LANE});
""",
    ),
    "check_moves": Definition(
        ("common", "stop"),
        ("active", "squares", "still", "status", "moved", "scale", "tol"),
        ("goes_on", "result", "move"),
        f"""
  check_moves<SUMMED, FRAMED, SETTLED>(
      active, squares, still, status, moved, scale, tol, goes_on, result, move,
      squares_shape[1], {POSITION}.y, {LANE});
""",
    ),
    "top_rows": Definition(
        ("common", "scores", "topk"),
        (*POINTS_IN, "after_score", "after_index", "sizes"),
        BEST,
        f"""
  {SCORES}
  threadgroup float2 tile[S::TILE / 2];
  threadgroup float2 bias_tile[S::BN / 2];
  threadgroup float scratch[NSG * 8 * S::BN];
  threadgroup float list_score[S::BM * 32];
  threadgroup uint list_index[S::BM * 32];
  top_rows<S, AFTER>(
      {PROBLEM}, after_score, after_index, label, score, sizes[0],
      tile, bias_tile, scratch, list_score, list_index, {POSITION}, {GROUPS}, {SIMDGROUP}, {LANE});
""",
    ),
    "top_of_rows": Definition(
        ("common", "topk"),
        ("scores", "index", "after_score", "after_index", "sizes"),
        BEST,
        f"""
  top_of_row<T, W, INDEXED, AFTER>(
      scores, index, after_score, after_index, label, score,
      scores_shape[0], scores_shape[1], sizes[0], {POSITION}.x * 4 + {SIMDGROUP}, {LANE});
""",
    ),
    **GROUPS_KERNELS,
}


def source_text(name: str) -> str:
    """Return the text of a file of `kernels/metal`."""
    return (files("flash_kmeans_mlx.kernels.metal") / f"{name}.metal").read_text(encoding="utf-8")


def call(
    name: str,
    *,
    inputs: list[mx.array],
    launch: Launch,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[mx.Dtype],
    **template: Any,
) -> list[mx.array]:
    """Call a kernel.

    Args:
        name: Its name in `DEFINITIONS`.
        inputs: Arrays in the order of its definition.
        launch: The grid.
        shapes: Shapes of the outputs.
        dtypes: Dtypes of the outputs.
        **template: Template arguments.

    Returns:
        The outputs.
    """
    return build(name)(
        inputs=inputs,
        output_shapes=list(shapes),
        output_dtypes=list(dtypes),
        grid=launch.grid,
        threadgroup=launch.threadgroup,
        template=list(template.items()),
    )


def build(name: str) -> Callable[..., list[mx.array]]:
    """Return the kernel of that name, made once by what `mx.fast.metal_kernel` is at the time."""
    return _build(mx.fast.metal_kernel, name)


@lru_cache(maxsize=64)
def _build(factory: Any, name: str) -> Callable[..., list[mx.array]]:
    definition = DEFINITIONS[name]
    return factory(
        name=f"flash_kmeans_{name}",
        input_names=list(definition.inputs),
        output_names=list(definition.outputs),
        source=definition.source,
        # The compiler's messages then name the kernel.
        header="\n".join(
            [
                f'#line 2 "flash_kmeans_{name}"',
                *(source_text(header) for header in definition.headers),
            ]
        ),
    )
