"""A store as it is saved: as a whole, or as a record of what has changed since then."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import models
from ..files.safetensors import json_object
from . import store_file
from .contents import Contents, no_contents
from .growth import bytes_per_vector
from .index_file import DAMAGE
from .registry import restore_index
from .store_file import Saved
from .store_log import Log

__all__ = ["load", "save"]

PREFIX = "index."
# Changes are appended up to this share of the size of the store's file; then the file is rewritten.
MOST_CHANGES = 0.5


def save(
    folder: Path, class_name: str, parameters: dict[str, Any], contents: Contents, *, whole: bool
) -> Saved:
    """Save contents to a folder that is locked, and return the place.

    Args:
        folder: The directory.
        class_name: Of the store.
        parameters: Of the store, for JSON.
        contents: To save, with an index.
        whole: Whether to write all of it, however little has changed.
    """
    index = contents.index
    assert index is not None
    saved = contents.saved
    every = parameters | {
        "class": type(index).__name__,
        "index": index._parameters(contents.snapshot),
    }
    if saved is not None and not whole and saved.folder == folder.resolve():
        record = _record(contents, saved, every)
        if record is not None and store_file.is_there(saved):
            return store_file.append(saved, every, record) if record else saved
    _, arrays = index._state(contents.snapshot)
    arrays = {PREFIX + name: array for name, array in arrays.items()}
    arrays |= _text_arrays(contents.metadata, contents.names.by_id)
    return store_file.write(folder, class_name, every, arrays)


def _record(contents: Contents, saved: Saved, parameters: dict[str, Any]) -> list[Any] | None:
    """Return a record of what has changed, as buffers: none if nothing has, None if too much."""
    index = contents.index
    assert index is not None
    ids = np.unique(contents.touched.array[: contents.n_touched])
    if not len(ids) and parameters == saved.parameters:
        return []
    most = MOST_CHANGES * saved.n_bytes - saved.log_end
    if len(ids) * 8 > most:
        return None
    held = ids[contents.places(ids) >= 0]
    if len(held) * bytes_per_vector(index) > most:
        return None
    part = index._part(contents.snapshot, held) if len(held) else {}
    arrays = {PREFIX + name: array for name, array in part.items()} | {"touched": ids}
    keys = held.tolist()
    metadata, names = contents.metadata, contents.names.by_id
    arrays |= _text_arrays(
        {key: metadata[key] for key in keys if key in metadata},
        {key: names[key] for key in keys if key in names},
    )
    record = models.to_buffers(arrays, {"parameters": json.dumps(parameters)})
    return None if sum(memoryview(part).nbytes for part in record) > most else record


def _text_arrays(metadata: dict[int, Any], names: dict[int, str]) -> dict[str, np.ndarray]:
    """Return metadata, and names where there are any, as JSON in arrays of bytes."""
    arrays = {"metadata": np.frombuffer(json.dumps(metadata).encode(), np.uint8)}
    if names:
        arrays["names"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    return arrays


def load(folder: Path, class_name: str, backend: str | None) -> tuple[dict[str, Any], Contents]:
    """Return the parameters and the contents of a store.

    Raises:
        OSError: A file can't be opened.
        ValueError: It is not a store, of a newer format, truncated or damaged.

    Warns:
        UserWarning: The last change is not complete, and left out.
    """
    stored = store_file.read(folder)
    try:
        if stored.class_name != class_name:
            raise ValueError(f"it holds an {stored.class_name}")
        parameters = _last_parameters(stored.parameters, stored.log)
        contents = _restored(parameters, stored.arrays, stored.log, backend)
    except DAMAGE as error:
        raise ValueError(f"cannot load {os.fspath(folder)!r}: {error}; save it again") from error
    if stored.log.is_torn:
        warnings.warn(
            f"the last change in {os.fspath(folder / store_file.LOG)!r} was not written to its end:"
            " it is left out, and the next save cuts it off",
            UserWarning,
            stacklevel=3,
        )
    return parameters, contents.saved_at(stored.saved._replace(parameters=parameters))


def _last_parameters(parameters: dict[str, Any], log: Log) -> dict[str, Any]:
    """Return the parameters after all changes."""
    for _, texts in log.records:
        after = json_object(texts["parameters"].encode())
        if after["class"] != parameters["class"]:
            raise ValueError(f"a change of an {after['class']} follows an {parameters['class']}")
        parameters = after
    return parameters


def _restored(
    parameters: dict[str, Any], arrays: dict[str, np.ndarray], log: Log, backend: str | None
) -> Contents:
    """Return the contents of a state and its changes; one of `DAMAGE` if they are damaged."""
    index = restore_index(parameters["class"], parameters["index"], _unprefixed(arrays))
    index.backend = backend
    metadata, names = _texts(arrays)
    for changes, _ in log.records:
        for key in changes["touched"].tolist():
            metadata.pop(key, None)
            names.pop(key, None)
        new_metadata, new_names = _texts(changes)
        metadata |= new_metadata
        names |= new_names
    if log.records:
        touched, part = _as_one([changes for changes, _ in log.records])
        snapshot, _ = index._without(index._snapshot, touched)
        if len(part.get("ids", ())):
            snapshot = index._after_merge(snapshot, part)
        index._snapshot = snapshot
        index._restore_next_id(_next_id(parameters["index"]), index._ids(snapshot))
    contents = replace(no_contents(index), metadata=metadata)
    if names:
        if not np.array_equal(sorted(names), contents.ids()) or len({*names.values()}) < len(names):
            raise ValueError("names must be distinct strings, one for each id")
        contents.names.add(names.keys(), names.values())
    return contents


def _as_one(records: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the ids (M,) that records touch, and what is left in the end of their vectors.

    Args:
        records: Arrays of each, in order.

    Returns:
        The ids, and arrays for `Index._after_merge`.
    """
    all_touched = np.concatenate([arrays["touched"] for arrays in records])
    numbers = np.repeat(np.arange(len(records)), [len(arrays["touched"]) for arrays in records])
    touched, place = np.unique(all_touched[::-1], return_index=True)
    last = numbers[::-1][place]  # the last record that touches each id
    parts = []
    for number, arrays in enumerate(records):
        part = _unprefixed(arrays)
        if not part:
            continue
        if not np.isin(part["ids"], arrays["touched"]).all():
            raise ValueError("a change has vectors of other ids than it touches")
        kept = last[np.searchsorted(touched, part["ids"])] == number
        parts.append({name: array[kept] for name, array in part.items()})
    names = parts[0] if parts else {}
    return touched, {name: np.concatenate([part[name] for part in parts]) for name in names}


def _next_id(parameters: dict[str, Any]) -> Any:
    """Return the next id in the parameters of an index, or of the one that it transforms for."""
    while "next_id" not in parameters:
        parameters = parameters["index"]
    return parameters["next_id"]


def _unprefixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of the index."""
    return {
        name.removeprefix(PREFIX): array
        for name, array in arrays.items()
        if name.startswith(PREFIX)
    }


def _texts(arrays: dict[str, np.ndarray]) -> tuple[dict[int, Any], dict[int, str]]:
    """Return metadata and names by id.

    Raises:
        KeyError, ValueError: They are damaged.
    """
    metadata = _by_id(arrays["metadata"], "metadata")
    names = _by_id(arrays["names"], "names") if "names" in arrays else {}
    if wrong := [name for name in names.values() if not isinstance(name, str)]:
        raise ValueError(f"names must be strings, got {wrong[0]!r}")
    return metadata, names


def _by_id(array: np.ndarray, what: str) -> dict[int, Any]:
    values = {int(key): value for key, value in json_object(array.tobytes()).items()}
    if min(values, default=0) < 0:
        raise ValueError(f"ids of {what} must be >= 0")
    return values
