"""index_factory: indexes by the short descriptions that faiss uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .base import Index
from .flat import IndexFlat
from .hnsw import IndexHNSW
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .ivfsq import IndexIVFScalarQuantizer
from .opq import OPQMatrix
from .pq import IndexPQ
from .pretransform import IndexPreTransform
from .refine import IndexRefine
from .sq import IndexScalarQuantizer
from .transforms import NormalizationTransform, PCAMatrix

__all__ = ["index_factory"]

ID_MAPS = ("IDMap", "IDMap2")
SCALARS = {"SQ8": "8bit", "SQfp16": "fp16"}
UNITS = {"k": 1 << 10, "M": 1 << 20}


def index_factory(
    d: int,
    description: str,
    metric: str | int = "euclidean",
    *,
    seed: int = 0,
    backend: str | None = None,
) -> Index:
    """Make an index by its description.

    Args:
        d: Dimensions of the vectors.
        description: Parts with commas between them, as in faiss. First "PCA64" for the first 64
            principal components, and "L2norm" for vectors of norm 1, or nothing; then "OPQ16" for a
            learnt rotation, "OPQ16_64" for one of 64 components, or nothing; then "IVF256" for 256
            lists, "IVF64k" for 64 * 1,024, "IVF64k_HNSW32" for so many that a graph finds them (see
            `IVF`), or nothing; then "Flat" for vectors as they are, "SQ8" or "SQfp16" for a byte or
            a float16 a dimension, or "PQ16" for codes of 16 parts of 8 bits, or "PQ16x4" of 4. Or
            "HNSW32" for a graph of 32 links a vector. Last comes "RFlat" or "Refine(Flat)" for
            candidates that are ranked by their vectors (see `IndexRefine`), or nothing. "IDMap" and
            "IDMap2" change nothing, as every index keeps ids, and neither do "np", and "fs" and
            "fsr" of 4 bits, after codes.
        metric: "euclidean", "cosine" or "dot", or faiss's METRIC_L2 or METRIC_INNER_PRODUCT; for
            "Flat" alone also "l1" and "linf".
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
    parts, is_refined = _parts(description)

    def take(pattern: str) -> list[int] | None:
        """Remove the next part if it has that form, and return its numbers."""
        match = re.fullmatch(pattern, parts[0]) if parts else None
        if match is None:
            return None
        del parts[0]
        return [int(number) for number in match.groups() if number is not None]

    transforms, m = _transforms(take, d, seed)
    if transforms:
        d = transforms[-1].d_out
    lists = take(r"IVF(\d+)(?:_HNSW(\d+))?")
    graph = take(r"HNSW(\d+)") if lists is None else None
    # The scan of 4-bit codes is one, "fs" (fast scan) or not.
    codes = take(r"PQ(\d+)(?:x(\d+)(?:(?<=x4)fsr?)?)?(?:np)?") if graph is None else None
    scalars = [name for part, name in SCALARS.items() if graph is None and take(part) is not None]
    flat = take("Flat")
    if parts or [graph, codes, scalars or None, None if graph else flat].count(None) != 3:
        wrong = repr(parts[0]) if parts else "its end"
        raise ValueError(
            f"description={description!r}: {wrong} is not understood; after PCA, L2norm, OPQ and"
            " IVF with their numbers, if any, comes 'Flat', 'SQ8', 'SQfp16', 'PQ16' or 'PQ16x4', or"
            " 'HNSW32' without IVF; 'RFlat' may be last, 'IDMap' anywhere"
        )
    trained: dict[str, Any] = {"seed": seed, "backend": backend}
    index: Index
    if lists:
        nlist, *links = lists
        coarse = f"HNSW{links[0]}" if links else None
        kind: Any = IndexIVFPQ if codes else IndexIVFScalarQuantizer if scalars else IndexIVFFlat
        coded = codes or scalars
        index = kind(d, nlist, *coded, metric=metric, coarse_quantizer=coarse, **trained)
    elif graph:
        index = IndexHNSW(d, *graph, metric=metric, backend=backend)
    elif codes:
        index = IndexPQ(d, *codes, metric=metric, **trained)
    elif scalars:
        index = IndexScalarQuantizer(d, *scalars, metric=metric, backend=backend)
    else:
        index = IndexFlat(d, metric, backend=backend)
    if m:
        transforms.append(OPQMatrix(d, m, *(codes or [])[1:], **trained))
    for transform in reversed(transforms):
        index = IndexPreTransform(transform, index)
    return IndexRefine(index) if is_refined else index


def _parts(description: Any) -> tuple[list[str], bool]:
    """Return the parts but for a last one that refines results, and whether there is one."""
    if not isinstance(description, str):
        raise TypeError(f"description={description!r} must be a string")
    if "Refine(" in description.replace("Refine(Flat)", ""):
        raise ValueError(
            f"description={description!r}: Refine() takes 'Flat' alone, the vectors as they are"
        )
    parts = [_with_all_lists(part) for part in description.split(",") if part not in ID_MAPS]
    is_refined = parts[-1:] in (["RFlat"], ["Refine(Flat)"])
    return parts[: len(parts) - is_refined], is_refined


def _transforms(
    take: Callable[[str], list[int] | None], d: int, seed: int
) -> tuple[list[Any], int]:
    """Take the parts that transform vectors (N, d), but for the rotation.

    Returns:
        The transformations, the first one first, and the parts of the rotation, 0 for none.
    """
    transforms: list[Any] = []
    while True:
        if components := take(r"PCA(\d+)"):
            transforms.append(PCAMatrix(d, *components, seed=seed))
            (d,) = components
        elif take("L2norm") is not None:
            transforms.append(NormalizationTransform(d))
        else:
            break
    m, *components = take(r"OPQ(\d+)(?:_(\d+))?") or [0]
    if components not in ([], [d]):
        transforms.append(PCAMatrix(d, *components, seed=seed))
    return transforms, m


def _with_all_lists(part: str) -> str:
    """Return "IVF4k" as "IVF4096", likewise M, and other parts as they are."""
    return re.sub(r"^IVF(\d+)([kM])", lambda m: f"IVF{int(m[1]) * UNITS[m[2]]}", part)
