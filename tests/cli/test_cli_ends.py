"""How commands end: in their own process, by a signal, on a full disk; never with half a file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call

from flash_kmeans_mlx.cli import commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with q.npy and x.npy."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    np.save("q.npy", rows[:20])
    np.save("x.npy", rows)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("command", ["knn", "fit"])
def test_a_full_disk(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = "r.npz" if command == "knn" else "m.safetensors"
    result = call(
        *(["knn", "q.npy", "x.npy", "-o", out] if command == "knn" else ["fit", "x.npy", "-o", out])
    )
    expected = f"error: '{out}': no space left on device; nothing was written; free some space"
    assert result.exit_code == 1 and expected in result.output
    assert names(folder) == ["q.npy", "x.npy"]


def test_an_interrupted_run_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "search_files", interrupt)
    result = call("knn", "q.npy", "x.npy", "-o", "r.npz")
    assert result.exit_code == 130 and "interrupted: nothing was written" in result.output
    assert names(folder) == ["q.npy", "x.npy"]


def test_the_installed_command_gives_no_traceback(folder: Path) -> None:
    command = Path(sys.executable).parent / "flash-kmeans"
    assert command.exists(), "install the package again"
    done = subprocess.run(
        [command, "info", "none.npy"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith(
        "error: 'none.npy': no such file"
    )


LONG = """
import sys, time
from flash_kmeans_mlx import cli
from flash_kmeans_mlx.cli import commands

def search_files(*args, **options):
    print("started", flush=True)
    time.sleep(300)

commands.search_files = search_files
sys.argv = ["flash-kmeans", "knn", "q.npy", "x.npy", "-o", "r.npz"]
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals for one process")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it(folder: Path, sent: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said, said
    assert names(folder) == ["q.npy", "x.npy"]
