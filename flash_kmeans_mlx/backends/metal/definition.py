"""The form of a kernel's definition, and expressions that several definitions use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GROUPS", "LANE", "POINTS_IN", "POSITION", "PROBLEM", "SIMDGROUP", "Definition"]

# Attributes of a thread that MLX passes where the source names them, and expressions on inputs.
POSITION = "threadgroup_position_in_grid"
GROUPS = "threadgroups_per_grid"
SIMDGROUP = "simdgroup_index_in_threadgroup"
LANE = "thread_index_in_simdgroup"
PROBLEM = "make_problem(x, c, bias, shift, factor, x_shape[1], c_shape[1], x_shape[2])"
POINTS_IN = ("x", "c", "bias", "shift", "factor")


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
