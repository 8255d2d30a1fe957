"""Small kernels, called in one line, for the emulator's own tests."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal import compiler
from metal.emulator import EmulatedKernel

needs_gpp = pytest.mark.skipif(compiler.why_not() is not None, reason=compiler.why_not() or "")


def kernel(source: str, inputs: int = 1, outputs: int = 1, **options: Any) -> EmulatedKernel:
    """A kernel with inputs a, b, ... and outputs y, z, ... of which `source` is the body."""
    name = options.pop("name", "small")
    return EmulatedKernel(name, list("abcdef"[:inputs]), list("yzw"[:outputs]), source, **options)


def run(
    source: str,
    *inputs: Any,
    shapes: Any = None,
    dtypes: Any = None,
    grid: tuple[int, int, int] = (32, 1, 1),
    threadgroup: tuple[int, int, int] = (1024, 1, 1),
    template: Any = None,
    init_value: float | None = None,
    **options: Any,
) -> tuple[np.ndarray, ...]:
    """Outputs as float32 or integer arrays; one output of the grid's first size unless `shapes` says otherwise."""
    shapes = shapes or [(grid[0],)]
    dtypes = dtypes or [mx.float32] * len(shapes)
    made = kernel(source, len(inputs), len(shapes), **options)
    out = made(
        inputs=list(inputs),
        output_shapes=shapes,
        output_dtypes=dtypes,
        grid=grid,
        threadgroup=threadgroup,
        template=template,
        init_value=init_value,
    )
    return tuple(np.array(y.astype(mx.float32) if y.dtype == mx.bfloat16 else y) for y in out)
