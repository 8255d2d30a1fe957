"""Tensors in files of `torch.save`. torch reads them with `weights_only=True`: no code runs."""

from __future__ import annotations

import importlib
import itertools
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VectorFileError
from .base import STORED, Buffers, Cursor, Vectors, check_shape, decode, file_error, value_dtype
from .flat import FlatVectors

__all__ = ["contents", "torch_module"]

# Errors that torch.load raises on damaged files. UnpicklingError is its refusal to run code.
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
)


class TorchVectors(Vectors):
    """A tensor (N, D) that torch maps to its file: pages are read when they are needed."""

    slow = True

    def __init__(
        self, path: str, name: str, shape: tuple[int, int], dtype: str, tensor: Any
    ) -> None:
        super().__init__(path, name, shape, dtype)
        self.tensor = tensor

    @property
    def reading_bytes(self) -> int:
        return self.row_bytes + self.shape[1] * STORED[self.dtype].itemsize

    def cursor(self, buffers: int = 1) -> Cursor:
        return _TorchCursor(self, buffers)


class _TorchCursor(Cursor):
    """Copies rows of a tensor."""

    def __init__(self, vectors: TorchVectors, buffers: int) -> None:
        self._torch = torch_module(vectors.path)
        self._vectors = vectors
        self._rows = Buffers(buffers, vectors.shape[1], value_dtype(vectors.dtype))

    def read(self, lo: int, hi: int) -> np.ndarray:
        torch = self._torch
        part = self._vectors.tensor[lo:hi].clone(memory_format=torch.contiguous_format)
        if self._vectors.dtype == "bfloat16":
            raw = part.view(torch.int16).numpy().view(np.uint16)
        else:
            raw = part.numpy()
        return decode(raw, self._vectors.dtype, self._rows.next(hi - lo))


def torch_module(path: str, verb: str = "read") -> Any:
    """Return the module torch, or raise an error that says how to install it."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        problem = ".pt files need PyTorch: pip install torch, or use .npy or .safetensors"
        raise file_error(path, problem, verb) from None


def contents(path: str) -> dict[str, Vectors | str]:
    """Return the tensor in the file, or the tensors of the dict in it."""
    import zipfile

    torch = torch_module(path)
    try:
        if not zipfile.is_zipfile(path):
            raise file_error(
                path,
                "it is no file of torch.save, or truncated, or in the format before PyTorch 1.6:"
                " save it again",
            )
        # torch warns about odd files, which are refused here, or read like others.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except VectorFileError:
        raise
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise file_error(
            path, f"it is damaged, or holds more than tensors, which is never loaded ({reason})"
        ) from None
    tensors = loaded if isinstance(loaded, dict) else {"": loaded}
    return {str(name): _vectors(path, str(name), value, torch) for name, value in tensors.items()}


def _vectors(path: str, name: str, value: Any, torch: Any) -> Vectors | str:
    if not isinstance(value, torch.Tensor):
        if isinstance(value, (str, int, float)):
            return f"it is {value!r:.60}, no tensor"
        return f"it is a {type(value).__name__}"
    dtype = str(value.dtype).removeprefix("torch.")
    if (
        dtype not in STORED
        or value.layout != torch.strided
        or value.is_quantized
        or value.device.type != "cpu"
    ):
        return f"its dtype {dtype} or layout is not read"
    shape = check_shape(tuple(value.shape))
    if isinstance(shape, str):
        return shape
    mapped = TorchVectors(path, name, shape, dtype, value.detach())
    return _flat(mapped, value) or mapped


def _flat(mapped: TorchVectors, tensor: Any) -> FlatVectors | None:
    """Return the rows as bytes of the file, or None where it is not clear which bytes they are.

    Reading them takes less memory than mapping them.
    """
    import zipfile

    storage_bytes = tensor.untyped_storage().nbytes()
    try:
        with zipfile.ZipFile(mapped.path) as archive:
            records = [
                info
                for info in archive.infolist()
                if "/data/" in info.filename and info.file_size == storage_bytes
            ]
    except (*_DAMAGED, zipfile.BadZipFile):  # torch reads less of the directory of the archive
        return None
    if (
        len(records) != 1
        or records[0].compress_type != zipfile.ZIP_STORED
        or not tensor.is_contiguous()
    ):
        return None
    begin = records[0].header_offset
    with Path(mapped.path).open("rb") as file:
        file.seek(begin)
        # The header before the data ends with a name and an extra field of these lengths.
        lengths = file.read(30)[26:].ljust(4, b"\0")
        name_length, extra_length = struct.unpack("<HH", lengths)
    begin += 30 + name_length + extra_length + tensor.storage_offset() * tensor.element_size()
    if begin + storage_bytes > Path(mapped.path).stat().st_size:
        return None
    flat = FlatVectors(mapped.path, mapped.name, mapped.shape, mapped.dtype, begin)
    same = (
        a.tobytes() == b.tobytes() for a, b in zip(flat.chunks(1), mapped.chunks(1), strict=True)
    )
    return flat if all(itertools.islice(same, 8)) else None
