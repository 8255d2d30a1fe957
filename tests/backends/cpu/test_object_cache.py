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

import pytest

import flash_kmeans_mlx as fk

jit: Any = import_module("flash_kmeans_mlx.kernels.cpu.jit")
object_cache: Any = import_module("flash_kmeans_mlx.kernels.cpu.object_cache")


def successor(i: Any) -> Any:
    return i + 1


class Loads:
    """Counts what is compiled, and gives every symbol that is loaded a name of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled = 0
        compiler = import_module("flash_kmeans_mlx.kernels.cpu.compiler")
        compile_kernel = compiler.compile_kernel

        def counted(*arguments: Any) -> Any:
            self.compiled += 1
            return compile_kernel(*arguments)

        monkeypatch.setattr(compiler, "compile_kernel", counted)

    def from_disk(self) -> int:
        """Call a new kernel with two kinds, and return how many of them were on disk."""
        before = self.compiled
        kernel = jit.njit(successor)
        assert (kernel(3), kernel(0.5)) == (4, 1.5)
        return 2 - (self.compiled - before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of this test's own."""
    monkeypatch.setenv("FLASH_KMEANS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(object_cache, "_said", [])
    return tmp_path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def every(change: Callable[[bytes], bytes]) -> Callable[[list[Path]], None]:
    def damage(paths: list[Path]) -> None:
        for path in paths:
            path.write_bytes(change(path.read_bytes()))

    return damage


def swap(paths: list[Path]) -> None:
    """Save each kind's code under the other's name."""
    first, second = (path.read_bytes() for path in paths)
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE: dict[str, Callable[[list[Path]], None]] = {
    "emptied": every(lambda _: b""),
    "truncated": every(lambda data: data[: len(data) // 3]),
    "shorter by a byte": every(lambda data: data[:-1]),
    "a bit flipped": every(flipped),
    "of something else": every(lambda _: b"x" * 400),
    "removed": lambda paths: [path.unlink() for path in paths].clear(),
    "swapped": swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_written_again(
    folder: Path, loads: Loads, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (loads.from_disk(), loads.from_disk()) == (0, 2)
    DAMAGE[damage](files(folder))
    assert (loads.from_disk(), loads.from_disk()) == (0, 2)
    assert "can't be kept" not in capfd.readouterr().err


@pytest.mark.parametrize("part", ["_sources", "_numba_version", "cpu_features", "cpu_name"])
def test_code_of_other_sources_versions_or_cpus_is_not_used(
    folder: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    loads.from_disk()
    with monkeypatch.context() as patch:
        patch.setattr(object_cache, part, lambda: "another")
        object_cache.key.cache_clear()
        assert loads.from_disk() == 0
    object_cache.key.cache_clear()
    assert loads.from_disk() == 2
    assert len(files(folder)) == 4


def test_code_that_needs_more_than_this_process_has_is_not_used(folder: Path, loads: Loads) -> None:
    loads.from_disk()
    for path in files(folder):
        header, _, code = path.read_bytes()[object_cache.SUM_BYTES :].partition(b"\n")
        assert b'"externals": [' in header
        rest = header.replace(b'"externals": [', b'"externals": ["no_such_function", ') + b"\n"
        rest = rest.replace(b", ]", b"]") + code
        path.write_bytes(object_cache._sum(rest) + rest)
    assert loads.from_disk() == 0


def test_a_full_disk_is_reported_once(
    folder: Path,
    loads: Loads,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert loads.from_disk() == loads.from_disk() == 0
    assert not files(folder)
    said = capfd.readouterr().err
    assert said.count("kernels can't be kept on disk (No space left on device)") == 1
    assert (loads.from_disk(), loads.from_disk()) == (0, 2)  # once there is space


def test_a_folder_that_can_only_be_read_is_read(
    folder: Path, loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.from_disk()
    blocked = tmp_path / "a file where a folder should be"
    blocked.touch()
    monkeypatch.setattr(object_cache, "folders", lambda: (blocked, folder))
    assert loads.from_disk() == 2


def test_no_folder_at_all_is_reported_once(
    loads: Loads, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(object_cache, "_said", [])
    monkeypatch.setattr(object_cache, "folders", lambda: ())
    assert loads.from_disk() == loads.from_disk() == 0
    assert capfd.readouterr().err.count("kernels can't be kept on disk") == 1


TRANSPOSE = """
import numpy as np
import flash_kmeans_mlx as fk
from flash_kmeans_mlx.kernels.cpu.lanes import to_lanes
x = np.arange(6, dtype=np.float32).reshape(2, 3)
lanes = np.zeros((3, 2), np.float32)
to_lanes(x, lanes)
print(fk.__file__, lanes.tolist())
"""


def copied(tmp_path: Path) -> dict[str, str]:
    """Copy the package without its cache, and return the environment that finds the copy alone."""
    package = tmp_path / "flash_kmeans_mlx"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fk.__file__).parent, package, ignore=ignore)
    shutil.copytree(
        Path(jit.__file__).parents[1], package / "kernels", ignore=ignore, dirs_exist_ok=True
    )
    environment = {
        **os.environ,
        "HOME": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tmp_path),
    }
    environment.pop("FLASH_KMEANS_CACHE_DIR", None)
    return environment


def transpose(environment: dict[str, str], tmp_path: Path) -> str:
    """Call a kernel in a new process; return what it printed as errors."""
    done = subprocess.run(
        [sys.executable, "-c", TRANSPOSE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    module = tmp_path / "flash_kmeans_mlx" / "__init__.py"
    assert done.stdout == f"{module} [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]\n"
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_package_that_can_write_nowhere_computes(tmp_path: Path) -> None:
    environment = copied(tmp_path)
    # A file where a folder is wanted: of use to root too.
    (tmp_path / "flash_kmeans_mlx" / "kernels" / "cpu" / "__pycache__").touch()
    assert transpose(environment, tmp_path).count("kernels can't be kept on disk") == 1


def test_processes_that_start_together_share_one_cache(tmp_path: Path) -> None:
    environment = copied(tmp_path)
    command = [sys.executable, "-c", TRANSPOSE]
    first = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait(timeout=300) for process in first] == [0, 0, 0]
    assert transpose(environment, tmp_path) == ""  # nothing is compiled
