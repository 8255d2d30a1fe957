"""Object code of kernels on disk: found by what it depends on, and never a reason to fail.

A file is written whole, by one rename, so any number of processes may read and write at once.
Damaged files, and those of other sources or versions, are not used. Code that can't be kept is
compiled again by every process.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
import numpy as np

from .target import cpu_features, cpu_name

__all__ = ["missing", "read", "write"]

SUM_BYTES = 16


def folders() -> Iterator[Path]:
    """Yield the folders that are searched; the first that can be written to is written to.

    It is FLASH_KMEANS_CACHE_DIR alone, if that is set.
    """
    chosen = os.environ.get("FLASH_KMEANS_CACHE_DIR")
    if chosen:
        yield Path(chosen)
        return
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # no home
        if sys.platform == "darwin":
            yield Path.home() / "Library" / "Caches" / "flash-kmeans-mlx"
        else:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            yield Path(home) / "flash-kmeans-mlx"


@cache
def key() -> str:
    """Return a hash of all that object code depends on."""
    digest = hashlib.sha256()
    settings = sorted(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name not in ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")
    )
    parts = (cpu_name(), cpu_features(), platform.machine(), sys.implementation.cache_tag, settings)
    versions = (sys.abiflags, np.__version__.split(".")[0], llvmlite.__version__, _numba_version())
    digest.update(repr((parts, versions, _sources())).encode())
    return digest.hexdigest()[:32]


def _numba_version() -> str:
    """Return what tells Numba's version, which is not imported for it."""
    spec = find_spec("numba")
    if spec is None or spec.origin is None:
        return ""
    with suppress(OSError):
        return Path(spec.origin).with_name("_version.py").read_text()
    return spec.origin


@cache
def _sources() -> str:
    """Return a hash of all kernels: a function's code contains that of functions in other files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read(name: str) -> bytes | None:
    """Return the code of that name, None where there is none."""
    for folder in folders():
        with suppress(OSError, ValueError, KeyError):
            data = (folder / f"flash-kmeans-{key()}" / name).read_bytes()
            return _unpacked(name, data)
    return None


def write(name: str, code: bytes, externals: list[str]) -> None:
    """Keep code that uses external functions of the process; say once if that is impossible."""
    data = _packed(name, code, externals)
    reason = OSError("there is no folder for it")
    for folder in folders():
        try:
            _replace(folder / f"flash-kmeans-{key()}" / name, data)
        except OSError as error:
            reason = error
        else:
            return
    _not_kept(reason)


def _packed(name: str, code: bytes, externals: list[str]) -> bytes:
    """Return the bytes of a file: a checksum, a line of JSON, the code."""
    header = json.dumps({"key": key(), "name": name, "externals": externals}).encode()
    rest = header + b"\n" + code
    return _sum(rest) + rest


def _sum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SUM_BYTES).digest()


def _unpacked(name: str, data: bytes) -> bytes:
    """Return the code in a file; ValueError or KeyError if it is damaged or can't be used."""
    expected, rest = data[:SUM_BYTES], data[SUM_BYTES:]
    if _sum(rest) != expected:
        raise ValueError("damaged")
    header, _, code = rest.partition(b"\n")
    found = json.loads(header)
    if (found["key"], found["name"]) != (key(), name):
        raise ValueError("code of something else")
    if missing(found["externals"]):
        raise ValueError("code that needs what this process lacks")
    return code


def missing(externals: list[str]) -> list[str]:
    """Return the external functions that this process lacks: LLVM would end it for them."""
    return [name for name in externals if not hasattr(ctypes.CDLL(None), name)]


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)  # other users may read it
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_said: list[bool] = []


def _not_kept(error: OSError) -> None:
    """Say once that kernels are compiled in memory."""
    if not _said:
        _said.append(True)
        note = (
            f"flash-kmeans-mlx: kernels can't be kept on disk ({error.strerror or error}), every"
            " process compiles them again: set FLASH_KMEANS_CACHE_DIR to a folder that can be"
            " written to"
        )
        print(note, file=sys.stderr, flush=True)
