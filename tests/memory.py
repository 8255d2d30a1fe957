"""What a call takes at its peak, and whether it stays under its cap."""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

Call = Callable[[float], Any]


def points(b: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng([b, n, d]).standard_normal((b, n, d), np.float32)


def peak(call: Callable[[], Any]) -> int:
    """Bytes that a call takes at its highest point, MLX's and NumPy's peaks added up. Code must have been loaded before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] + mx.get_peak_memory() - before
    finally:
        tracemalloc.stop()


def stated_need(call: Call) -> float:
    """What the refusal of an impossible cap asks for, in GB."""
    with pytest.raises(ValueError, match=r"^max_mem_gb=1e-09 must be >= ") as caught:
        call(1e-9)
    found = re.match(r"max_mem_gb=1e-09 must be >= (\S+) GB", str(caught.value))
    assert found
    return float(found[1])


def check_cap(call: Call) -> Any:
    """The least cap that is said to suffice does, and it and a roomier one hold; the result is that of the roomier one."""
    need = stated_need(call)
    for cap in (need, 3 * need):  # loads code
        call(cap)
    assert peak(lambda: call(need)) <= need * 1e9
    results: list[Any] = []
    assert peak(lambda: results.append(call(3 * need))) <= 3 * need * 1e9
    return results[0]
