"""The Metal backend: kernels of `kernels/metal/` through `mx.fast.metal_kernel`."""

from __future__ import annotations

import mlx.core as mx

__all__ = ["missing"]


def missing() -> str | None:
    """Why Metal can't be used here, or None."""
    if not mx.metal.is_available():
        return "MLX finds no Metal device (it takes an Apple GPU)"
    if mx.default_device().type == mx.DeviceType.cpu:
        return "MLX's default device is the CPU; call mx.set_default_device(mx.gpu) first"
    return None
