"""Other CPUs than this one for the kernels, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest

from flash_kmeans_mlx.backends.cpu.kernels import ir

HOST = {name for name, has in llvmlite.binding.get_host_cpu_features().items() if has}
FORCED = {  # the name of a CPU, its features, and what multiplies bytes then
    "avx2": ("haswell", ["avx2", "fma"], "avx2, vectors of 8"),
    "avx-vnni": ("alderlake", ["avx2", "fma", "avxvnni"], "vnni, vectors of 8"),
    "sdot": ("neoverse-n1", [], "sdot, vectors of 4"),  # whatever has SMMLA has it too
}


def features_of(name: str) -> tuple[str, str]:
    """Return the CPU and its features for `run`, or skip the test where this one lacks them."""
    cpu, features, _ = FORCED[name]
    if not (set(features) <= HOST if features else ir.INT8 == "smmla"):
        pytest.skip(f"this CPU has no {name}")
    return cpu, ",".join(f"+{feature}" for feature in features)


def run(
    script: Path, cache: Path, cpu: str, features: str | None, *arguments: str, **more: str
) -> str:
    """Return what the script prints with kernels compiled for this CPU."""
    environment = {
        **os.environ,
        "FLASH_KMEANS_CACHE_DIR": str(cache),
        "NUMBA_CPU_NAME": cpu,
        **more,
    }
    environment.pop("NUMBA_CPU_FEATURES", None)
    if features is not None:
        environment["NUMBA_CPU_FEATURES"] = features
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
