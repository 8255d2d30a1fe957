"""Files written whole or not at all, and what safetensors files are made of.

A safetensors file is a header length (8 bytes, little endian), a JSON header with dtype, shape and byte range of each
array, the data.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["METADATA", "json_object", "replacing", "safetensors_parts"]

METADATA = "__metadata__"
DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U32": np.dtype("<u4"), "U8": np.dtype("u1")}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block ends well; otherwise what was at `path` stays as it was."""
    target = Path(path).resolve()
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def safetensors_parts(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Any]:
    """What a safetensors file of these arrays (float32, float64, int64, uint32, uint8) consists of, one buffer after another.

    Raises:
        TypeError: An array has another dtype.
    """
    header: dict[str, Any] = {METADATA: metadata}
    data: list[Any] = []
    end = 0
    # Widest items first keeps every array aligned to its item size, which readers that map the file rely on.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise TypeError(f"arrays[{name!r}].dtype={array.dtype} must be float32, float64, int64, uint32 or uint8")
        data.append(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _CODES[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *data]


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in a header.

    Raises:
        ValueError: It is none, or a name appears twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    if not text.startswith(b"{"):
        raise ValueError("no JSON object")
    try:
        return json.loads(text.decode(), object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(str(error)) from None
