"""Kinds of arguments: a kernel is compiled once for each, and its code is found by them.

A kind is "none", the name of a scalar ("int64"), ``(dtype, ndim, layout)`` of an array, or
``(class, kind, ...)`` of a tuple or NamedTuple. Layouts are "C" for C order and "A" for any other,
with "U" behind it for arrays that are not aligned.
"""

from typing import Any

import numpy as np

__all__ = ["Kind", "classes", "describe"]

Kind = Any


def describe(value: Any) -> Kind:
    """Return the kind of an argument.

    Raises:
        TypeError: Kernels take no such value.
    """
    if value is None:
        return "none"
    if isinstance(value, np.ndarray):
        if not value.dtype.isnative:
            raise TypeError(f"kernels take arrays in native order, got {value.dtype!r}")
        layout = "C" if value.flags.c_contiguous else "A"
        return (value.dtype.name, value.ndim, layout if value.flags.aligned else layout + "U")
    if isinstance(value, tuple):
        return (type(value), *map(describe, value))
    for scalar, name in ((bool, "bool"), (int, "int64"), (float, "float64")):
        if isinstance(value, scalar):
            return name
    if isinstance(value, np.generic):
        return value.dtype.name
    raise TypeError(f"kernels take no {type(value).__name__}")


def classes(kinds: tuple[Kind, ...]) -> list[type]:
    """Return the classes of all tuples among kinds, from the outside in, each once."""
    found: dict[type, None] = {}

    def visit(kind: Kind) -> None:
        if isinstance(kind, tuple) and isinstance(kind[0], type):
            found[kind[0]] = None
            for inner in kind[1:]:
                visit(inner)

    for kind in kinds:
        visit(kind)
    return list(found)
