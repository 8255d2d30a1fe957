"""Measure the peak memory of a call, and check that it stays under its cap."""

from __future__ import annotations

import gc
import re
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numba.core import event

Call = Callable[[float], Any]


def points(b: int, n: int, d: int) -> np.ndarray:
    """Return (B, N, D) float32 normal numbers."""
    return np.random.default_rng([b, n, d]).standard_normal((b, n, d), np.float32)


def peak(call: Callable[[], Any]) -> int:
    """Return the bytes that a call takes at its highest point, MLX's and NumPy's peaks added up.

    A call that loads code is measured once more: code is not what caps are about.
    """
    before = loaded()
    compiling = _CompileUntraced()
    with event.install_listener("numba:compile", compiling):
        found = _peak(call)
    return found if loaded() == before and not compiling.seen else _peak(call)


class _CompileUntraced(event.Listener):
    """Ends the measurement where a kernel is compiled, which takes many times as long under it."""

    seen = False

    def on_start(self, event: event.Event) -> None:
        del event
        self.seen = True
        tracemalloc.stop()

    def on_end(self, event: event.Event) -> None:
        """Leave the rest to the second measurement."""


def _peak(call: Callable[[], Any]) -> int:
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    try:
        call()
        mlx = max(mx.get_peak_memory() - before, 0)  # 0 where MLX allocated nothing
        return tracemalloc.get_traced_memory()[1] + mlx
    finally:
        tracemalloc.stop()


def loaded() -> int:
    """Return the number of modules and compiled kernels in this process."""
    kernels = [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.startswith("flash_kmeans_mlx.kernels.cpu.")
    ]
    found = (getattr(f, "signatures", None) for names in kernels for f in names.values())
    return len(sys.modules) + sum(len(kinds) for kinds in found if isinstance(kinds, list))


def stated_need(call: Call) -> float:
    """Return what the refusal of an impossible cap asks for, in GB."""
    with pytest.raises(ValueError, match=r"^max_mem_gb=1e-09 must be >= ") as caught:
        call(1e-9)
    found = re.match(r"max_mem_gb=1e-09 must be >= (\S+) GB", str(caught.value))
    assert found
    return float(found[1])


def check_cap(call: Call) -> Any:
    """Check that the least cap that is said to suffice does, and that it and three times as much are kept.

    Returns:
        The result under the larger cap.
    """
    need = stated_need(call)
    assert peak(lambda: call(need)) <= need * 1e9
    results: list[Any] = []
    assert peak(lambda: results.append(call(3 * need))) <= 3 * need * 1e9
    return results[-1]
