"""Results in files: arrays and what they were computed from, written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._files import replacing, safetensors_parts
from .base import file_error
from .pt import torch_module

__all__ = ["RESULT_FORMATS", "check_output", "read_npz", "write"]


def write(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], fields: dict[str, str | int] | None = None) -> None:
    """Write arrays and fields to a file of a temporary name, which then takes the place of `path`.

    Args:
        path: ends in one of RESULT_FORMATS, which decides the format. Fields are arrays without dimensions in .npz files,
            strings of the metadata in .safetensors, entries of the dict in .pt; .npy files have none.
        arrays: float32, float64, int64 or uint32; exactly one for .npy. uint32 becomes int64 in .pt files.
        fields: what else to keep.

    Raises:
        OSError: The file can't be written. What was at `path` is as it was.
        VectorFileError: The format is unknown, or is .pt and torch is not installed.
    """
    path = os.fspath(path)
    check_output(path)
    writer = _WRITERS[Path(path).suffix.lower()]
    with replacing(path) as file:
        writer(file, arrays, fields or {})


def check_output(path: str | os.PathLike[str], size: int = 0) -> None:
    """Find what would keep `write` from writing `size` bytes to `path`, before hours of work.

    Raises:
        OSError: Its folder is missing or can't be written to, or the disk is full.
        VectorFileError: As in `write`.
    """
    path = os.fspath(path)
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise file_error(path, f"results are written to {', '.join(_WRITERS)}, not to {suffix!r}", "write")
    if suffix == ".pt":
        torch_module(path, "write")
    if Path(path).is_dir():
        raise _os_error(errno.EISDIR, path)
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise _os_error(errno.ENOENT, folder)
    if not os.access(folder, os.W_OK):
        raise _os_error(errno.EACCES, folder)
    if shutil.disk_usage(folder).free < size:
        raise _os_error(errno.ENOSPC, path)


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz file; pickles in it are refused.

    Raises:
        OSError: The file can't be opened.
        VectorFileError: It is damaged.
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                return {name.removesuffix(".npy"): _member(archive, name) for name in names}
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
            raise file_error(path, f"it is no .npz file, or damaged ({error})") from None


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _os_error(code: int, path: str | os.PathLike[str]) -> OSError:
    return OSError(code, os.strerror(code), os.fspath(path))


def _npy(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    del fields
    [array] = arrays.values()
    np.save(file, array, allow_pickle=False)


def _npz(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    np.savez(file, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in fields.items()})


def _safetensors(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    file.writelines(safetensors_parts(arrays, {name: str(value) for name, value in fields.items()}))


def _pt(file: BinaryIO, arrays: dict[str, np.ndarray], fields: dict[str, str | int]) -> None:
    torch = torch_module(file.name, "write")
    saved: dict[str, Any] = {
        name: torch.from_numpy(array.astype(np.int64) if array.dtype == np.uint32 else np.ascontiguousarray(array))
        for name, array in arrays.items()
    }
    torch.save(saved | fields, file)


_WRITERS = {".npz": _npz, ".safetensors": _safetensors, ".pt": _pt, ".npy": _npy}
RESULT_FORMATS = tuple(_WRITERS)
