"""The classes of indexes by name, and indexes from their saved state."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import index_file

__all__ = ["load_index", "register", "restore_index"]

_CLASSES: dict[str, Any] = {}


def register(kind: type) -> None:
    """Make a class of indexes known to `load_index`."""
    _CLASSES[kind.__name__] = kind


def load_index(path: str | os.PathLike[str]) -> Any:
    """Load an `Index` of any class that `save` wrote on any machine. Nothing is unpickled.

    Raises:
        OSError: The file can't be opened.
        ValueError: It is not such a file, of a newer format, truncated or damaged; the message says
            which.
    """
    class_name, parameters, arrays = index_file.read(path)
    try:
        return restore_index(class_name, parameters, arrays)
    except index_file.DAMAGE as error:
        raise ValueError(
            f"cannot load {os.fspath(path)!r}: it is a damaged {class_name} ({error});"
            " save it again"
        ) from error


def restore_index(
    class_name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Any:
    """Return the index with that state; one of `index_file.DAMAGE` if it is damaged."""
    if class_name not in _CLASSES:
        raise ValueError(f"no class of indexes is called {class_name!r}")
    index_file.check_sizes(parameters, arrays)
    return _CLASSES[class_name].restore(parameters, arrays)
