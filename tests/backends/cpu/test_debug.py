"""FLASH_KMEANS_DEBUG: kernels that check their indices."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import numpy as np
from flash_kmeans_mlx.backends.cpu import kernels

points, c, bias = np.ones((3, 64), np.float32), np.ones((5, 3), np.float32), np.zeros(5, np.float32)
best, label = np.zeros(64, np.float32), np.zeros(64, np.int32)
kernels.lanes.best_by_lanes(64, points, 0, c, bias, best, label)
wrong = [
    lambda: kernels.lanes.best_by_lanes(64, points, 1, c, bias, best, label),
    lambda: kernels.lanes.best_by_lanes(64, points[:2], 0, c, bias, best, label),
    lambda: kernels.lanes.best_by_lanes(64, points, 0, c, bias[:4], best, label),
    lambda: kernels.lanes.best_by_lanes(64, points, 0, c, bias, best[:63], label),
]
for call in wrong:
    try:
        call()
    except IndexError as error:
        print(error)
"""


def test_kernels_find_indices_out_of_bounds() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        env={**os.environ, "FLASH_KMEANS_DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout.count("beyond") == 4, run.stdout + run.stderr
