"""Indexes in files: one safetensors file each, whose header says in JSON what they are."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import numpy as np

from .. import _files, _modelfile, validation

__all__ = ["check_untrained", "read", "write"]

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
            raise ValueError(f"cannot load {os.fspath(path)!r}: the sum of array {key!r} is wrong; copy the file again")
    return name, parameters, arrays


def _sum(array: np.ndarray) -> int:
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return zlib.crc32(plain.reshape(-1).view(np.uint8).data)


def check_untrained(name: str, size: Any) -> None:
    """Refuse a size in a file without arrays that confirm it, by which memory would be taken."""
    validation.check_count(name, size, 1, MOST_UNTRAINED, "2**22")
