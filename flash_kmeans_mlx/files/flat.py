"""Formats that hold rows one after another: .npy, tensors of .safetensors files, .fvecs, .bvecs and .ivecs; memory maps."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import IO, Any, TypeGuard

import mlx.core as mx
import numpy as np

from ..validation import check_mapped
from .atomic import METADATA, json_object
from .base import KEPT, STORED, Vectors, check_shape, decoded, file_error

__all__ = ["FlatVectors", "MappedVectors", "npy", "npy_header", "safetensors", "vecs"]

_MAX_HEADER = 1 << 24
_COPY_AGAIN = "the file is incomplete or damaged: copy or write it again"


class FlatVectors(Vectors):
    """Rows at a fixed distance from one another in a file.

    Args:
        path, name, shape, dtype: as in `Vectors`.
        offset: of the first row in the file, in bytes.
        prefixed: every row opens with D as an int32.
        by_columns: the file holds all first values, then all second ones, and so on (Fortran's order).
        big_endian: the order of the bytes of a value.
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
        self.offset, self.prefixed, self.by_columns = offset, prefixed, by_columns
        self.stored = STORED[dtype].newbyteorder(">" if big_endian else "<")

    @property
    def reading_bytes(self) -> int:
        return self.row_bytes + (0 if self._as_stored else self._stride)

    @property
    def row_bytes(self) -> int:
        return self._stride if self.prefixed and self._as_stored else super().row_bytes

    @property
    def _as_stored(self) -> bool:
        return self.dtype in KEPT and self.stored.isnative

    @property
    def _stride(self) -> int:
        return 4 * self.prefixed + self.shape[1] * self.stored.itemsize

    def chunks(self, rows: int, recycled: bool = False) -> Iterator[np.ndarray]:
        n, rows = self.shape[0], min(rows, self.shape[0])
        raws = [self._empty(rows), self._empty(rows)] if recycled and rows < n else []
        with Path(self.path).open("rb", buffering=0) as file:
            for lo in range(0, n, rows):
                raw = raws[lo // rows % 2][: n - lo] if raws else self._empty(min(rows, n - lo))
                yield decoded(self._read(file, raw, lo), self.dtype)
                del raw

    def _empty(self, rows: int) -> np.ndarray:
        """Memory for rows as they are stored."""
        return np.empty((rows, self._stride), np.uint8)

    def _read(self, file: FileIO, raw: np.ndarray, lo: int) -> np.ndarray:
        """(n, D) stored values of the rows from `lo` on, as many as `raw` has room for."""
        if not self.by_columns:
            self._fill(file, raw, self.offset + lo * self._stride)
            return self._values(raw, lo)
        columns = raw.reshape(-1).view(self.stored).reshape(self.shape[1], -1)
        for j, column in enumerate(columns):
            self._fill(file, column, self.offset + (j * self.shape[0] + lo) * self.stored.itemsize)
        return columns.T

    def _fill(self, file: FileIO, out: np.ndarray, begin: int) -> None:
        left = out.view(np.uint8).reshape(-1).data
        file.seek(begin)
        while left:
            got = file.readinto(left)
            if not got:
                raise file_error(
                    self.path, f"it ended {len(left)} bytes early while being read; {_COPY_AGAIN}"
                )
            left = left[got:]

    def _values(self, raw: np.ndarray, first: int) -> np.ndarray:
        """(n, D) stored values in rows of bytes, the first of which is row `first`."""
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
        if (
            self.offset + math.prod(self.shape) * self.stored.itemsize
            > Path(self.path).stat().st_size
        ):
            raise file_error(self.path, f"it has become smaller; {_COPY_AGAIN}")
        if self.prefixed and self._as_stored:
            for _ in self.chunks(max(1, (1 << 24) // self._stride)):
                pass  # every prefix is checked on the way
            raw = np.memmap(self.path, np.uint8, "r", shape=(self.shape[0], self._stride))
            return raw[:, 4:].view(self.stored)
        if self.prefixed or not (self._as_stored or self.dtype == "bfloat16"):
            return super().array()
        order = "F" if self.by_columns else "C"
        values = np.memmap(self.path, self.stored, "r", self.offset, self.shape, order)
        return values if self._as_stored else mx.array(values).view(mx.bfloat16)


class MappedVectors(Vectors):
    """A two-dimensional array that a file is mapped to; what has been read of it leaves memory again."""

    def __init__(self, x: np.memmap, shape: tuple[int, int]) -> None:
        super().__init__(str(x.filename or ""), "", shape, x.dtype.newbyteorder("=").name)
        self.x = x

    def chunks(self, rows: int, recycled: bool = False) -> Iterator[np.ndarray]:
        n, d = self.shape
        rows = min(rows, n)
        owner = getattr(self.x, "_mmap", None)
        step = max(1, (1 << 20) // d)
        raws = [self._empty(rows), self._empty(rows)] if recycled and rows < n else []
        for lo in range(0, n, rows):
            raw = raws[lo // rows % 2][: n - lo] if raws else self._empty(min(rows, n - lo))
            for at in range(0, len(raw), step):
                check_mapped(self.x)
                part = self.x[lo + at : lo + at + min(step, len(raw) - at)]
                raw[at : at + step] = part
                if (
                    isinstance(owner, mmap.mmap) and self.x.mode != "c"
                ):  # private changes would be lost
                    _forget(owner, part)
                del part
            yield decoded(raw, self.dtype)
            del raw

    def _empty(self, rows: int) -> np.ndarray:
        return np.empty((rows, self.shape[1]), self.x.dtype.newbyteorder("="))

    def array(self) -> Any:
        return self.x


def _forget(owner: mmap.mmap, part: np.ndarray) -> None:
    """Tell the kernel that the pages under this part of a map are not needed soon: they count as this process's memory."""
    if not part.flags.c_contiguous or not hasattr(mmap, "MADV_DONTNEED"):
        return
    begin = (
        part.__array_interface__["data"][0]
        - np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    )
    lo, hi = begin // mmap.PAGESIZE * mmap.PAGESIZE, begin + part.nbytes
    owner.madvise(mmap.MADV_DONTNEED, lo, hi - lo)


_NPY_FIELD = re.compile(
    r"\s*['\"](\w+)['\"]\s*:\s*('[^'\"]*'|\"[^'\"]*\"|True|False|\([\dL,\s]*\))\s*(?:,|$)"
)


def npy(path: str) -> dict[str, Vectors | str]:
    """The one array of a .npy file. Its header is matched, never evaluated, and pickles are refused."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        descr, by_columns, shape, offset = npy_header(path, file, size)
    if "O" in descr:
        return {
            "": "it holds Python objects (a pickle), which are never loaded; save it as a float array"
        }
    code = re.fullmatch(r"[<>|=]?([fiub])(\d{1,2})", descr)
    dtype = code and {"f": "float", "i": "int", "u": "uint", "b": "bool"}[code[1]] + str(
        8 * int(code[2])
    )
    dtype = "bool" if dtype == "bool8" else dtype
    if dtype not in STORED:
        return {"": f"its dtype {descr!r} must be float16, float32, float64, an integer or bool"}
    checked = check_shape(shape)
    if isinstance(checked, str):
        return {"": checked}
    _check_size(
        path,
        size,
        offset + math.prod(checked) * STORED[dtype].itemsize,
        f"{descr} of shape {checked}",
    )
    big = descr[0] == ">" and STORED[dtype].itemsize > 1
    return {
        "": FlatVectors(path, "", checked, dtype, offset, by_columns=by_columns, big_endian=big)
    }


def npy_header(path: str, file: IO[bytes], size: int) -> tuple[str, bool, tuple[int, ...], int]:
    """(descr, whether by columns, shape, where the data begin) of a .npy file of `size` bytes at its start."""
    magic = file.read(8)
    if not magic.startswith(b"\x93NUMPY"):
        raise file_error(path, f"it begins with {magic[:6]!r}, a .npy file with b'\\x93NUMPY'")
    if magic[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise file_error(path, f"its version {tuple(magic[6:])} must be (1, 0), (2, 0) or (3, 0)")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    offset = 8 + width + length
    if offset > size or length > _MAX_HEADER:
        raise file_error(path, f"its header would take {length} bytes of {size}; {_COPY_AGAIN}")
    return *_npy_fields(path, file.read(length).decode("latin1").strip()), offset


def _npy_fields(path: str, text: str) -> tuple[str, bool, tuple[int, ...]]:
    fields: dict[str, str] = {}
    inner, position = text[1:-1].strip(), 0
    while field := _NPY_FIELD.match(inner, position):
        fields[field[1]], position = field[2], field.end()
    whole = text.startswith("{") and text.endswith("}") and position == len(inner)
    if not whole or sorted(fields) != ["descr", "fortran_order", "shape"]:
        raise file_error(
            path,
            f"its header {_short(text)} does not describe one plain array (structured ones are not read)",
        )
    descr, order, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    numbers = re.fullmatch(r"\((\s*\d{1,18}L?\s*,)*(\s*\d{1,18}L?\s*)?\)", shape)
    if descr[0] not in "'\"" or order not in ("True", "False") or numbers is None:
        raise file_error(path, f"its header {_short(text)} does not describe one plain array")
    return descr[1:-1], order == "True", tuple(int(n) for n in re.findall(r"\d+", shape))


def _short(text: str) -> str:
    return repr(text if len(text) < 120 else text[:120] + "...")


def _check_size(path: str, size: int, expected: int, what: str) -> None:
    if size != expected:
        less = "truncated: it" if size < expected else "not what its header says: it"
        raise file_error(
            path,
            f"it is {less} has {size} bytes, and {what} with the header take {expected}; {_COPY_AGAIN}",
        )


_CODES = {"BOOL": "bool", "BF16": "bfloat16"} | {
    f"{letter}{bits}": f"{kind}{bits}"
    for letter, kind, widths in (
        ("F", "float", (16, 32, 64)),
        ("I", "int", (8, 16, 32, 64)),
        ("U", "uint", (8, 16, 32, 64)),
    )
    for bits in widths
}


def safetensors(path: str) -> dict[str, Vectors | str]:
    """Every tensor of a .safetensors file."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _MAX_HEADER:
            raise file_error(
                path,
                f"it is no .safetensors file: {size} bytes, of which the header would take {length}",
            )
        if 8 + length > size:
            raise file_error(
                path,
                f"it is truncated: its header takes {length} bytes, and it has {size}; {_COPY_AGAIN}",
            )
        try:
            header = json_object(file.read(length))
        except ValueError as error:
            raise file_error(
                path, f"it is no .safetensors file, or its header is damaged ({error})"
            ) from None
    header.pop(METADATA, None)
    found: dict[str, Vectors | str] = {}
    end = 0
    for name, entry in header.items():
        fields = entry if isinstance(entry, dict) else {}
        code, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
        if (
            not isinstance(code, str)
            or not _counts(shape)
            or not _counts(offsets)
            or len(offsets) != 2
        ):
            raise file_error(
                path,
                f"tensor {name!r} has a header of {_short(str(entry))}, without dtype, shape or data_offsets",
            )
        end = max(end, offsets[1])
        checked = check_shape(shape)
        if code not in _CODES:
            found[name] = f"its dtype {code} is not one of {', '.join(_CODES)}"
        elif offsets[1] - offsets[0] != math.prod(shape) * STORED[_CODES[code]].itemsize:
            raise file_error(
                path,
                f"tensor {name!r} of shape {shape} and dtype {code} can't have data_offsets={offsets}",
            )
        elif isinstance(checked, str):
            found[name] = checked
        else:
            found[name] = FlatVectors(path, name, checked, _CODES[code], 8 + length + offsets[0])
    _check_size(path, size, 8 + length + end, "its tensors")
    return found


def _counts(value: Any) -> TypeGuard[list[int]]:
    """Whether this is a list of few small integers that are not negative."""
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
    )


def vecs(path: str) -> dict[str, Vectors | str]:
    """The rows of a .fvecs, .bvecs or .ivecs file: each is D as an int32, then D float32, uint8 or int32."""
    dtype = {".fvecs": "float32", ".bvecs": "uint8", ".ivecs": "int32"}[Path(path).suffix.lower()]
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        d = int.from_bytes(file.read(4), "little", signed=True)
        stride = 4 + d * STORED[dtype].itemsize
        if size < 4 or d < 1 or size % stride:
            raise file_error(
                path,
                f"its {size} bytes are no whole number of rows of {d} values, {stride} bytes each; {_COPY_AGAIN}",
            )
        file.seek(size - stride)
        last = int.from_bytes(file.read(4), "little", signed=True)
    if last != d:
        raise file_error(path, f"its last row has {last} values where row 0 has {d}; {_COPY_AGAIN}")
    return {"": FlatVectors(path, "", (size // stride, d), dtype, 0, prefixed=True)}
