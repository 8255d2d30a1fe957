"""One model in one safetensors file: nothing is ever unpickled, and any safetensors reader can open it.

Layout: header length (8 bytes, little endian), a JSON header with dtype, shape and byte range of each array, the data.
"""

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

FORMAT = "flash-kmeans-mlx model"
FORMAT_VERSION = 1

_METADATA = "__metadata__"
_OURS = ("format", "format_version")
_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U32": np.dtype("<u4")}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 1 << 20
_SAVE_AGAIN = "save the model again"
_COPY_AGAIN = "copy the file again or save the model again"


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write `arrays` and `metadata` to `path`, all or nothing: an interrupted write leaves the old file as it was.

    Args:
        path: The file to write; replaced if it exists.
        arrays: float32, float64, int64 or uint32 arrays of any shape.
        metadata: Strings to keep with the arrays; `format` and `format_version` are added here.

    Raises:
        TypeError: An array has another dtype, or a metadata key or value is not a string.
        ValueError: A name is reserved, or the header would be larger than `read` accepts.
    """
    taken = [name for name in (*_OURS, _METADATA) if name in metadata] + [n for n in (_METADATA,) if n in arrays]
    if taken:
        raise ValueError(f"{taken[0]!r} is reserved by the file format: choose another name")
    strings = {**metadata, "format": FORMAT, "format_version": str(FORMAT_VERSION)}
    for key, value in strings.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata[{key!r}]={value!r} must be a string with a string key: convert it before saving")

    header: dict[str, Any] = {_METADATA: strings}
    chunks: list[bytes] = []
    end = 0
    # Widest items first keeps every array aligned to its item size, which readers that map the file rely on.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            allowed = ", ".join(sorted(d.name for d in _CODES))
            raise TypeError(f"arrays[{name!r}].dtype={array.dtype} must be one of {allowed}: convert it before saving")
        chunks.append(array.astype(dtype).tobytes())
        begin, end = end, end + len(chunks[-1])
        header[name] = {"dtype": _CODES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"names and metadata take {len(text)} bytes, which must be <= {_MAX_HEADER}: shorten them")

    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.writelines([len(text).to_bytes(8, "little"), text, *chunks])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `write` wrote: the arrays and the metadata, without `format` and `format_version`.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is not one of ours, is of a newer format, truncated or damaged.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            _refuse(path, f"it has {size} bytes and a safetensors file at least 8", _COPY_AGAIN)
        if length > _MAX_HEADER:
            _refuse(path, f"it is not safetensors, or not ours (a header of {length} bytes)", "check the path")
        if 8 + length > size:
            _refuse(path, f"it is truncated (header of {length} bytes, file of {size})", _COPY_AGAIN)
        header = _parse_header(path, file.read(length))
        metadata = _check_metadata(path, header.pop(_METADATA, None))
        spans = {name: _check_entry(path, name, entry, size - 8 - length) for name, entry in header.items()}
        position = 0
        for begin, end in sorted((begin, end) for _, _, begin, end in spans.values()):
            if begin != position:
                _refuse(path, f"its arrays overlap or leave a gap at data byte {min(begin, position)}", _SAVE_AGAIN)
            position = end
        if position != size - 8 - length:
            _refuse(path, f"{size - 8 - length - position} bytes follow the last array", _COPY_AGAIN)
        data = file.read()
    arrays = {}
    for name, (dtype, shape, begin, end) in spans.items():
        try:
            array = np.frombuffer(data[begin:end], dtype).reshape(shape)
        except (ValueError, OverflowError) as error:
            _refuse(path, f"array {name!r} has shape {shape}, which NumPy cannot hold ({error})", _SAVE_AGAIN)
        arrays[name] = array.astype(dtype.newbyteorder("="))
    return arrays, metadata


def _refuse(path: str | os.PathLike[str], what: str, cure: str) -> NoReturn:
    raise ValueError(f"cannot load {os.fspath(path)!r}: {what}; {cure}") from None


def _parse_header(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name appears twice")
        return table

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"it is not safetensors, or its header is damaged ({error})", "check the path or " + _COPY_AGAIN)
    if not isinstance(header, dict):
        _refuse(path, "it is not safetensors (its header is not a JSON object)", "check the path")
    return header


def _check_metadata(path: str | os.PathLike[str], metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "it carries no metadata of ours", f"only a file of format {FORMAT!r} can be loaded")
    kept = {key: value for key, value in metadata.items() if key not in _OURS}
    name, version = (metadata.get(key) for key in _OURS)
    if name != FORMAT:
        _refuse(path, f"its format is {name!r}", f"only a file of format {FORMAT!r} can be loaded")
    if (
        version is None
        or not (version.isascii() and version.isdecimal() and 1 <= len(version) <= 9)
        or int(version) < 1
    ):
        _refuse(path, f"its format_version is {version!r}, not a positive number", _SAVE_AGAIN)
    if int(version) > FORMAT_VERSION:
        _refuse(path, f"its format_version={version} must be <= {FORMAT_VERSION}", "upgrade flash-kmeans-mlx")
    return kept


def _check_entry(
    path: str | os.PathLike[str], name: str, entry: Any, size: int
) -> tuple[np.dtype, list[int], int, int]:
    fields = entry if isinstance(entry, dict) else {}
    code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        _refuse(path, f"array {name!r} has dtype {code!r}, not one of {', '.join(_DTYPES)}", _SAVE_AGAIN)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"array {name!r} has shape {shape!r} and data_offsets {offsets!r}", _SAVE_AGAIN)
    begin, end = offsets
    if end > size:
        _refuse(path, f"it is truncated (array {name!r} ends at data byte {end} of {size})", _COPY_AGAIN)
    if end - begin != math.prod(shape) * dtype.itemsize:
        _refuse(path, f"array {name!r} of {code} {shape} does not fit its {end - begin} bytes", _SAVE_AGAIN)
    return dtype, shape, begin, end


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
