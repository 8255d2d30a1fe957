"""Definitions of the kernels of `kernels/metal/groups.metal`."""

from __future__ import annotations

from .definition import GROUPS, LANE, POINTS_IN, POSITION, PROBLEM, SIMDGROUP, Definition

__all__ = ["GROUPS_KERNELS"]

BOUNDS_IN = (
    *("index", "position", "drift", "group_drift", "most"),
    *("place", "upper", "lower", "square"),
)
SIZES = "x_shape[1], index_shape[1], x_shape[2], lower_shape[2]"
BOUNDS = f"make_bounds({', '.join(BOUNDS_IN)}, {SIZES})"

GROUPS_KERNELS = {
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
}
