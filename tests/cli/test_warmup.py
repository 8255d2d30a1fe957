"""`flash-kmeans warmup` reaches every kernel that the package calls, and later processes compile nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flash_kmeans_mlx
from flash_kmeans_mlx.cli import app, warmup

BACKEND = Path(flash_kmeans_mlx.__file__).parent / "backends" / "cpu"
object_cache: Any = import_module("flash_kmeans_mlx.kernels.cpu.object_cache")


def kernels_that_are_called() -> dict[str, Any]:
    """Return the kernels that Python code calls, by name."""
    found = {}
    for path in BACKEND.glob("*.py"):
        for module, name in re.findall(r"kernels\.([a-z0-9_]+)\.([a-z]\w*)", path.read_text()):
            value = getattr(import_module(f"flash_kmeans_mlx.kernels.cpu.{module}"), name, None)
            if hasattr(value, "signatures"):
                found[f"{module}.{name}"] = value
    return found


@pytest.mark.filterwarnings("ignore")
def test_every_kernel_is_reached() -> None:
    for feature in warmup.FEATURES.values():
        feature()
    called = kernels_that_are_called()
    assert len(called) > 35
    has_bytes = bool(import_module("flash_kmeans_mlx.kernels.cpu.ir").INT8)
    missed = {name for name, kernel in called.items() if not kernel.signatures}
    assert not {name for name in missed if has_bytes or not name.startswith(("int8", "near"))}


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "compile_kernels", lambda jobs: (f"part {i}" for i in range(jobs)))
    result = CliRunner().invoke(app, ["warmup", "--jobs", "2"])
    assert result.exit_code == 0
    assert result.output.startswith("ready: part 0\nready: part 1\nall kernels are compiled")


FIT = """
import sys
sys.modules["numba.core"] = None  # compiling would fail
import numpy as np
import flash_kmeans_mlx as fk
x = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
fk.batch_kmeans_Euclid(x, 8, 3, backend="cpu")
"""


def test_a_cache_that_an_image_brings_along(tmp_path: Path) -> None:
    """As in a container: kernels were compiled when it was built, and its folder can't be written to."""
    warmup.FEATURES["fits"]()
    key = f"flash-kmeans-{object_cache.key()}"
    (folder,) = {folder / key for folder in object_cache.folders() if (folder / key).exists()}
    shutil.copytree(folder, tmp_path / key)
    for path in (*(tmp_path / key).iterdir(), tmp_path / key, tmp_path):
        path.chmod(0o555)
    environment = {**os.environ, "FLASH_KMEANS_CACHE_DIR": str(tmp_path), "HOME": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
