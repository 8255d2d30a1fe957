"""The Numba kernels, imported when first needed: Numba takes longer to import than all the rest."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import SimpleNamespace

__all__ = ["kernels"]


@cache
def kernels() -> SimpleNamespace:
    """All functions of kernels/cpu in one namespace; by name, as `kernels/` is part of this package only once installed."""
    found: dict[str, object] = {}
    for name in ("blas", "lanes", "rows", "team", "tile", "loop", "prune", "seed"):
        found.update(vars(import_module(f"flash_kmeans_mlx.kernels.cpu.{name}")))
    return SimpleNamespace(**{k: v for k, v in found.items() if not k.startswith("_")})
