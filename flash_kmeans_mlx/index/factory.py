"""Indexes by faiss's short descriptions."""

from __future__ import annotations

import re
from typing import Any

from .base import Index
from .flat import IndexFlat
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .opq import OPQMatrix
from .pq import IndexPQ
from .pretransform import IndexPreTransform

__all__ = ["index_factory"]


def index_factory(
    d: int,
    description: str,
    metric: str = "euclidean",
    *,
    seed: int = 0,
    backend: str | None = None,
) -> Index:
    """An index by its description, as faiss writes it.

    Args:
        d: dimensions of the vectors.
        description: parts with commas between them: first "OPQ16" for a learnt rotation, or nothing; then "IVF256" for 256
            lists, or nothing; then "Flat" for vectors as they are, or "PQ16" for codes of 16 parts of 8 bits, "PQ16x4" of 4.
        metric: "euclidean", "cosine" or "dot"; for "Flat" alone also "l1" and "linf".
        seed: of the training.
        backend: as in `Index`.

    Raises:
        ValueError: a part that is not understood, by its name, or what an index's constructor raises.

    Example:
        >>> index = index_factory(64, "OPQ16,IVF256,PQ16x4")
        >>> type(index).__name__, type(index.index).__name__, index.index.nlist, index.index.nbits
        ('IndexPreTransform', 'IndexIVFPQ', 256, 4)
    """
    if not isinstance(description, str):
        raise TypeError(f"description={description!r} must be a string")
    parts = description.split(",")

    def take(pattern: str) -> list[int] | None:
        """The numbers in the next part, if it is of that form."""
        found = re.fullmatch(pattern, parts[0]) if parts else None
        if found is None:
            return None
        del parts[0]
        return [int(number) for number in found.groups() if number is not None]

    trained: dict[str, Any] = {"seed": seed, "backend": backend}
    rotation, lists = take(r"OPQ(\d+)"), take(r"IVF(\d+)")
    codes, flat = take(r"PQ(\d+)(?:x(\d+))?"), take("Flat")
    if parts or (codes is None) == (flat is None):
        wrong = repr(parts[0]) if parts else "its end"
        raise ValueError(
            f"description={description!r}: {wrong} is not understood; after OPQ and IVF with their numbers, if any, comes"
            " 'Flat', 'PQ16' or 'PQ16x4'"
        )
    if codes is None:
        index = (
            IndexFlat(d, metric, backend=backend)
            if lists is None
            else IndexIVFFlat(d, lists[0], metric, **trained)
        )
    elif lists is None:
        index = IndexPQ(d, *codes, metric=metric, **trained)
    else:
        index = IndexIVFPQ(d, *lists, *codes, metric=metric, **trained)
    return (
        index
        if rotation is None
        else IndexPreTransform(OPQMatrix(d, *rotation, *(codes or [])[1:], **trained), index)
    )
