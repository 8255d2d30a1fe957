"""One model in one safetensors file: nothing is ever unpickled, and any safetensors reader can open it.

Version 2 of the format has a CRC-32 of the whole file, as if it were 0, in the first entry of the metadata.
"""

import math
import os
import re
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import DTYPES, METADATA, json_object, replacing, safetensors_parts

FORMAT = "flash-kmeans-mlx model"
FORMAT_VERSION = 2
_MAX_HEADER = 1 << 20
_CHECK_PATH = "check the path: only files written by FlashKMeans.save can be loaded"
_COPY_AGAIN = "copy the file again or save the model again"
_SAVE_AGAIN = "save the model again"
_SUM = "file_crc32"
_BEFORE_SUM = f'{{"{METADATA}":{{"{_SUM}":"'.encode()


def write(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write `arrays` and `metadata` to `path`, all or nothing: an interrupted write leaves the old file as it was.

    Args:
        path: The file to write; replaced if it exists.
        arrays: of float32, float64, int64, uint32 or uint8; without float64, which it refuses, `mx.load` reads the file too.
        metadata: Strings to keep with the arrays; the format, its version and the sum are added here.

    Raises:
        TypeError: An array has another dtype, or a metadata key or value is not a string.
        ValueError: A name is reserved, or the header would be larger than `read` accepts.
    """
    if reserved := {"format", "format_version", METADATA, _SUM} & {*metadata, *arrays}:
        raise ValueError(f"{min(reserved)!r} is reserved by the file format: choose another name")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"metadata[{key!r}]={value!r} must be a string with a string key: convert it before saving"
            )
    ours = {_SUM: "0" * 8, "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    parts = safetensors_parts(arrays, ours | metadata)
    if len(parts[1]) > _MAX_HEADER:
        raise ValueError(
            f"names and metadata take {len(parts[1])} bytes, must be <= {_MAX_HEADER}: shorten them"
        )
    crc = 0
    for part in parts[1:]:
        crc = zlib.crc32(part, crc)
    parts[1] = _with_sum(parts[1], f"{crc:08x}")
    with replacing(path) as file:
        file.writelines(parts)


def _with_sum(header: bytes, text: str) -> bytes:
    begin = len(_BEFORE_SUM)
    return header[:begin] + text.encode() + header[begin + 8 :]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `write` wrote: the arrays, and the metadata without what it added.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not one of ours, is of a newer format, truncated or damaged.
    """
    return read_versioned(path)[:2]


def read_versioned(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    """Read as `read` does, and the version of the file's format; files of version 1 have no sum."""
    with Path(path).open("rb") as file:
        try:
            return _parse(file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from None


def _parse(file: BufferedReader, size: int) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise ValueError(f"it has {size} bytes and a safetensors file at least 8; {_COPY_AGAIN}")
    if length > _MAX_HEADER:
        raise ValueError(
            f"it is not a model of ours: its header would take {length} bytes; {_CHECK_PATH}"
        )
    size -= 8 + length
    if size < 0:
        raise ValueError(f"it is truncated by at least {-size} bytes; {_COPY_AGAIN}")
    text = file.read(length)
    header = _parse_header(text)
    metadata, version = _check_metadata(header.pop(METADATA, None))
    crc = zlib.crc32(_with_sum(text, "0" * 8))
    arrays: dict[str, np.ndarray] = {}
    position = 0
    for name, entry in header.items():
        dtype, shape, end = _check_entry(name, entry, position, size)
        try:
            array = np.empty(shape, dtype)
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"array {name!r} cannot have the shape {shape} ({error}); {_SAVE_AGAIN}"
            ) from None
        data = array.reshape(-1).view(np.uint8).data
        if file.readinto(data) != end - position:
            raise ValueError(f"it was truncated while it was read; {_COPY_AGAIN}")
        crc = zlib.crc32(data, crc)
        arrays[name] = array.astype(dtype.newbyteorder("="), copy=False)
        position = end
    if position != size:
        raise ValueError(f"{size - position} bytes follow its last array; {_COPY_AGAIN}")
    expected = metadata.pop(_SUM, None)
    if (version > 1 or expected is not None) and (
        expected != f"{crc:08x}" or not text.startswith(_BEFORE_SUM)
    ):
        raise ValueError(f"it is damaged: its sum is wrong; {_COPY_AGAIN}")
    return arrays, metadata, version


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        return json_object(text)
    except ValueError as error:
        raise ValueError(
            f"it is not safetensors, or its header is damaged ({error}); {_CHECK_PATH}"
        ) from None


def _check_metadata(metadata: Any) -> tuple[dict[str, str], int]:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError(f"it has no metadata, so it is not a {FORMAT!r} file; {_CHECK_PATH}")
    name, version = metadata.pop("format", None), metadata.pop("format_version", "")
    if name != FORMAT:
        raise ValueError(f"its format is {name!r}, not {FORMAT!r}; {_CHECK_PATH}")
    if re.fullmatch("[1-9][0-9]{0,8}", version) is None:
        raise ValueError(f"its format_version={version!r} must be a positive number; {_SAVE_AGAIN}")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"its format_version={version} must be <= {FORMAT_VERSION}; upgrade flash-kmeans-mlx"
        )
    return metadata, int(version)


def _check_entry(name: str, entry: Any, begin: int, size: int) -> tuple[np.dtype, list[int], int]:
    fields = entry if isinstance(entry, dict) else {}
    code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(
            f"array {name!r} has dtype {code!r}, not one of {', '.join(DTYPES)}; {_SAVE_AGAIN}"
        )
    if (
        not isinstance(shape, list)
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape[:64])
        or shape[64:]
    ):
        raise ValueError(f"array {name!r} has the shape {shape!r}; {_SAVE_AGAIN}")
    end = begin + math.prod(shape) * DTYPES[code].itemsize
    if offsets != [begin, end]:
        raise ValueError(
            f"array {name!r} has data_offsets={offsets!r}, not {[begin, end]}; {_SAVE_AGAIN}"
        )
    if end > size:
        raise ValueError(
            f"it is truncated: array {name!r} ends at data byte {end} of {size}; {_COPY_AGAIN}"
        )
    return DTYPES[code], shape, end
