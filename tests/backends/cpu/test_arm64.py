"""Backend "cpu" passes its conformance suite on an emulated ARM64: `pytest -m arm64`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "arm64"


@pytest.mark.arm64
@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64-static") and shutil.which("apt-get")),
    reason="tests/arm64 needs qemu-aarch64-static and apt-get",
)
def test_the_conformance_suite_on_arm64() -> None:
    """The system and the compiled kernels are kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "flash-kmeans-mlx-arm64"
    run = subprocess.run([SCRIPT, folder], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
