"""Results in files: arrays and the fields that say where they come from."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .atomic import replacing
from .base import check_regular, file_error
from .flat import npy_header
from .pt import torch_module
from .safetensors import parts

if TYPE_CHECKING:
    import zipfile

__all__ = ["RESULT_FORMATS", "check_output", "check_place", "labels_file", "read_npz", "write"]

_MAX_DEFLATION = 1032  # the largest compression ratio of deflate
_PIECE = 1 << 24  # bytes read at a time
# Errors that reading raises on damaged files.
_DAMAGED = (
    *(zlib.error, struct.error, EOFError, OSError, ValueError, TypeError),
    *(NotImplementedError, RuntimeError, OverflowError),
)


def write(
    path: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    fields: dict[str, str | int] | None = None,
) -> None:
    """Write arrays and fields to a temporary file, which then takes the place of `path`.

    Args:
        path: Its ending, one of RESULT_FORMATS, decides the format.
        arrays: Arrays of float32, float64, int64 or uint32; exactly one for .npy. In .pt files,
            uint32 becomes int64.
        fields: Strings and integers to keep with them: arrays without dimensions in .npz files,
            strings of the metadata in .safetensors, entries of the dict in .pt; .npy has none.

    Raises:
        OSError: The file can't be written. A file that was at `path` stays as it was.
        VectorFileError: The format is unknown, or is .pt and torch is not installed.
    """
    path = os.fspath(path)
    check_output(path)
    writer = _WRITERS[Path(path).suffix.lower()]
    with replacing(path) as file:
        writer(file, arrays, fields or {})


def check_output(path: str | os.PathLike[str], size: int = 0) -> None:
    """Refuse a `path` to which `write` could not write `size` bytes; called before long work.

    Raises:
        OSError: Its folder is missing or can't be written to, or the disk is full.
        VectorFileError: As in `write`.
    """
    path = os.fspath(path)
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise file_error(
            path, f"results are written to {', '.join(_WRITERS)}, not to {suffix!r}", "write"
        )
    if suffix == ".pt":
        torch_module(path, "write")
    check_place(path, size)


def check_place(path: str | os.PathLike[str], size: int = 0) -> None:
    """Refuse a `path` to which no file of `size` bytes could be written.

    Raises:
        OSError: Its folder is missing or can't be written to, or the disk is full.
        VectorFileError: There is something else than a regular file.
    """
    import shutil

    path = os.fspath(path)
    with suppress(FileNotFoundError):
        mode = Path(path).stat().st_mode  # fails for a loop of links
        if stat.S_ISDIR(mode):
            raise _os_error(errno.EISDIR, path)
        if not stat.S_ISREG(mode):
            raise file_error(path, "it is no regular file", "write")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise _os_error(errno.ENOENT, folder)
    if not os.access(folder, os.W_OK):
        raise _os_error(errno.EACCES, folder)
    if shutil.disk_usage(folder).free < size:
        raise _os_error(errno.ENOSPC, path)


def read_npz(path: str, most_bytes: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file; pickles in it are refused.

    Args:
        path: The file.
        most_bytes: Larger arrays are not read: zeros of the same shape and dtype that take no
            memory stand for them. None reads all.

    Raises:
        OSError: The file can't be opened.
        VectorFileError: It is damaged.
    """
    import zipfile

    check_regular(path)
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = [i for i in archive.infolist() if i.filename.endswith(".npy")]
                return {i.filename[:-4]: _member(archive, i, most_bytes) for i in members}
        except (*_DAMAGED, zipfile.BadZipFile) as error:
            raise file_error(path, f"it is no .npz file, or damaged ({error})") from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most_bytes: int | None) -> np.ndarray:
    """Return one array. Memory is allocated after its header was checked."""
    import zipfile

    member: Any
    with archive.open(info) as member:
        descr, by_columns, shape, begin = npy_header(info.filename, member, info.file_size)
        if re.fullmatch(r"[<>|=]?[fiubcSU]\d{1,9}", descr) is None:
            raise ValueError(
                f"{info.filename} has dtype {descr!r}; pickles are never loaded: allow_pickle=False"
            )
        dtype = np.dtype(descr)
        size = math.prod(shape) * dtype.itemsize
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is compressed in a way that NumPy does not use")
        if begin + size != info.file_size or size > _MAX_DEFLATION * info.compress_size:
            raise ValueError(
                f"{info.filename} of shape {shape} takes {begin + size} bytes, and the archive has"
                f" {info.file_size} of it in {info.compress_size}"
            )
        if most_bytes is not None and size > most_bytes:
            return np.broadcast_to(np.zeros((), dtype), shape)
        data = np.empty(size, np.uint8)
        missing = data.data
        while missing:
            n_read = member.readinto(missing[:_PIECE])
            if not n_read:
                raise EOFError(f"{info.filename} ends early")
            missing = missing[n_read:]
        member.read(1)  # zipfile checks the sum at the end
    return np.ndarray(shape, dtype, data.data, order="F" if by_columns else "C")


def _os_error(code: int, path: str | os.PathLike[str]) -> OSError:
    return OSError(code, os.strerror(code), os.fspath(path))


def _npy(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    del fields
    [array] = arrays.values()
    np.save(file, array, allow_pickle=False)


def _npz(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    np.savez(
        file,
        allow_pickle=False,
        **arrays,
        **{name: np.array(value) for name, value in fields.items()},
    )


def _safetensors(
    file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]
) -> None:
    file.writelines(parts(arrays, {name: str(value) for name, value in fields.items()}))


def _pt(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    torch = torch_module(file.name, "write")
    saved: dict[str, Any] = {
        name: torch.from_numpy(
            array.astype(np.int64) if array.dtype == np.uint32 else np.ascontiguousarray(array)
        )
        for name, array in arrays.items()
    }
    torch.save(saved | fields, file)


_WRITERS = {".npz": _npz, ".safetensors": _safetensors, ".pt": _pt, ".npy": _npy}
RESULT_FORMATS = tuple(_WRITERS)


def labels_file(
    path: str | os.PathLike[str] | None, shape: tuple[int, ...]
) -> AbstractContextManager[np.ndarray | None]:
    """Return labels (uint32) in a new .npy file, which becomes `path` if the block ends well.

    Without a path, the block gets None.
    """
    return nullcontext() if path is None else _new_labels(path, shape)


@contextmanager
def _new_labels(
    path: str | os.PathLike[str], shape: tuple[int, ...]
) -> Iterator[np.ndarray | None]:
    if Path(path).suffix.lower() != ".npy":
        raise ValueError(f"labels_path={os.fspath(path)!r} must end in .npy")
    check_output(path, 4 * math.prod(shape))
    with replacing(path) as file:
        header = {"descr": "<u4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        file.truncate(begin + 4 * math.prod(shape))
        file.flush()
        labels = np.memmap(file.name, np.dtype("<u4"), "r+", begin, shape)
        yield labels.view(np.ndarray)
        labels.flush()
