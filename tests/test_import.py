"""`import flash_kmeans_mlx` takes little time, imports little, starts no thread and writes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "import flash_kmeans_mlx"
# Modules that are imported where they are used. MLX and NumPy may have imported some of them.
HEAVY = {
    *("dask", "distributed", "faiss", "llvmlite", "matplotlib", "numba", "pandas", "polars"),
    *("pyarrow", "rich", "scipy", "sklearn", "torch", "typer", "voyager"),
    *("asyncio", "concurrent.futures", "email", "importlib.metadata", "importlib.resources"),
    *("logging", "multiprocessing", "shutil", "socket", "tempfile", "uuid", "zipfile"),
}
# Prints a line for everything that the import does besides reading.
WATCH = """
import os, sys, threading
import mlx.core, numpy
def tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
watching = True
def hook(event, args):
    if not watching:
        return
    if event == "open":
        flags = args[2] if isinstance(args[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            print("writes", args[0])
    elif event in {"os.mkdir", "os.rename", "os.remove", "os.symlink", "subprocess.Popen",
                   "os.fork", "os.posix_spawn", "socket.connect", "tempfile.mkdtemp"}:
        print(event, args)
before = threading.active_count(), tasks()
sys.addaudithook(hook)
%s
watching = False
after = threading.active_count(), tasks()
if after != before:
    print("threads", before, after)
"""


def output(script: str, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def heavy_modules(line: str) -> list[str]:
    """Return what a line imports of HEAVY, beyond MLX and NumPy."""
    script = "import sys, mlx.core, numpy\nbefore = set(sys.modules)\n"
    return output(f"{script}{line}\nprint(*{HEAVY!r} & (sys.modules.keys() - before), sep='\\n')")


def effects(line: str, folder: Path) -> list[str]:
    """Return what a line does besides reading, with empty folders for homes and caches."""
    home, temporary = folder / "home", folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    found = output(
        WATCH % line,
        HOME=str(home),
        XDG_CACHE_HOME=str(home / "cache"),
        TMPDIR=str(temporary),
        PYTHONDONTWRITEBYTECODE="1",
    )
    return found + [str(path) for path in folder.rglob("*") if path not in (home, temporary)]


def test_what_is_imported() -> None:
    found = [name for name in heavy_modules(PACKAGE) if name]
    assert found == [], f"import these where they are used: {found}"


def test_an_import_has_no_effects(tmp_path: Path) -> None:
    assert effects(PACKAGE, tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "os.makedirs(os.path.expanduser('~/cache'))",
        "open(os.environ['TMPDIR'] + '/x', 'w').close()",
        "import subprocess; subprocess.run(['true'])",
    ],
)
def test_effects_are_seen(line: str, tmp_path: Path) -> None:
    assert effects(line, tmp_path) != []


def test_heavy_modules_are_seen() -> None:
    assert "zipfile" in heavy_modules("import zipfile")


def test_an_import_is_fast() -> None:
    """It takes less CPU time than imports of MLX and NumPy: about 0.07 s where those take 0.11."""
    script = """
from time import process_time
begin = process_time()
import mlx.core, numpy
middle = process_time()
import flash_kmeans_mlx
print(middle - begin, process_time() - middle)
"""
    times = [tuple(map(float, output(script)[0].split())) for _ in range(4)]
    others, ours = map(min, zip(*times, strict=True))
    assert ours < others


def test_the_version_is_found_when_it_is_asked_for() -> None:
    lines = output(
        f"{PACKAGE} as fk\nprint('__version__' in vars(fk))\nprint(fk.__version__)"
        "\nprint('__version__' in vars(fk), hasattr(fk, 'other'))"
    )
    assert [lines[0], lines[2]] == ["False", "True False"]
    assert lines[1][0].isdigit()
