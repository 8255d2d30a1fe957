"""Indexes in files: one safetensors file each, whose header says in JSON what they are."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import numpy as np

from .. import validation
from ..files import atomic as _files
from ..files import models as _modelfile

__all__ = ["check_sizes", "read", "write"]

MOST_UNTRAINED = 1 << 22


def write(
    path: str | os.PathLike[str],
    name: str,
    parameters: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """Write an index of the class `name`; what was at `path` stays until the new file is whole."""
    _modelfile.write(path, arrays, {"class": name, "parameters": json.dumps(parameters)})


def read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Read (name, parameters, arrays) that `write` wrote.

    Raises:
        OSError: the file can't be opened.
        ValueError: not such a file, of a newer format, truncated or damaged.
    """
    arrays, metadata, version = _modelfile.read_versioned(path)
    try:
        name, parameters = metadata["class"], _files.json_object(metadata["parameters"].encode())
        sums = json.loads(metadata["crc32"]) if version == 1 else None
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot load {os.fspath(path)!r}: it holds no index ({error})") from error
    for key, array in arrays.items() if version == 1 else ():  # which has no sum of the whole file
        if not isinstance(sums, dict) or sums.get(key) != _sum(array):
            raise ValueError(
                f"cannot load {os.fspath(path)!r}: the sum of array {key!r} is wrong; copy the file again"
            )
    return name, parameters, arrays


def _sum(array: np.ndarray) -> int:
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return zlib.crc32(plain.reshape(-1).view(np.uint8).data)


def check_sizes(parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Refuse sizes that the arrays do not confirm, before memory is taken by them.

    Raises:
        ValueError, TypeError, KeyError: naming the size; that of an index without arrays is at most 2**22.
    """
    sizes = {name: parameters[name] for name in ("nlist", "d") if name in parameters}
    for name, size in sizes.items():
        validation.check_count(name, size, 1, None if arrays else MOST_UNTRAINED, "2**22")
    if sizes and arrays:
        key = next((key for key in ("centroids", "codebooks") if key in arrays), "rows")
        shape = arrays[key].shape
        held = {"centroids": shape, "codebooks": (shape[0] * shape[-1],)}.get(key, shape[1:])
        if held != tuple(sizes.values()):
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"{key} of shape {shape} do not fit {given}")
    if "next_id" in parameters:
        validation.check_count("next_id", parameters["next_id"], 0, (1 << 63) - 1, "2**63 - 1")
    if "ids" in arrays and (arrays["ids"] == (1 << 63) - 1).any():
        raise ValueError(f"ids must be < 2**63 - 1, got {(1 << 63) - 1}")
    if "counts" in arrays and arrays["counts"].max() > len(arrays["ids"]):
        raise ValueError(
            f"a list of {arrays['counts'].max()} vectors must have <= {len(arrays['ids'])}, one for each id"
        )
