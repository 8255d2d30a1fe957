"""The directory of a store: one safetensors file, and a file that processes lock to save in turn.

Version 1 kept three files instead, which are read and, when the store is saved again, removed:
`store.json`, which names a file of the index and a JSON file of the metadata.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import validation
from ..files import atomic
from ..files.safetensors import json_object
from . import index_file

__all__ = ["read", "save", "split", "write"]

FILE = "store.safetensors"
LOCK = "store.lock"
# Of version 1.
OLD_HEAD = "store.json"
OLD_FORMAT = "flash-kmeans-mlx store"
OLD_FILES = r"(index-[0-9a-f]{32}\.safetensors|metadata-[0-9a-f]{32}\.json)"


def save(folder: Path, write_to: Callable[[Path], None]) -> None:
    """Call `write_to` with the store's file, while no other process saves to the folder.

    Raises:
        OSError: The file can't be written.
        TimeoutError: Another process has been saving there for a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.locked(folder / LOCK):
        write_to(folder / FILE)
        _remove_version_1(folder)


def write(
    file: Path,
    class_name: str,
    parameters: dict[str, Any],
    index_arrays: dict[str, np.ndarray],
    metadata: dict[int, Any],
) -> None:
    """Write a store; the file that was there stays until the new one is complete."""
    arrays = {f"index.{name}": array for name, array in index_arrays.items()}
    arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    index_file.write(file, class_name, parameters, arrays)


def read(folder: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Read (class name, parameters, arrays) of a store of any version.

    Raises:
        OSError: A file can't be opened.
        ValueError: It is not a store, of a newer format, truncated or damaged.
    """
    try:
        if _is_version_1(folder):
            return _read_version_1(folder)
    except FileNotFoundError:
        # Another process may have saved the new version meanwhile.
        if not (folder / FILE).exists():
            raise
    return index_file.read(folder / FILE)


def split(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[int, Any]]:
    """Return the arrays of the index, and the metadata by id.

    Raises:
        KeyError, ValueError: The metadata are damaged.
    """
    prefix = "index."
    index_arrays = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    values = json_object(arrays["metadata"].tobytes())
    metadata = {int(key): value for key, value in values.items()}
    if min(metadata, default=0) < 0:
        raise ValueError("ids of metadata must be >= 0")
    return index_arrays, metadata


def _is_version_1(folder: Path) -> bool:
    """Return whether an older version of the package was the last one to save there."""
    head = folder / OLD_HEAD
    file = folder / FILE
    if not (head.exists() and file.exists()):
        return head.exists()
    is_newer = head.stat().st_mtime_ns > file.stat().st_mtime_ns
    return is_newer and OLD_FORMAT.encode() in head.read_bytes()


def _read_version_1(folder: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return what `index_file.read` would return, from the three files of version 1."""
    text = (folder / OLD_HEAD).read_bytes()
    try:
        head = json_object(text)
        if head.get("format") != OLD_FORMAT:
            raise ValueError(f"its format is {head.get('format')!r}, not {OLD_FORMAT!r}")
        version = validation.check_count("format_version", head.get("format_version"), 1)
        if version > 1:
            raise ValueError(f"its format_version={version} must be <= 1; upgrade flash-kmeans-mlx")
        file, metadata_file = (folder / Path(head[kind]).name for kind in ("index", "metadata"))
        metadata = metadata_file.read_bytes()
        if zlib.crc32(metadata) != head["crc32"]:
            raise ValueError(f"the sum of {metadata_file.name} is wrong; copy the store again")
        parameters = {name: head[name] for name in ("grows", "max_memory_gb", "seed")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot load {os.fspath(folder)!r}: {error}") from error
    class_name, index_parameters, index_arrays = index_file.read(file)
    parameters |= {"class": class_name, "index": index_parameters}
    arrays = {f"index.{name}": array for name, array in index_arrays.items()}
    arrays["metadata"] = np.frombuffer(metadata, np.uint8)
    return "EmbeddingStore", parameters, arrays


def _remove_version_1(folder: Path) -> None:
    """Remove the files of version 1: the head last, because it names the others."""
    with suppress(OSError, ValueError):
        head = json_object((folder / OLD_HEAD).read_bytes())
        if head.get("format") == OLD_FORMAT:
            for name in (str(head.get("index")), str(head.get("metadata"))):
                # No other file is removed, whatever the head says.
                if re.fullmatch(OLD_FILES, name):
                    (folder / name).unlink(missing_ok=True)
            (folder / OLD_HEAD).unlink()
