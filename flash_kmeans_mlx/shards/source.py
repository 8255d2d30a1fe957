"""Sources of rows: files, folders, patterns and iterables."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from ..files import FORMATS, Cursor, Vectors, file_error, open_array, open_vectors, split_name
from .base import Source
from .chunks import ChunkSource
from .parts import FileSource

__all__ = ["Cursor", "Source", "is_source", "open_source"]

_ARRAYS = ("__array__", "__array_interface__", "__dlpack__", "shape")


def is_source(x: Any) -> bool:
    """Return whether x is read in pieces: it names files, or yields arrays.

    Arrays, memory maps and lists of numbers or arrays are none. An iterator is one, for
    `open_source` to refuse.
    """
    if isinstance(x, (str, os.PathLike, Vectors, Source)):
        return True
    if isinstance(x, (list, tuple)):
        return any(isinstance(item, (str, os.PathLike)) for item in x)
    if isinstance(x, (type, bytes, bytearray, memoryview, range, Mapping, Set)):
        return False
    return isinstance(x, Iterable) and not any(hasattr(x, name) for name in _ARRAYS)


def open_source(x: Any, name: str = "x") -> Source:
    """Return the rows of a source, whose headers are read; an iterable is read once.

    Args:
        x: A path, ``"PATH::NAME"`` for one array of a file with several, a folder, a pattern like
            ``"data/*.npy"``, or a list of these; a two-dimensional memory map; what `open_vectors`
            returned; an iterable that yields arrays (n, D), the same in every pass; or a source,
            which is returned.
        name: The argument in messages.

    Raises:
        OSError: A file can't be opened.
        ValueError: VectorFileError for a file that can't be read; files or chunks do not fit
            together, or there are none.
        TypeError: x is no source, or can be read only once.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, np.memmap) and x.ndim == 2:
        return FileSource([open_vectors(x)], str(x.filename or "a memory map"))
    if not is_source(x):
        raise TypeError(
            f"{name} must name files or be an iterable of arrays (n, D), got {type(x).__name__}"
        )
    if isinstance(x, Vectors):
        return FileSource([x], str(x))
    if isinstance(x, (str, os.PathLike)):
        vectors = _named(x)
        more = f" ({len(vectors)} files)" if len(vectors) > 1 else ""
        return FileSource(vectors, os.fspath(x) + more)
    if isinstance(x, (list, tuple)):
        for i, item in enumerate(x):
            if not isinstance(item, (str, os.PathLike)):
                raise TypeError(f"{name}[{i}]={item!r:.60} must be a path like others in {name}")
        vectors = [v for item in x for v in _named(item)]
        more = f" and {len(vectors) - 1} more files" if len(vectors) > 1 else ""
        return FileSource(vectors, str(vectors[0]) + more)
    if isinstance(x, Iterator):
        raise TypeError(
            f"{name} is an iterator ({type(x).__name__}), which yields its rows only once: give an"
            " object whose __iter__ begins anew, or write the rows to a file"
        )
    return ChunkSource(x, name)


def _named(source: str | os.PathLike[str]) -> list[Vectors]:
    """Return the vectors of a file, or of every file in a folder or of a pattern."""
    path, name = split_name(source)
    if Path(path).is_dir():
        found = sorted(map(str, filter(_has_vectors, Path(path).iterdir())))
        if not found:
            raise file_error(path, f"it is a folder without files of {', '.join(FORMATS)}")
    elif glob.has_magic(path) and not Path(path).exists():
        found = sorted(file for file in glob.glob(path) if not Path(file).is_dir())  # noqa: PTH207
        if not found:
            raise file_error(path, "no files match this pattern")
    else:
        found = [path]
    return [open_array(file, name) for file in found]


def _has_vectors(path: Path) -> bool:
    is_known = path.suffix.lower() in FORMATS and not path.name.startswith(".")
    return is_known and path.is_file()
