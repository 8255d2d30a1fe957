"""Kernels on disk: damaged, missing or full, a kernel computes what it should, and says so once where it can't be kept."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import config
from numba.core.codegen import CodeLibrary

import flash_kmeans_mlx as fk

jit: Any = import_module("flash_kmeans_mlx.kernels.cpu.jit")


def _successor(i: Any) -> Any:
    return i + 1


def kernel() -> Any:
    """Return `_successor`, compiled anew or read from the cache."""
    return jit.njit(cache=True, nogil=True)(_successor)


def read_from_disk(function: Any) -> int:
    """Call the function with two types, and return how many of them were on disk."""
    assert (function(3), function(0.5)) == (4, 1.5)
    return sum(function._cache_hits.values())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of this test's own."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_said", [])
    return tmp_path


def swap(files: list[Path]) -> None:
    """Save each signature's code under the other's name."""
    first, second = (path.read_bytes() for path in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def every(change: Callable[[bytes], bytes]) -> Callable[[list[Path]], None]:
    def damage(files: list[Path]) -> None:
        for path in files:
            path.write_bytes(change(path.read_bytes()))

    return damage


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[list[Path]], None]] = {
    "emptied": every(lambda _: b""),
    "truncated": every(lambda data: data[: len(data) // 3]),
    "shorter by a byte": every(lambda data: data[:-1]),
    "a bit flipped": every(flipped),
    "of something else": every(lambda _: b"x" * 400),
    "removed": lambda files: [path.unlink() for path in files].clear(),
}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_written_again(
    place: Path, damage: str, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (read_from_disk(kernel()), read_from_disk(kernel())) == (0, 2)
    DAMAGE[damage](list(place.rglob(f"*.{suffix}")))
    assert (read_from_disk(kernel()), read_from_disk(kernel())) == (0, 2)
    assert "can't be kept" not in capfd.readouterr().err


def test_code_under_the_name_of_other_code_is_not_used(place: Path) -> None:
    read_from_disk(kernel())
    swap(list(place.rglob("*.nbc")))
    assert (read_from_disk(kernel()), read_from_disk(kernel())) == (0, 2)


def test_code_of_other_sources_is_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_from_disk(kernel())
    monkeypatch.setattr(jit, "_sources", lambda: "another kernel has changed")
    assert read_from_disk(kernel()) == 0


def test_a_full_disk_is_reported_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert read_from_disk(kernel()) == read_from_disk(kernel()) == 0
    assert not list(place.rglob("*.tmp*"))
    said = capfd.readouterr().err
    assert (
        said.count("kernels can't be kept on disk (No space left on device)")
        == said.count("\n")
        == 1
    )
    assert (read_from_disk(kernel()), read_from_disk(kernel())) == (0, 2)  # once there is space


def test_a_place_that_can_only_be_read_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from_disk(kernel())
    (folder,) = {str(path.parent) for path in place.rglob("*.nbi")}
    brought = type("Brought", (jit._InTree,), {"get_cache_path": lambda _: folder})
    monkeypatch.setattr(jit._Kind, "_locator_classes", [brought])
    assert read_from_disk(kernel()) == 2


def test_no_place_at_all_is_reported_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jit._Kind, "_locator_classes", [])
    assert read_from_disk(kernel()) == read_from_disk(kernel()) == 0
    assert capfd.readouterr().err.count("kernels can't be kept on disk") == 1


SEARCH = """
import numpy as np
import flash_kmeans_mlx as fk
x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
print(fk.__file__, fk.knn(x, x, 2, backend="cpu")[1].tolist())
"""


def test_a_package_that_can_write_nowhere_computes(tmp_path: Path) -> None:
    package = tmp_path / "flash_kmeans_mlx"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fk.__file__).parent, package, ignore=ignore)
    shutil.copytree(
        Path(jit.__file__).parents[1], package / "kernels", ignore=ignore, dirs_exist_ok=True
    )
    (
        package / "kernels" / "cpu" / "__pycache__"
    ).touch()  # a file where Numba wants a folder: of use to root too
    environment = {
        **os.environ,
        "HOME": "/dev/null",
        "NUMBA_CACHE_DIR": "/dev/null/x",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment |= {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": "/dev/null"}
    done = subprocess.run(
        [sys.executable, "-c", SEARCH],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1) == [
        str(package / "__init__.py"),
        f"{fk.knn(x, x, 2, backend='cpu')[1].tolist()}\n",
    ]
    assert (
        done.stderr.count("kernels can't be kept on disk") == 1 and "Traceback" not in done.stderr
    )


@pytest.mark.usefixtures("place")
def test_ctrl_c_while_llvm_calls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python only prints an exception in that callback; the code is then missing for the cache."""
    successor = kernel()

    with monkeypatch.context() as patch:
        missing = property(lambda _: None, lambda *_: None)
        patch.setattr(CodeLibrary, "_compiled_object", missing, raising=False)
        with pytest.raises(KeyboardInterrupt):
            successor(3)
    assert successor(3) == 4
