"""Vectors at fixed places of a file: .npy, .safetensors, .fvecs, .bvecs and .ivecs; memory maps."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import IO, Any

import mlx.core as mx
import numpy as np

from .base import (
    COPY_AGAIN,
    KEPT,
    STEP_VALUES,
    STORED,
    Buffers,
    Cursor,
    Vectors,
    check_shape,
    decode,
    file_error,
    fill,
    shortened,
    value_dtype,
)
from .mapped import check_mapped, release_pages
from .safetensors import CODES, read_header

__all__ = ["FlatVectors", "MappedVectors", "npy", "npy_header", "safetensors", "vecs"]

_MAX_HEADER = 1 << 24
_NPY_FIELD = re.compile(
    r"\s*['\"](\w+)['\"]\s*:\s*('[^'\"]*'|\"[^'\"]*\"|True|False|\([\dL,\s]*\))\s*(?:,|$)"
)


class FlatVectors(Vectors):
    """Rows at a fixed distance from one another in a file.

    Args:
        path: The path of the file.
        name: The tensor; "" in formats that hold one array without a name.
        shape: (N, D).
        dtype: The name of the dtype in the file, a key of `STORED`.
        offset: Where the first row begins in the file, in bytes.
        prefixed: Whether every row begins with D as an int32.
        by_columns: Whether the file is in Fortran order, column after column.
        big_endian: Whether values are big-endian.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        offset: int,
        prefixed: bool = False,
        by_columns: bool = False,
        big_endian: bool = False,
    ) -> None:
        super().__init__(path, name, shape, dtype)
        self.offset = offset
        self.prefixed = prefixed
        self.by_columns = self.slow = by_columns
        self.stored = STORED[dtype].newbyteorder(">" if big_endian else "<")

    @property
    def reading_bytes(self) -> int:
        return self.row_bytes + (0 if self.in_place else self.stride)

    @property
    def row_bytes(self) -> int:
        return self.stride if self.prefixed and self.in_place else super().row_bytes

    @property
    def as_stored(self) -> bool:
        """Whether values are read in the dtype that they have in the file."""
        return self.dtype in KEPT and self.stored.isnative

    @property
    def in_place(self) -> bool:
        """Whether rows of the file are rows of an array as they are."""
        return self.as_stored and not self.by_columns

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return 4 * self.prefixed + self.shape[1] * self.stored.itemsize

    def cursor(self, buffers: int = 1) -> Cursor:
        return _FlatCursor(self, buffers)

    def runs(self, lo: int, hi: int) -> Iterator[tuple[int, int, int]]:
        """Yield (first row, last row + 1, where they begin in the file) of rows lo:hi."""
        yield lo, hi, self.offset + lo * self.stride

    def values(self, raw: np.ndarray, first: int) -> np.ndarray:
        """Return the stored values (n, D) of rows of bytes, from row `first` of the file on."""
        if not self.prefixed:
            return raw.view(self.stored)
        prefixes = raw[:, :4].view("<i4")[:, 0]
        wrong = prefixes != self.shape[1]
        if wrong.any():
            at = int(wrong.argmax())
            raise file_error(
                self.path,
                f"row {first + at} has {prefixes[at]} values where row 0 has {self.shape[1]}",
            )
        return raw[:, 4:].view(self.stored)

    def array(self) -> Any:
        end = self.offset + math.prod(self.shape) * self.stored.itemsize
        if end > Path(self.path).stat().st_size:
            raise file_error(self.path, f"it has become smaller; {COPY_AGAIN}")
        if self.prefixed and self.as_stored:
            for _ in self.chunks(max(1, (1 << 24) // self.stride)):
                pass  # every prefix is checked on the way
            raw = np.memmap(self.path, np.uint8, "r", shape=(self.shape[0], self.stride))
            return raw[:, 4:].view(self.stored)
        if self.prefixed or not (self.as_stored or self.dtype == "bfloat16"):
            return super().array()
        order = "F" if self.by_columns else "C"
        values = np.memmap(self.path, self.stored, "r", self.offset, self.shape, order)
        return values if self.as_stored else mx.array(values).view(mx.bfloat16)


class _FlatCursor(Cursor):
    """Reads bytes of the file; rows that are as they shall be are not copied again."""

    def __init__(self, vectors: FlatVectors, buffers: int) -> None:
        v = vectors
        self._vectors = v
        self._raw = Buffers(buffers if v.in_place else min(buffers, 1), v.stride, np.uint8)
        self._rows = Buffers(buffers, v.shape[1], value_dtype(v.dtype))
        self._file = FileIO(v.path)

    def read(self, lo: int, hi: int) -> np.ndarray:
        v = self._vectors
        raw = self._raw.next(hi - lo)
        if v.by_columns:
            n = v.shape[0]
            columns = raw.reshape(-1).view(v.stored).reshape(v.shape[1], -1)
            for j, column in enumerate(columns):
                self._fill(column, v.offset + (j * n + lo) * v.stored.itemsize)
            values = columns.T
        else:
            for first, end, begin in v.runs(lo, hi):
                self._fill(raw[first - lo : end - lo], begin)
            values = v.values(raw, lo)
        return values if v.in_place else decode(values, v.dtype, self._rows.next(hi - lo))

    def close(self) -> None:
        self._file.close()

    def _fill(self, out: np.ndarray, begin: int) -> None:
        """Read bytes of the file from `begin` on until `out` is full."""
        missing = fill(self._file, out, begin)
        if missing:
            raise file_error(
                self._vectors.path,
                f"it ended {missing} bytes early while being read; {COPY_AGAIN}",
            )


class MappedVectors(Vectors):
    """A two-dimensional memory map; its pages are released after they were read."""

    def __init__(self, x: np.memmap, shape: tuple[int, int]) -> None:
        super().__init__(str(x.filename or ""), "", shape, x.dtype.newbyteorder("=").name)
        self.x = x

    def cursor(self, buffers: int = 1) -> Cursor:
        return _MappedCursor(self, buffers)

    def array(self) -> Any:
        return self.x


class _MappedCursor(Cursor):
    """Copies rows from a map, and releases its pages."""

    def __init__(self, vectors: MappedVectors, buffers: int) -> None:
        self._x = vectors.x
        self._stored = vectors.dtype
        self._rows = Buffers(buffers, vectors.shape[1], value_dtype(vectors.dtype))
        self._step = max(1, STEP_VALUES // vectors.shape[1])

    def read(self, lo: int, hi: int) -> np.ndarray:
        rows = self._rows.next(hi - lo)
        owner = getattr(self._x, "_mmap", None)
        for at in range(lo, hi, self._step):
            check_mapped(self._x)
            part = self._x[at : min(at + self._step, hi)]
            decode(part, self._stored, rows[at - lo : at - lo + len(part)])
            # In mode "c" changes are private: they would be lost.
            if isinstance(owner, mmap.mmap) and self._x.mode != "c":
                release_pages(owner, part)
        return rows


def npy(path: str) -> dict[str, Vectors | str]:
    """Return the array of a .npy file. Its header is never evaluated, and pickles are refused."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        descr, by_columns, shape, offset = npy_header(path, file, size)
    if "O" in descr:
        return {
            "": "it holds Python objects (a pickle), which are never loaded;"
            " save it as a float array"
        }
    dtype = _npy_dtype(descr)
    if dtype is None:
        return {"": f"its dtype {descr!r} must be float16, float32, float64, an integer or bool"}
    checked = check_shape(shape)
    if isinstance(checked, str):
        return {"": checked}
    end = offset + math.prod(checked) * STORED[dtype].itemsize
    _check_size(path, size, end, f"{descr} of shape {checked}")
    big = descr[0] == ">" and STORED[dtype].itemsize > 1
    return {
        "": FlatVectors(path, "", checked, dtype, offset, by_columns=by_columns, big_endian=big)
    }


def safetensors(path: str) -> dict[str, Vectors | str]:
    """Return the tensors of a .safetensors file."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        try:
            header = read_header(file, size, _MAX_HEADER)
            entries = list(header.entries())
        except ValueError as error:
            raise file_error(path, str(error)) from None
    tensors: dict[str, Vectors | str] = {}
    for entry in entries:
        name = entry.name
        shape = check_shape(entry.shape)
        if entry.code not in CODES:
            tensors[name] = f"its dtype {entry.code} is not one of {', '.join(CODES)}"
        elif isinstance(shape, str):
            tensors[name] = shape
        else:
            offset = header.data_begin + entry.begin
            tensors[name] = FlatVectors(path, name, shape, CODES[entry.code], offset)
    data_bytes = max((entry.end for entry in entries), default=0)
    _check_size(path, size, header.data_begin + data_bytes, "its tensors")
    return tensors


def vecs(path: str) -> dict[str, Vectors | str]:
    """Return the rows of a .fvecs, .bvecs or .ivecs file.

    A row is D as an int32, then D values: float32, uint8 or int32.
    """
    dtype = {".fvecs": "float32", ".bvecs": "uint8", ".ivecs": "int32"}[Path(path).suffix.lower()]
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        d = int.from_bytes(file.read(4), "little", signed=True)
        stride = 4 + d * STORED[dtype].itemsize
        if size < 4 or d < 1 or size % stride:
            raise file_error(
                path,
                f"its {size} bytes are no whole number of rows of {d} values,"
                f" {stride} bytes each; {COPY_AGAIN}",
            )
        file.seek(size - stride)
        last = int.from_bytes(file.read(4), "little", signed=True)
    if last != d:
        raise file_error(path, f"its last row has {last} values where row 0 has {d}; {COPY_AGAIN}")
    return {"": FlatVectors(path, "", (size // stride, d), dtype, 0, prefixed=True)}


def npy_header(path: str, file: IO[bytes], size: int) -> tuple[str, bool, tuple[int, ...], int]:
    """Read the header of a .npy file of `size` bytes, from its start.

    Returns:
        (descr, whether it is stored by columns, shape, where the data begin).
    """
    magic = file.read(8)
    if not magic.startswith(b"\x93NUMPY"):
        raise file_error(path, f"it begins with {magic[:6]!r}, a .npy file with b'\\x93NUMPY'")
    if magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise file_error(path, f"its version {tuple(magic[6:])} must be (1, 0), (2, 0) or (3, 0)")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    offset = 8 + width + length
    if offset > size or length > _MAX_HEADER:
        raise file_error(path, f"its header would take {length} bytes of {size}; {COPY_AGAIN}")
    return *_npy_fields(path, file.read(length).decode("latin1").strip()), offset


def _npy_fields(path: str, text: str) -> tuple[str, bool, tuple[int, ...]]:
    fields: dict[str, str] = {}
    inner = text[1:-1].strip()
    position = 0
    while field := _NPY_FIELD.match(inner, position):
        fields[field[1]] = field[2]
        position = field.end()
    whole = text.startswith("{") and text.endswith("}") and position == len(inner)
    if not whole or sorted(fields) != ["descr", "fortran_order", "shape"]:
        raise file_error(
            path,
            f"its header {shortened(text)} does not describe one plain array"
            " (structured ones are not read)",
        )
    descr, order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    numbers = re.fullmatch(r"\((\s*\d{1,18}L?\s*,)*(\s*\d{1,18}L?\s*)?\)", shape)
    if descr[0] not in "'\"" or order not in ("True", "False") or numbers is None:
        raise file_error(path, f"its header {shortened(text)} does not describe one plain array")
    return descr[1:-1], order == "True", tuple(int(n) for n in re.findall(r"\d+", shape))


def _npy_dtype(descr: str) -> str | None:
    """Return the name that `STORED` has for a dtype of NumPy, if it has one."""
    code = re.fullmatch(r"[<>|=]?([fiub])(\d{1,2})", descr)
    if code is None:
        return None
    name = {"f": "float", "i": "int", "u": "uint", "b": "bool"}[code[1]] + str(8 * int(code[2]))
    name = "bool" if name == "bool8" else name
    return name if name in STORED else None


def _check_size(path: str, size: int, expected: int, what: str) -> None:
    if size != expected:
        kind = "truncated" if size < expected else "not what its header says"
        raise file_error(
            path,
            f"it is {kind}: it has {size} bytes, and {what} with the header take {expected};"
            f" {COPY_AGAIN}",
        )
