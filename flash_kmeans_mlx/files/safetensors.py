"""The layout of safetensors files: their headers are written, read and checked here only.

A file is the length of its header (8 bytes, little endian), the header, which is JSON with dtype,
shape and range of bytes of each tensor, and the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, TypeGuard

import numpy as np

from .base import COPY_AGAIN, STORED, shortened

__all__ = [
    "CODES",
    "METADATA",
    "WRITTEN",
    "Entry",
    "Header",
    "json_object",
    "parts",
    "read_header",
]

METADATA = "__metadata__"
# Codes of dtypes in headers, with the names that `STORED` has for them.
CODES = {"BOOL": "bool", "BF16": "bfloat16"} | {
    f"{letter}{bits}": f"{kind}{bits}"
    for letter, kind, widths in (
        ("F", "float", (16, 32, 64)),
        ("I", "int", (8, 16, 32, 64)),
        ("U", "uint", (8, 16, 32, 64)),
    )
    for bits in widths
}
# Codes of the dtypes that this package writes, with the dtypes of their values in a file.
WRITTEN = {
    code: STORED[CODES[code]].newbyteorder("<") for code in ("F32", "F64", "I64", "U32", "U8")
}
_CODES_WRITTEN = {dtype: code for code, dtype in WRITTEN.items()}


class Entry(NamedTuple):
    """A tensor as the header describes it.

    Attributes:
        name: Its name.
        code: The code of its dtype, which may be none of `CODES`.
        shape: Any number of dimensions.
        begin: Where it begins in the data, in bytes.
        end: Where it ends.
    """

    name: str
    code: str
    shape: list[int]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        text: The header as it is in the file.
        metadata: Strings by name, unchecked; None where there is none.
        tensors: The fields of each tensor by its name.
    """

    text: bytes
    metadata: Any
    tensors: dict[str, Any]

    @property
    def data_begin(self) -> int:
        """First byte of the data in the file."""
        return 8 + len(self.text)

    def entries(self) -> Iterator[Entry]:
        """Return the tensors in the order of the header.

        Raises:
            ValueError: A tensor has no dtype, shape or range of bytes, or they do not fit.
        """
        for name, fields in self.tensors.items():
            yield _entry(name, fields)


def parts(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Any]:
    """Return the content of a file as buffers: length of the header, header, array after array.

    Args:
        arrays: Arrays of float32, float64, int64, uint32 or uint8.
        metadata: Strings to keep with them.

    Raises:
        TypeError: An array has another dtype.
    """
    header: dict[str, Any] = {METADATA: metadata}
    data: list[Any] = []
    end = 0
    # Widest items first: every array is aligned to its items, as readers that map files need it.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES_WRITTEN:
            raise TypeError(
                f"arrays[{name!r}].dtype={array.dtype} must be float32, float64, int64, uint32"
                " or uint8"
            )
        data.append(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
        begin = end
        end += array.nbytes
        header[name] = {
            "dtype": _CODES_WRITTEN[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *data]


def read_header(file: IO[bytes], size: int, longest: int, advice: str = "check the path") -> Header:
    """Read the header of a file of `size` bytes; what follows in `file` are the data.

    Args:
        file: The open file, at its start.
        size: Its size in bytes.
        longest: Bytes that a header may take.
        advice: The advice in messages about files of other formats.

    Raises:
        ValueError: It is no safetensors file, or truncated or damaged; the message says what to do.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise ValueError(f"it is no .safetensors file: it has {size} bytes of 8; {COPY_AGAIN}")
    if length > longest:
        raise ValueError(
            f"it is no .safetensors file: its header would take {length} bytes; {advice}"
        )
    if 8 + length > size:
        raise ValueError(
            f"it is truncated: its header takes {length} bytes, and it has {size}; {COPY_AGAIN}"
        )
    text = file.read(length)
    try:
        tensors = json_object(text)
    except ValueError as error:
        raise ValueError(
            f"it is no .safetensors file, or its header is damaged ({error}); {advice}"
        ) from None
    return Header(text, tensors.pop(METADATA, None), tensors)


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object in a header.

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


def _entry(name: str, given: Any) -> Entry:
    fields = given if isinstance(given, dict) else {}
    code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(code, str)
        or not _is_counts(shape)
        or not _is_counts(offsets)
        or len(offsets) != 2
    ):
        raise ValueError(
            f"tensor {name!r} has a header of {shortened(str(given))},"
            f" without dtype, shape or data_offsets; {COPY_AGAIN}"
        )
    begin, end = offsets
    if code in CODES and end - begin != math.prod(shape) * STORED[CODES[code]].itemsize:
        raise ValueError(
            f"tensor {name!r} of shape {shape} and dtype {code} can't have data_offsets={offsets};"
            f" {COPY_AGAIN}"
        )
    return Entry(name, code, shape, begin, end)


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    """Return whether this is a list of at most 64 integers that are not negative."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
    )
