"""Models, indexes and stores in files: one safetensors file each.

Nothing is ever unpickled, and any safetensors reader can open the files. The first entry of the
metadata is a CRC-32 of the whole file, computed with zeros in its place; version 1 had none. Up to
version 2, inverted lists were kept as rows.
"""

import mmap
import os
import re
import sys
import zlib
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import replacing
from .safetensors import METADATA, WRITTEN, Entry, Header, parts, read_header

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "from_bytes",
    "read",
    "read_mapped",
    "read_metadata",
    "read_versioned",
    "to_buffers",
    "write",
]

FORMAT = "flash-kmeans-mlx model"  # in files of indexes and stores too
FORMAT_VERSION = 3
FIRST_MAPPED = 3  # the first version whose files can be mapped
_MAX_HEADER = 1 << 20
_CHECK_PATH = "check the path: only files that this package saved can be loaded"
_COPY_AGAIN = "copy the file again or save it again"
_SAVE_AGAIN = "save it again"
_SUM = "file_crc32"
_BEFORE_SUM = f'{{"{METADATA}":{{"{_SUM}":"'.encode()


def write(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write `arrays` and `metadata` to `path`, all or nothing: if it fails, the old file stays.

    Args:
        path: The file to write; replaced if it exists.
        arrays: Arrays of float32, float64, int64, uint32 or uint8. Without float64, `mx.load` reads
            the file too.
        metadata: Strings to keep with the arrays; the format, its version and the sum are added.

    Raises:
        TypeError: An array has another dtype, or a metadata key or value is not a string.
        ValueError: A name is reserved, or the header would be larger than `read` accepts.
    """
    buffers = to_buffers(arrays, metadata)
    with replacing(path) as file:
        file.writelines(buffers)


def to_buffers(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Any]:
    """Return the bytes that `write` writes, as buffers one after another."""
    if reserved := {"format", "format_version", METADATA, _SUM} & {*metadata, *arrays}:
        raise ValueError(f"{min(reserved)!r} is reserved by the file format: choose another name")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"metadata[{key!r}]={value!r} must be a string with a string key:"
                " convert it before saving"
            )
    ours = {_SUM: "0" * 8, "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    length, header, *data = parts(arrays, ours | metadata)
    if len(header) > _MAX_HEADER:
        raise ValueError(
            f"names and metadata take {len(header)} bytes, must be <= {_MAX_HEADER}: shorten them"
        )
    crc = zlib.crc32(header)
    for part in data:
        crc = zlib.crc32(part, crc)
    return [length, _with_sum(header, f"{crc:08x}"), *data]


def from_bytes(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata of what `to_buffers` returned.

    Raises:
        ValueError: The bytes are no such file, of a newer format, truncated or damaged.
    """
    return _parse(BytesIO(data), len(data))[:2]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the metadata of a file without reading, or checking, its arrays; errors as `read`."""
    with Path(path).open("rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            header = read_header(file, size, _MAX_HEADER, _CHECK_PATH)
            return _check_metadata(header.metadata)[0]
        except ValueError as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from None


def _with_sum(header: bytes, text: str) -> bytes:
    begin = len(_BEFORE_SUM)
    return header[:begin] + text.encode() + header[begin + 8 :]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata that `write` was given.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not one of ours, is of a newer format, truncated or damaged.
    """
    return read_versioned(path)[:2]


def read_versioned(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    """Return what `read` does, and the version of the format; files of version 1 have no sum."""
    with Path(path).open("rb") as file:
        try:
            return _parse(file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from None


def read_mapped(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return what `read` does, with read-only arrays that are mapped from the file.

    The header is checked, the sum is not. To truncate the file later ends the process (SIGBUS).
    """
    with Path(path).open("rb") as file:
        try:
            return _map(file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from None


def _map(file: BufferedReader, size: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    header = read_header(file, size, _MAX_HEADER, _CHECK_PATH)
    metadata, version = _check_metadata(header.metadata)
    if version < FIRST_MAPPED:
        raise ValueError(
            f"its format_version={version} cannot be mapped: load it without mmap=True and"
            f" {_SAVE_AGAIN}"
        )
    if sys.byteorder != "little":
        raise ValueError("only little-endian machines map files: load it without mmap=True")
    metadata.pop(_SUM, None)
    owner = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    arrays: dict[str, np.ndarray] = {}
    for entry in _entries(header, size):
        array = _new_array(entry, owner, header.data_begin + entry.begin)
        if not array.flags.aligned:
            raise ValueError(f"array {entry.name!r} is not aligned; {_SAVE_AGAIN}")
        arrays[entry.name] = array
    return arrays, metadata


def _parse(
    file: BufferedReader | BytesIO, size: int
) -> tuple[dict[str, np.ndarray], dict[str, str], int]:
    header = read_header(file, size, _MAX_HEADER, _CHECK_PATH)
    metadata, version = _check_metadata(header.metadata)
    crc = zlib.crc32(_with_sum(header.text, "0" * 8))
    arrays: dict[str, np.ndarray] = {}
    for entry in _entries(header, size):
        array = _new_array(entry)
        dtype = array.dtype
        data = array.reshape(-1).view(np.uint8).data
        if file.readinto(data) != len(data):
            raise ValueError(f"it was truncated while it was read; {_COPY_AGAIN}")
        crc = zlib.crc32(data, crc)
        arrays[entry.name] = array.astype(dtype.newbyteorder("="), copy=False)
    expected = metadata.pop(_SUM, None)
    if (version > 1 or expected is not None) and (
        expected != f"{crc:08x}" or not header.text.startswith(_BEFORE_SUM)
    ):
        raise ValueError(f"it is damaged: its sum is wrong; {_COPY_AGAIN}")
    return arrays, metadata, version


def _check_metadata(metadata: Any) -> tuple[dict[str, str], int]:
    """Return the metadata without the entries of the format, and its version."""
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError(f"it has no metadata, so it is not a {FORMAT!r} file; {_CHECK_PATH}")
    name = metadata.pop("format", None)
    version = metadata.pop("format_version", "")
    if name != FORMAT:
        raise ValueError(f"its format is {name!r}, not {FORMAT!r}; {_CHECK_PATH}")
    if re.fullmatch("[1-9][0-9]{0,8}", version) is None:
        raise ValueError(f"its format_version={version!r} must be a positive number; {_SAVE_AGAIN}")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"its format_version={version} must be <= {FORMAT_VERSION}; upgrade flash-kmeans-mlx"
        )
    return metadata, int(version)


def _entries(header: Header, size: int) -> Iterator[Entry]:
    """Yield the arrays of a file of `size` bytes, which must lie one after another up to its end.

    Raises:
        ValueError: They do not, or one has another dtype.
    """
    data_size = size - header.data_begin
    position = 0
    for entry in header.entries():
        _check_entry(entry, position, data_size)
        yield entry
        position = entry.end
    if position != data_size:
        raise ValueError(f"{data_size - position} bytes follow its last array; {_COPY_AGAIN}")


def _new_array(entry: Entry, buffer: mmap.mmap | None = None, offset: int = 0) -> np.ndarray:
    """Return an array as an entry describes it, in a buffer or new."""
    try:
        return np.ndarray(entry.shape, WRITTEN[entry.code], buffer, offset)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"array {entry.name!r} cannot have the shape {entry.shape} ({error}); {_SAVE_AGAIN}"
        ) from None


def _check_entry(entry: Entry, begin: int, data_size: int) -> None:
    """Refuse an array of another dtype, or one that doesn't begin at `begin` or end in the file."""
    if entry.code not in WRITTEN:
        raise ValueError(
            f"array {entry.name!r} has dtype {entry.code!r}, not one of {', '.join(WRITTEN)};"
            f" {_SAVE_AGAIN}"
        )
    if entry.begin != begin:
        expected = [begin, begin + entry.end - entry.begin]
        raise ValueError(
            f"array {entry.name!r} has data_offsets={[entry.begin, entry.end]}, not {expected};"
            f" {_SAVE_AGAIN}"
        )
    if entry.end > data_size:
        raise ValueError(
            f"it is truncated: array {entry.name!r} ends at data byte {entry.end} of {data_size};"
            f" {_COPY_AGAIN}"
        )
