"""The CPU kernels, imported when first used.

``kernels.tile.step_rows`` is `step_rows` of ``kernels/cpu/tile.py``. Importing LLVM, which loads
them, takes as long as importing the rest of the package. The modules are found by name, as
``kernels/`` is a part of this package only once it is installed.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # where an editor finds them
    from kernels.cpu import (
        bounds,
        candidates,
        centroids,
        codes,
        features,
        few,
        finish,
        frames,
        int8,
        int8_candidates,
        int8_labels,
        int8_products,
        int8_rows,
        int8_topk,
        ir,
        lanes,
        lists,
        loop,
        near,
        nibbles,
        proofs,
        prune,
        rows,
        scalar,
        scan,
        scores,
        seed,
        select,
        sizes,
        team,
        tile,
        topk,
        tree,
    )

__all__ = [
    "bounds",
    "candidates",
    "centroids",
    "codes",
    "features",
    "few",
    "finish",
    "frames",
    "int8",
    "int8_candidates",
    "int8_labels",
    "int8_products",
    "int8_rows",
    "int8_topk",
    "ir",
    "is_loaded",
    "lanes",
    "lists",
    "loop",
    "near",
    "nibbles",
    "proofs",
    "prune",
    "rows",
    "scalar",
    "scan",
    "scores",
    "seed",
    "select",
    "sizes",
    "team",
    "tile",
    "topk",
    "tree",
]


def is_loaded(kernel: Any) -> bool:
    """Return whether a kernel has been compiled or read from disk."""
    return bool(kernel.signatures)


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"flash_kmeans_mlx.kernels.cpu.{name}")
    globals()[name] = module  # found without this function from now on
    return module
