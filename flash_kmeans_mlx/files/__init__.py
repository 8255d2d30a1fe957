"""Files: users' vectors, results, and the package's own models and indexes.

`contents(path)` lists the arrays of a file of vectors. `open_vectors("PATH")` or ``"PATH::NAME"``
picks one of them: its `chunks` are all rows in order, a `cursor` reads any rows. Headers are
checked against the size of the file, and nothing in a file is ever executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import arrow, flat, parquet, pt
from .base import (
    CHUNK_BYTES,
    STORED,
    Buffers,
    Cursor,
    Vectors,
    ahead,
    check_regular,
    check_shape,
    file_error,
    value_dtype,
)
from .flat import MappedVectors

__all__ = [
    "CHUNK_BYTES",
    "FORMATS",
    "Buffers",
    "Cursor",
    "MappedVectors",
    "Vectors",
    "ahead",
    "check_regular",
    "contents",
    "file_error",
    "is_source",
    "open_array",
    "open_vectors",
    "split_name",
    "value_dtype",
]

FORMATS: dict[str, Callable[[str], dict[str, Vectors | str]]] = {
    ".npy": flat.npy,
    ".safetensors": flat.safetensors,
    **dict.fromkeys((".fvecs", ".bvecs", ".ivecs"), flat.vecs),
    **dict.fromkeys((".pt", ".pth"), pt.contents),
    ".parquet": parquet.parquet,
    **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), arrow.arrow),
}


def is_source(x: Any) -> bool:
    """Return whether `open_vectors` takes x: a path, a two-dimensional memory map, or Vectors."""
    if type(x) is np.ndarray:  # most often, and the checks of classes take a microsecond
        return False
    return isinstance(x, (str, os.PathLike, Vectors)) or (isinstance(x, np.memmap) and x.ndim == 2)


def contents(path: str | os.PathLike[str]) -> dict[str, Vectors | str]:
    """Return every array of a file by its name: Vectors, or the reason why it holds no vectors.

    The name is "" in formats that hold one array without a name.

    Raises:
        OSError: The file can't be opened.
        VectorFileError: Its format is unknown, or it is truncated or damaged.
    """
    path = os.fspath(path)
    check_regular(path)
    reader = FORMATS.get(Path(path).suffix.lower())
    if reader is None:
        raise file_error(
            path, f"its format {Path(path).suffix!r} is unknown: known are {', '.join(FORMATS)}"
        )
    return reader(path)


def open_vectors(source: str | os.PathLike[str] | np.memmap | Vectors) -> Vectors:
    """Return the vectors of a source.

    Args:
        source: ``"PATH"``; ``"PATH::NAME"`` for one tensor or column of a file with several; a
            two-dimensional memory map; or Vectors, which are returned.

    Raises:
        OSError: The file can't be opened.
        VectorFileError: It can't be read, has no array of that name, or several to choose from.
    """
    if isinstance(source, Vectors):
        return source
    if isinstance(source, np.memmap):
        return _mapped(source)
    return open_array(*split_name(source))


def split_name(source: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Return the path and NAME of ``"PATH::NAME"``; None without a name."""
    text = os.fspath(source)
    if "::" not in text or Path(text).exists():
        return text, None
    path, _, name = text.rpartition("::")
    return path, name


def open_array(path: str, name: str | None) -> Vectors:
    """Return the vectors of this name in a file, or with None its only ones.

    Raises:
        OSError: The file can't be opened.
        VectorFileError: It can't be read, has no array of that name, or several to choose from.
    """
    arrays = contents(path)
    if name is None:
        usable = [key for key, value in arrays.items() if isinstance(value, Vectors)]
        if len(usable) > 1:
            raise file_error(
                path,
                f"it holds several arrays: append ::NAME to its path, one of {_listed(usable)}",
            )
        if not arrays:
            raise file_error(path, "it holds no arrays")
        name = usable[0] if usable else next(iter(arrays))
    elif name not in arrays:
        others = f", only {_listed(list(arrays))}" if any(arrays) else ""
        raise file_error(path, f"it has no array {name!r}{others}")
    vectors = arrays[name]
    if isinstance(vectors, str):
        raise file_error(path, f"array {name!r}: {vectors}" if name else vectors)
    return vectors


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _mapped(x: np.memmap) -> Vectors:
    path = str(x.filename or "<memory map>")
    if x.dtype.newbyteorder("=").name not in STORED:
        raise file_error(
            path, f"its dtype {x.dtype} must be float16, float32, float64, an integer or bool"
        )
    shape = check_shape(x.shape)
    if isinstance(shape, str):
        raise file_error(path, shape)
    return MappedVectors(x, shape)
