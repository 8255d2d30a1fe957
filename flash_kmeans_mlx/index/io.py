"""Indexes in files: one safetensors file each, whose header says in JSON what they are; checked by a sum when read."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import numpy as np

from .. import _modelfile

__all__ = ["read", "write"]


def write(path: str | os.PathLike[str], name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write an index of the class called `name`, all or nothing: what was at `path` stays until the new file is whole."""
    sums = {key: _sum(array) for key, array in arrays.items()}
    metadata = {"class": name, "parameters": json.dumps(parameters), "crc32": json.dumps(sums)}
    _modelfile.write(path, arrays, metadata)


def read(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """(name, parameters, arrays) that `write` wrote.

    Raises:
        OSError: the file can't be opened.
        ValueError: not such a file, of a newer format, truncated or damaged.
    """
    arrays, metadata = _modelfile.read(path)
    try:
        name, parameters, sums = metadata["class"], json.loads(metadata["parameters"]), json.loads(metadata["crc32"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"cannot load {os.fspath(path)!r}: it holds no index ({error})") from error
    for key, array in arrays.items():
        if not isinstance(sums, dict) or sums.get(key) != _sum(array):
            raise ValueError(f"cannot load {os.fspath(path)!r}: the sum of array {key!r} is wrong; copy the file again")
    if not isinstance(parameters, dict):
        raise ValueError(f"cannot load {os.fspath(path)!r}: its parameters are no object; save the index again")
    return name, parameters, arrays


def _sum(array: np.ndarray) -> int:
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return zlib.crc32(plain.reshape(-1).view(np.uint8).data)
