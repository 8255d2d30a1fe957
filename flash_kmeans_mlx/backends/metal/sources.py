"""Definitions of the kernels for `mx.fast.metal_kernel`, and the calls of what it builds.

A definition names files of `kernels/metal`, inputs and outputs, and holds the few lines that call
the function in those files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import mlx.core as mx

from .device import Launch

__all__ = ["BEST_TYPES", "DEFINITIONS", "Definition", "build", "call", "source_text"]

# Attributes of a thread that MLX passes where the source names them, and expressions on inputs.
POSITION = "threadgroup_position_in_grid"
GROUPS = "threadgroups_per_grid"
SIMDGROUP = "simdgroup_index_in_threadgroup"
LANE = "thread_index_in_simdgroup"
PROBLEM = "make_problem(x, c, bias, shift, factor, x_shape[1], c_shape[1], x_shape[2])"
ROWS = "make_rows(x, weight, shift, factor, x_shape[1], x_shape[2])"
SCORES = "typedef Scores<T, NSG, RB, CB, BK, RES, VEC, FRAMED> S;"
POINTS_IN = ("x", "c", "bias", "shift", "factor")
BOUNDS_IN = (
    *("index", "position", "drift", "group_drift", "most"),
    *("place", "upper", "lower", "square"),
)
BOUNDS = f"make_bounds({', '.join(BOUNDS_IN)}, x_shape[1], index_shape[1], x_shape[2], lower_shape[2])"
BEST = ("label", "score")
BEST_TYPES = (mx.uint32, mx.float32)


@dataclass(frozen=True)
class Definition:
    """The arguments of `mx.fast.metal_kernel`.

    Attributes:
        headers: Names of files of `kernels/metal`, which make up the header.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        source: The body of the kernel.
    """

    headers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str


DEFINITIONS = {
    "assign_rows": Definition(
        ("common", "scores", "assign"),
        POINTS_IN,
        BEST,
        f"""
  {SCORES}
  threadgroup float2 tile[S::TILE / 2];
  threadgroup float2 bias_tile[S::BN / 2];
  assign_rows<S>(
      {PROBLEM}, label, score, tile, bias_tile,
      {POSITION}, {GROUPS}, {SIMDGROUP}, {LANE});
""",
    ),
    "assign_points": Definition(
        ("common", "scores", "assign"),
        POINTS_IN,
        BEST,
        f"""
  threadgroup float4 tile[BN * (D / 4 + 1)];
  assign_points<T, D, PT, BN, FRAMED>(
      {PROBLEM}, label, score, tile,
      {POSITION}, {GROUPS}, thread_index_in_threadgroup, threads_per_threadgroup.x);
""",
    ),
    "flag_rows": Definition(
        ("common", "scores", "groups"),
        ("x", *BOUNDS_IN),
        ("key",),
        f"""
  flag_row({BOUNDS}, key, thread_position_in_grid.x, thread_position_in_grid.y);
""",
    ),
    "assign_groups": Definition(
        ("common", "scores", "groups"),
        (*POINTS_IN, *BOUNDS_IN, "key", "order"),
        ("new_place", "new_upper", "new_lower", "compared"),
        f"""
  typedef Groups<T, NSG, RB, CB, BK, RES, VEC, FRAMED> G;
  threadgroup float2 tile[G::S::TILE / 2];
  threadgroup float2 bias_tile[G::S::BN / 2];
  threadgroup uint wanted[NSG * WORDS];
  G::assign(
      {PROBLEM}, {BOUNDS}, key, order, new_place, new_upper, new_lower, compared,
      tile, bias_tile, wanted, {POSITION}, {GROUPS}, {SIMDGROUP}, {LANE});
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
    "sort_chunk": Definition(
        ("common", "order"),
        ("labels", "order", "limits", "base", "sizes"),
        ("out",),
        f"""
  threadgroup uint table[TABLE];
  sort_chunk<PLACE, INDEXED>(
      labels, order, limits, base, sizes, out, labels_shape[1], table,
      {POSITION}.x, {GROUPS}.x, {POSITION}.y, {LANE});
""",
    ),
    "find_offsets": Definition(
        ("common", "order"),
        ("labels", "order", "limits", "sizes"),
        ("offsets",),
        """
  find_offsets(
      labels, order, limits, sizes, offsets, labels_shape[1],
      thread_position_in_grid.x, thread_position_in_grid.y);
""",
    ),
    "sum_chunks": Definition(
        ("common", "accumulate"),
        ("x", "weight", "shift", "factor", "labels", "order", "offsets", "sizes"),
        ("partial",),
        f"""
  sum_chunk<T, LANES, W, WEIGHTED, FRAMED>(
      {ROWS}, labels, order, offsets, partial, offsets_shape[1] - 1, sizes[0], sizes[1],
      {POSITION}.x * NSG + {SIMDGROUP}, {POSITION}.y, {POSITION}.z, {LANE});
""",
    ),
    "sum_clusters": Definition(
        ("common", "accumulate"),
        ("x", "weight", "shift", "factor", "order", "offsets", "partial", "sizes"),
        ("sums", "weight_sum"),
        f"""
  threadgroup float scratch[NSG * (LANES * W + 1)];
  sum_cluster<T, LANES, W, NSG, WEIGHTED, FRAMED>(
      {ROWS}, order, offsets, partial, sums, weight_sum, offsets_shape[1] - 1, sizes[0], sizes[1],
      scratch, {POSITION}.x, {POSITION}.y, {POSITION}.z, {SIMDGROUP}, {LANE});
""",
    ),
    "sum_dense": Definition(
        ("common", "accumulate"),
        ("x", "weight", "shift", "factor", "labels", "sizes"),
        ("partial", "weight_sum", "counts"),
        f"""
  threadgroup float table[NSG * TABLE * 32];
  sum_dense<T, LANES, WEIGHTED, FRAMED>(
      {ROWS}, labels, partial, weight_sum, counts, sizes[0], sizes[1],
      table + {SIMDGROUP} * (TABLE * 32),
      {POSITION}.x, {GROUPS}.x, {POSITION}.y * NSG + {SIMDGROUP}, {POSITION}.z, {LANE});
""",
    ),
    "move_centroids": Definition(
        ("common", "move"),
        ("sums", "weight_sum", "old", "shift", "scale", "active"),
        ("c", "normalised", "bias", "moved"),
        f"""
  move_centroid<SPHERICAL, FRAMED>(
      sums, weight_sum, old, shift, scale, active, c, normalised, bias, moved,
      sums_shape[1], sums_shape[2], {POSITION}.x, {POSITION}.y, {LANE});
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
