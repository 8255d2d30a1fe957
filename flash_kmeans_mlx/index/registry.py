"""The classes of indexes by name, and indexes from their saved state."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import validation
from ..files.mapped import is_mapped
from . import index_file

__all__ = ["deserialize_index", "load_index", "register", "restore_index", "serialize_index"]

_CLASSES: dict[str, Any] = {}


def register(kind: type) -> None:
    """Make a class of indexes known to `load_index`."""
    _CLASSES[kind.__name__] = kind


def load_index(path: str | os.PathLike[str], *, mmap: bool = False) -> Any:
    """Load an `Index` of any class that `save` wrote on any machine. Nothing is unpickled.

    Args:
        path: The file.
        mmap: Map the file instead of reading it, for an index that is larger than memory or that
            many processes share. The index can't be changed; it finds the same. Searches read the
            lists that they look at. The first use of ids (a filter, `reconstruct`) sorts all of
            them, and keeps 16 bytes each; `IndexFlat` has them in order. Graphs are read as a
            whole, and an MLX backend copies all vectors of an `IndexFlat`.

            The header and all sizes are checked, the sum of the file and the vectors are not: load
            a file once without `mmap` if it may be damaged. Do not write to the file: the index
            changes, and where it is truncated, the process ends (SIGBUS). `save` to the same path
            is safe, as it makes another file, and the index keeps the old one.

    Raises:
        OSError: The file can't be opened.
        ValueError: It is not such a file, of a newer format, truncated or damaged; the message says
            which. With `mmap`, older formats are refused too.
    """
    mapped = validation.check_flag("mmap", mmap)
    return _checked(repr(os.fspath(path)), *index_file.read(path, mapped=mapped))


def serialize_index(index: Any) -> np.ndarray:
    """Return the bytes of the file that `save` writes, (n,) uint8."""
    data = index_file.to_bytes(type(index).__name__, *index.state())
    return np.frombuffer(bytearray(data), np.uint8)


def deserialize_index(data: Any) -> Any:
    """Return the index of bytes (n,) uint8 that `serialize_index` returned.

    Raises:
        ValueError: They are not such bytes, of a newer format, truncated or damaged.
    """
    return _checked("an index", *index_file.from_bytes(bytes(data)))


def _checked(
    place: str, class_name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Any:
    """Return the index with that state; ValueError, which names the place, if it is damaged."""
    try:
        return restore_index(class_name, parameters, arrays)
    except index_file.DAMAGE as error:
        raise ValueError(
            f"cannot load {place}: it is a damaged {class_name} ({error}); save it again"
        ) from error


def restore_index(
    class_name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Any:
    """Return the index with that state; one of `index_file.DAMAGE` if it is damaged."""
    if class_name not in _CLASSES:
        raise ValueError(f"no class of indexes is called {class_name!r}")
    index_file.check_sizes(parameters, arrays)
    index = _CLASSES[class_name].restore(parameters, arrays)
    index._is_mapped = any(map(is_mapped, arrays.values()))
    return index
