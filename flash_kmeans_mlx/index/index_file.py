"""The file of an index: a safetensors file whose metadata name the class and its parameters."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import numpy as np

from .. import validation
from ..errors import BackendUnavailableError
from ..files import models
from ..files.mapped import is_mapped
from ..files.safetensors import json_object

__all__ = ["DAMAGE", "check_sizes", "from_bytes", "read", "to_bytes", "write"]

# Errors while an index is made from a damaged state.
DAMAGE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    BackendUnavailableError,
)
LARGEST = (1 << 63) - 1  # next id
LARGEST_UNTRAINED = 1 << 22  # size that an index without arrays may have


def write(
    path: str | os.PathLike[str],
    class_name: str,
    parameters: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """Write an index; the file that was at `path` stays until the new one is complete."""
    models.write(path, arrays, {"class": class_name, "parameters": json.dumps(parameters)})


def read(
    path: str | os.PathLike[str], *, mapped: bool = False
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Read (class name, parameters, arrays) that `write` wrote.

    Args:
        path: The file.
        mapped: Map the arrays; the sum of the file is not checked then.

    Raises:
        OSError: The file can't be opened.
        ValueError: It is not such a file, of a newer format, truncated or damaged; or it is of an
            older format, and should be mapped.
    """
    if mapped:
        arrays, metadata = models.read_mapped(path)
        version = models.FORMAT_VERSION
    else:
        arrays, metadata, version = models.read_versioned(path)
    try:
        class_name, parameters = _described(metadata)
        # Version 1 has a sum of each array in place of one of the whole file.
        sums = json.loads(metadata["crc32"]) if version == 1 else None
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot load {os.fspath(path)!r}: it holds no index ({error})") from error
    if version == 1:
        for name, array in arrays.items():
            if not isinstance(sums, dict) or sums.get(name) != _crc32(array):
                raise ValueError(
                    f"cannot load {os.fspath(path)!r}: the sum of array {name!r} is wrong;"
                    " copy the file again"
                )
    return class_name, parameters, arrays


def to_bytes(class_name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of the file that `write` writes."""
    metadata = {"class": class_name, "parameters": json.dumps(parameters)}
    return b"".join(models.to_buffers(arrays, metadata))


def from_bytes(data: bytes) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return what `read` does, from what `to_bytes` returned; ValueError if it is damaged."""
    arrays, metadata = models.from_bytes(data)
    try:
        return *_described(metadata), arrays
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"it holds no index ({error})") from error


def _described(metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the class and the parameters that metadata name."""
    return metadata["class"], json_object(metadata["parameters"].encode())


def _crc32(array: np.ndarray) -> int:
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return zlib.crc32(little_endian.reshape(-1).view(np.uint8).data)


def check_sizes(parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Refuse sizes that the arrays do not confirm, before memory is reserved for them.

    Raises:
        ValueError, TypeError, KeyError: The message names the size. Sizes of an index without
            arrays are at most 2**22. Ids that are mapped are not read.
    """
    sizes = {name: parameters[name] for name in ("nlist", "d") if name in parameters}
    for name, size in sizes.items():
        validation.check_count(name, size, 1, None if arrays else LARGEST_UNTRAINED, "2**22")
    if sizes and arrays:
        _check_shape(sizes, arrays)
    if "next_id" in parameters:
        validation.check_count("next_id", parameters["next_id"], 0, LARGEST, "2**63 - 1")
    if "ids" in arrays and not is_mapped(arrays["ids"]) and (arrays["ids"] == LARGEST).any():
        raise ValueError(f"ids must be < 2**63 - 1, got {LARGEST}")
    if "counts" in arrays:
        largest = arrays["counts"].max()
        n = arrays["ids"].size
        if largest > n:
            raise ValueError(f"a list of {largest} vectors must have <= {n}, one for each id")


def _check_shape(sizes: dict[str, int], arrays: dict[str, np.ndarray]) -> None:
    """Compare nlist and d with the shape of what was learnt, or else of the rows."""
    name = next((name for name in ("centroids", "codebooks", "ranges") if name in arrays), "rows")
    shape = arrays[name].shape
    if name == "centroids":
        confirmed = shape
    elif name == "codebooks":
        confirmed = (shape[0] * shape[-1],)
    else:
        confirmed = shape[1:]
    if confirmed != tuple(sizes.values()):
        expected = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"{name} of shape {shape} do not fit {expected}")
