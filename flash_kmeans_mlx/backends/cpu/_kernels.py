"""The Numba kernels, imported when first needed: Numba takes longer to import than all the rest."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

__all__ = ["kernels"]

NAMES = ("sizes", "lanes", "rows", "team", "tile", "centroids", "loop", "features", "prune", "candidates", "seed")


@cache
def kernels() -> SimpleNamespace:
    """All functions of kernels/cpu in one namespace; by name, as `kernels/` is part of this package only once installed."""
    _announce_compilation()
    found: dict[str, object] = {}
    for name in NAMES:
        found.update(vars(import_module(f"flash_kmeans_mlx.kernels.cpu.{name}")))
    return SimpleNamespace(**{k: v for k, v in found.items() if not k.startswith("_")})


def _announce_compilation() -> None:
    """Say so on stderr when kernels are not in the cache on disk: the first call waits for them."""
    from numba.core import event

    class Note(event.Listener):
        def on_start(self, event: event.Event) -> None:
            data: Any = event.data
            if data["dispatcher"].py_func.__module__.split(".")[1:2] == ["kernels"] and not said:
                said.append(True)
                print("flash-kmeans-mlx: compiling kernels for this CPU, once: some 10 seconds", file=sys.stderr, flush=True)

        def on_end(self, event: event.Event) -> None:
            pass

    said: list[bool] = []
    event.register("numba:compile", Note())
