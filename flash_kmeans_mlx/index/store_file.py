"""The directory of a store: a safetensors file, changes to it, and a file to lock.

Processes lock that file to save in turn; readers need no lock.

Version 1 kept three files instead, which are read and, when the store is saved again, removed:
`store.json`, which names a file of the index and a JSON file of the metadata.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from ..files import atomic, models
from ..files.safetensors import json_object
from . import index_file, store_log

__all__ = ["Saved", "Stored", "append", "is_there", "locked", "read", "write"]

FILE = "store.safetensors"
LOG = "store.changes"
LOCK = "store.lock"
# Of version 1.
OLD_HEAD = "store.json"
OLD_FORMAT = "flash-kmeans-mlx store"
OLD_FILES = r"(index-[0-9a-f]{32}\.safetensors|metadata-[0-9a-f]{32}\.json)"


class Saved(NamedTuple):
    """The place where a store was saved or loaded, and what was there.

    Attributes:
        folder: Resolved.
        token: Of the store's file, which has another one each time it is written; None before that.
        n_bytes: Size of that file.
        log_end: Where the records of the file of changes end, 0 if there is none.
        parameters: As they were saved last.
    """

    folder: Path
    token: str | None
    n_bytes: int
    log_end: int
    parameters: dict[str, Any]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from saving to the folder, which is made if it is missing.

    Raises:
        OSError: The folder can't be made or written.
        TimeoutError: Another process has been saving there for a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.locked(folder / LOCK):
        yield
        atomic.remove_abandoned(folder)
        _remove_version_1(folder)


def write(
    folder: Path, class_name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Saved:
    """Write a whole store; what was there stays until the new file is complete."""
    folder = folder.resolve()
    file = folder / FILE
    token = os.urandom(16).hex()
    index_file.write(file, class_name, parameters | {"token": token}, arrays)
    # Changes to the file before do not count any more: they have another token.
    (folder / LOG).unlink(missing_ok=True)
    return Saved(folder, token, file.stat().st_size, 0, parameters)


def append(saved: Saved, parameters: dict[str, Any], record: list[Any]) -> Saved:
    """Append a change to what was saved."""
    assert saved.token is not None
    end = store_log.append(saved.folder / LOG, saved.token, saved.log_end, record)
    return saved._replace(log_end=end, parameters=parameters)


def is_there(saved: Saved) -> bool:
    """Return whether the folder holds what was saved there, and nothing newer."""
    if saved.token is None or _is_version_1(saved.folder):
        return False
    try:
        token = _token(saved.folder)
    except (OSError, ValueError):
        return False
    return token == saved.token and not store_log.has_grown(
        saved.folder / LOG, saved.token, saved.log_end
    )


def _token(folder: Path) -> str | None:
    """Return the token in the store's file; None if it has none, as in older versions."""
    try:
        parameters = json_object(models.read_metadata(folder / FILE)["parameters"].encode())
    except KeyError:
        return None
    return _checked(parameters.get("token"))


def _checked(token: Any) -> str | None:
    return token if isinstance(token, str) and re.fullmatch("[0-9a-f]{32}", token) else None


class Stored(NamedTuple):
    """The content of a directory.

    Attributes:
        class_name: As `write` was given it.
        parameters: The same.
        arrays: The same.
        log: The changes since then.
        saved: The place.
    """

    class_name: str
    parameters: dict[str, Any]
    arrays: dict[str, np.ndarray]
    log: store_log.Log
    saved: Saved


def read(folder: Path) -> Stored:
    """Read a store of any version.

    Raises:
        OSError: A file can't be opened.
        ValueError: It is not a store, of a newer format, truncated or damaged.
    """
    no_log = store_log.Log([], 0, is_torn=False)
    try:
        if _is_version_1(folder):
            class_name, parameters, arrays = _read_version_1(folder)
            saved = Saved(folder.resolve(), None, 0, 0, {})
            return Stored(class_name, parameters, arrays, no_log, saved)
    except FileNotFoundError:
        # Another process may have saved the new version meanwhile.
        if not (folder / FILE).exists():
            raise
    while True:
        class_name, parameters, arrays = index_file.read(folder / FILE)
        n_bytes = (folder / FILE).stat().st_size
        token = _checked(parameters.pop("token", None))
        log = no_log if token is None else store_log.read(folder / LOG, token)
        # Otherwise another process has written the whole store meanwhile, with the changes.
        if _token(folder) == token:
            saved = Saved(folder.resolve(), token, n_bytes, log.end, {})
            return Stored(class_name, parameters, arrays, log, saved)


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
