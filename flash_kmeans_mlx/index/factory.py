"""index_factory: indexes by the short descriptions that faiss uses."""

from __future__ import annotations

import re
from typing import Any

from .base import Index
from .flat import IndexFlat
from .hnsw import IndexHNSW
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
    """Make an index by its description.

    Args:
        d: Dimensions of the vectors.
        description: Parts with commas between them, as in faiss. First "OPQ16" for a learnt
            rotation, or nothing; then "IVF256" for 256 lists, "IVF65536_HNSW32" for so many that a
            graph finds them (see `IVF`), or nothing; then "Flat" for vectors as they are, or "PQ16"
            for codes of 16 parts of 8 bits, or "PQ16x4" of 4. Or "HNSW32" for a graph of 32 links
            a vector.
        metric: "euclidean", "cosine" or "dot"; for "Flat" alone also "l1" and "linf".
        seed: Of the training.
        backend: As in `Index`.

    Raises:
        ValueError: A part is not understood, and the message names it; or the constructor of the
            index raises it.

    Example:
        >>> index = index_factory(64, "OPQ16,IVF256,PQ16x4")
        >>> type(index).__name__, type(index.index).__name__, index.index.nlist, index.index.nbits
        ('IndexPreTransform', 'IndexIVFPQ', 256, 4)
    """
    if not isinstance(description, str):
        raise TypeError(f"description={description!r} must be a string")
    parts = description.split(",")

    def take(pattern: str) -> list[int] | None:
        """Remove the next part if it has that form, and return its numbers."""
        match = re.fullmatch(pattern, parts[0]) if parts else None
        if match is None:
            return None
        del parts[0]
        return [int(number) for number in match.groups() if number is not None]

    rotation = take(r"OPQ(\d+)")
    lists = take(r"IVF(\d+)(?:_HNSW(\d+))?")
    graph = take(r"HNSW(\d+)") if lists is None else None
    codes = take(r"PQ(\d+)(?:x(\d+))?") if graph is None else None
    flat = take("Flat")
    if parts or (graph is None and (codes is None) == (flat is None)):
        wrong = repr(parts[0]) if parts else "its end"
        raise ValueError(
            f"description={description!r}: {wrong} is not understood; after OPQ and IVF with their"
            " numbers, if any, comes 'Flat', 'PQ16' or 'PQ16x4', or 'HNSW32' without IVF"
        )
    trained: dict[str, Any] = {"seed": seed, "backend": backend}
    if lists:
        nlist, *links = lists
        coarse = f"HNSW{links[0]}" if links else None
        kind = IndexIVFPQ if codes else IndexIVFFlat
        index = kind(d, nlist, *codes or (), metric=metric, coarse_quantizer=coarse, **trained)
    elif graph:
        index = IndexHNSW(d, *graph, metric=metric, backend=backend)
    elif codes:
        index = IndexPQ(d, *codes, metric=metric, **trained)
    else:
        index = IndexFlat(d, metric, backend=backend)
    if rotation is None:
        return index
    nbits = codes[1:] if codes else []
    return IndexPreTransform(OPQMatrix(d, *rotation, *nbits, **trained), index)
