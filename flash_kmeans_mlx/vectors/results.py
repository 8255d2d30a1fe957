"""Results in files: arrays and what they were computed from, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._files import replacing, safetensors_parts
from .base import file_error
from .pt import torch_module

__all__ = ["RESULT_FORMATS", "check_output", "write"]


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


def check_output(path: str | os.PathLike[str]) -> None:
    """Find what would keep `write` from writing to `path`, before hours of work.

    Raises:
        OSError: Its folder is missing or can't be written to.
        VectorFileError: As in `write`.
    """
    path = os.fspath(path)
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise file_error(path, f"results are written to {', '.join(_WRITERS)}, not to {suffix!r}", "write")
    if suffix == ".pt":
        torch_module(path, "write")
    if Path(path).is_dir():
        raise IsADirectoryError(21, os.strerror(21), path)
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(2, os.strerror(2), str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, os.strerror(13), str(folder))


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
