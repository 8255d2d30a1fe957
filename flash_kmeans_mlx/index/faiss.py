"""to_faiss and from_faiss: our indexes as indexes of faiss, and the other way round."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Index
from .faiss_training import (
    faiss_module,
    faiss_of,
    qtype_of,
    ranges_of,
    set_codebooks,
    set_ranges,
    set_rotation,
    unknown_class,
)
from .flat import IndexFlat
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .ivfsq import IndexIVFScalarQuantizer
from .opq import OPQMatrix, checked_rotation
from .pq import IndexPQ
from .pretransform import IndexPreTransform
from .refine import IndexRefine
from .scalar_quantizer import QTYPES
from .sq import IndexScalarQuantizer
from .transforms import NormalizationTransform

__all__ = ["from_faiss", "to_faiss"]

METRICS = {
    "euclidean": "METRIC_L2",
    "dot": "METRIC_INNER_PRODUCT",
    "l1": "METRIC_L1",
    "linf": "METRIC_Linf",
}


def to_faiss(index: Index) -> Any:
    """Make an index of faiss with the vectors, codes and ids of one of ours.

    An index without lists becomes an IndexIDMap2 unless its ids are 0, 1, ..., and so does an
    IndexRefine; an OPQMatrix or a PCAMatrix becomes a LinearTransform.

    Raises:
        ImportError: faiss is not installed.
        ValueError: The index is not trained, or is for "cosine", which faiss does not have.
    """
    faiss = faiss_module()
    if not isinstance(index, Index):
        raise TypeError(f"index must be an Index, got {type(index).__name__}")
    index._check_trained("to_faiss", index._snapshot)
    if index.metric == "cosine":
        raise ValueError(
            "metric='cosine' is none of faiss's: index vectors of norm 1 with metric='dot' instead"
        )
    return _to_faiss(faiss, index)


def from_faiss(index: Any, *, backend: str | None = None) -> Index:
    """Make one of our indexes with the vectors, codes and ids of an index of faiss.

    Args:
        index: An IndexFlat, IndexIVFFlat, IndexPQ or IndexIVFPQ (of residuals), or
            IndexScalarQuantizer or IndexIVFScalarQuantizer (QT_8bit or QT_fp16) of faiss, in an
            IndexIDMap, an IndexRefineFlat, or an IndexPreTransform with one rotation.
        backend: As in `Index`.

    Raises:
        ImportError: faiss is not installed.
        TypeError, ValueError: It is another kind of index, is not trained, or has an id twice.
    """
    faiss = faiss_of(index)
    if not index.is_trained:
        raise ValueError("from_faiss needs a trained index: call train first")
    return _from_faiss(faiss, index, None, backend)


def _to_faiss(faiss: Any, index: Index) -> Any:
    # The copy keeps the present snapshot while other threads change the index.
    index = index._reader()
    if isinstance(index, IndexPreTransform):
        ours = index.transform
        if isinstance(ours, NormalizationTransform):
            transform = faiss.NormalizationTransform(index.d)
        else:
            transform = faiss.LinearTransform(index.d, ours.d_out, False)
            set_rotation(faiss, transform, ours)
        return faiss.IndexPreTransform(transform, _to_faiss(faiss, index.index))
    if isinstance(index, IndexRefine):
        return _refined_to_faiss(faiss, index)
    metric = getattr(faiss, METRICS[index.metric])
    if isinstance(index, IndexFlat):
        _, arrays = index.state()
        twin = faiss.IndexFlat(index.d, metric)
        codes = np.ascontiguousarray(arrays["rows"]).view(np.uint8)
        return _with_ids(faiss, twin, arrays["ids"], codes)
    if isinstance(index, IndexPQ):
        twin = faiss.IndexPQ(index.d, index.pq.m, index.pq.nbits, metric)
        set_codebooks(faiss, twin.pq, index.pq)
        twin.is_trained = True
        return _with_ids(faiss, twin, *_codes_by_id(index))
    if isinstance(index, IndexScalarQuantizer):
        twin = faiss.IndexScalarQuantizer(index.d, QTYPES[index.qtype], metric)
        set_ranges(faiss, twin, index.sq)
        return _with_ids(faiss, twin, *_codes_by_id(index))
    if isinstance(index, (IndexIVFFlat, IndexIVFPQ, IndexIVFScalarQuantizer)):
        return _lists_to_faiss(faiss, index, metric)
    raise TypeError(f"an {type(index).__name__} has no twin in faiss")


def _codes_by_id(index: IndexPQ | IndexScalarQuantizer) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (N,) int64 in ascending order and codes (N, code_size) uint8."""
    ids = index._ids(index._snapshot)
    rows = index._part(index._snapshot, ids)["rows"]
    return ids, rows[:, : index._snapshot.quantizer.code_size]


def _refined_to_faiss(faiss: Any, index: IndexRefine) -> Any:
    base, snapshot = index.base_index, index._snapshot
    ids, numbers = index._ids(snapshot), np.arange(index.ntotal)
    has_own_ids = not np.array_equal(ids, numbers)
    if has_own_ids:  # faiss finds vectors by the numbers that the candidates have
        part = base._part(snapshot.base, ids)
        empty = base._after_remove(snapshot.base, base._places(snapshot.base, ids))
        base._snapshot = base._after_merge(empty, part | {"ids": numbers})
    rows = np.ascontiguousarray(index.reconstruct_batch(ids))
    twin = faiss.IndexRefineFlat(_to_faiss(faiss, base), faiss.swig_ptr(rows))
    twin.k_factor = index.k_factor
    if not has_own_ids:
        return twin
    twin.ntotal = 0  # an IndexIDMap2 refuses other indexes
    outer = faiss.IndexIDMap2(twin)
    twin.ntotal = len(ids)
    return _with_id_map(faiss, outer, ids)


def _lists_to_faiss(
    faiss: Any, index: IndexIVFFlat | IndexIVFPQ | IndexIVFScalarQuantizer, metric: Any
) -> Any:
    quantizer = faiss.IndexFlat(index.d, metric)
    quantizer.add(index.centroids)
    if isinstance(index, IndexIVFPQ):
        twin = faiss.IndexIVFPQ(quantizer, index.d, index.nlist, index.m, index.nbits, metric)
        set_codebooks(faiss, twin.pq, index.pq)
        twin.precompute_table()
    elif isinstance(index, IndexIVFScalarQuantizer):
        qtype = QTYPES[index.qtype]
        twin = faiss.IndexIVFScalarQuantizer(quantizer, index.d, index.nlist, qtype, metric)
        set_ranges(faiss, twin, index.sq)
    else:
        twin = faiss.IndexIVFFlat(quantizer, index.d, index.nlist, metric)
    twin.nprobe = index.nprobe
    twin.is_trained = True
    for number in range(index.nlist):
        slots = index.lists.slots(number)
        ids = index.lists.ids.reshape(-1)[slots]
        rows = np.ascontiguousarray(index.lists.rows(slots)).view(np.uint8)
        # Without the float that may follow a vector or a code.
        codes = np.ascontiguousarray(rows[:, : twin.code_size])
        twin.invlists.add_entries(number, len(slots), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    twin.ntotal = index.ntotal
    return twin


def _with_ids(faiss: Any, twin: Any, ids: np.ndarray, codes: np.ndarray) -> Any:
    """Fill an index of faiss with codes, and put it in an IndexIDMap2 unless ids are 0, 1, ..."""
    has_own_ids = not np.array_equal(ids, np.arange(len(ids)))
    outer = faiss.IndexIDMap2(twin) if has_own_ids else twin
    faiss.copy_array_to_vector(np.ascontiguousarray(codes).reshape(-1), twin.codes)
    twin.ntotal = len(ids)
    return _with_id_map(faiss, outer, ids) if has_own_ids else twin


def _with_id_map(faiss: Any, outer: Any, ids: np.ndarray) -> Any:
    """Give an IndexIDMap2 the ids (N,) of the vectors of its index."""
    faiss.copy_array_to_vector(ids, outer.id_map)
    outer.ntotal = len(ids)
    outer.construct_rev_map()
    return outer


def _from_faiss(faiss: Any, index: Any, ids: np.ndarray | None, backend: str | None) -> Index:
    index = faiss.downcast_index(index)
    kind = type(index).__name__
    if kind in ("IndexIDMap", "IndexIDMap2"):
        return _from_faiss(faiss, index.index, faiss.vector_to_array(index.id_map), backend)
    if kind == "IndexPreTransform":
        return _rotated_from_faiss(faiss, index, ids, backend)
    if kind in ("IndexRefine", "IndexRefineFlat"):
        return _refined_from_faiss(faiss, index, ids, backend)
    names = {getattr(faiss, name): metric for metric, name in METRICS.items()}
    if index.metric_type not in names:
        raise ValueError(
            f"metric_type={index.metric_type} must be one of {', '.join(METRICS.values())}"
        )
    metric = names[index.metric_type]
    if kind.startswith("IndexFlat"):
        ours = IndexFlat(index.d, metric, backend=backend)
        if index.ntotal:
            ours.add(index.reconstruct_n(0, index.ntotal), ids)
        return ours
    if kind in ("IndexPQ", "IndexScalarQuantizer"):
        return _codes_from_faiss(faiss, index, ids, metric, backend)
    if kind in ("IndexIVFFlat", "IndexIVFPQ", "IndexIVFScalarQuantizer"):
        return _lists_from_faiss(faiss, index, kind, ids, metric, backend)
    raise unknown_class(index)


def _codes_from_faiss(
    faiss: Any, index: Any, ids: np.ndarray | None, metric: str, backend: str | None
) -> IndexPQ | IndexScalarQuantizer:
    if hasattr(index, "pq"):
        ours: Any = IndexPQ(index.d, index.pq.M, index.pq.nbits, metric, backend=backend)
        ours.pq.codebooks = _codebooks(faiss, index.pq)
    else:
        ours = IndexScalarQuantizer(index.d, qtype_of(index), metric, backend=backend)
        ranges_of(faiss, index, ours.sq)
    codes = faiss.vector_to_array(index.codes).reshape(index.ntotal, index.code_size)
    if len(codes):
        ids = ours._new_ids(ours._snapshot, ids, len(codes))
        ours._snapshot = ours._after_add_codes(ours._snapshot, codes, ids)
        ours._restore_next_id(0, ids)
    return ours


def _codebooks(faiss: Any, pq: Any) -> np.ndarray:
    """Return the codebooks (m, 2**nbits, d / m) float32 of a ProductQuantizer of faiss."""
    return faiss.vector_to_array(pq.centroids).reshape(pq.M, 1 << pq.nbits, -1)


def _rotated_from_faiss(
    faiss: Any, index: Any, ids: np.ndarray | None, backend: str | None
) -> IndexPreTransform:
    transform: Any = None
    if index.chain.size() == 1:
        transform = faiss.downcast_VectorTransform(index.chain.at(0))
    is_linear = isinstance(transform, faiss.LinearTransform)
    if not is_linear or transform.have_bias or transform.d_in != transform.d_out:
        raise ValueError(
            "an IndexPreTransform of faiss must have one rotation and nothing else before its index"
        )
    inner = _from_faiss(faiss, index.index, ids, backend)
    m = inner.pq.m if isinstance(inner, (IndexPQ, IndexIVFPQ)) else 1
    rotation = OPQMatrix(index.d, m, backend=backend)
    matrix = faiss.vector_to_array(transform.A).reshape(index.d, index.d)
    rotation.matrix = checked_rotation(matrix, index.d)
    return IndexPreTransform(rotation, inner)


def _refined_from_faiss(
    faiss: Any, index: Any, ids: np.ndarray | None, backend: str | None
) -> IndexRefine:
    vectors = _from_faiss(faiss, index.refine_index, ids, backend)
    if not isinstance(vectors, IndexFlat):
        raise TypeError(
            f"the refine_index of an IndexRefine of faiss must be an IndexFlat,"
            f" got {type(faiss.downcast_index(index.refine_index)).__name__}"
        )
    base = _from_faiss(faiss, index.base_index, ids, backend)
    return IndexRefine(base, vectors, max(1.0, index.k_factor))


def _lists_from_faiss(
    faiss: Any,
    index: Any,
    kind: str,
    outer_ids: np.ndarray | None,
    metric: str,
    backend: str | None,
) -> IndexIVFFlat | IndexIVFPQ | IndexIVFScalarQuantizer:
    options: dict[str, Any] = {
        "metric": metric,
        "nprobe": min(index.nprobe, index.nlist),
        "backend": backend,
    }
    if kind == "IndexIVFFlat":
        ours: Any = IndexIVFFlat(index.d, index.nlist, **options)
    elif not index.by_residual:
        raise ValueError("by_residual=False: only codes of residuals are supported")
    elif kind == "IndexIVFPQ":
        ours = IndexIVFPQ(index.d, index.nlist, index.pq.M, index.pq.nbits, **options)
        ours.pq.codebooks = _codebooks(faiss, index.pq)
    else:
        ours = IndexIVFScalarQuantizer(index.d, index.nlist, qtype_of(index), **options)
        ranges_of(faiss, index, ours.sq)
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    ours._snapshot = ours._snapshot._replace(centroids=centroids)
    ids, codes, numbers = _entries(faiss, index)
    if len(ids):
        snapshot = ours._snapshot
        ids = ours._new_ids(snapshot, ids if outer_ids is None else outer_ids[ids], len(ids))
        if isinstance(ours, IndexIVFFlat):
            payload = codes.view(np.float32)
        else:
            payload = ours._payload(snapshot, codes, numbers)
        ours._snapshot = snapshot._replace(lists=snapshot.lists.added(numbers, payload, ids))
        ours._restore_next_id(0, ids)
    return ours


def _entries(faiss: Any, index: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (N,) int64, codes (N, code_size) uint8 and lists (N,) of all vectors in lists."""
    lists = index.invlists
    sizes = np.array([lists.list_size(number) for number in range(index.nlist)])
    ids = np.zeros(int(sizes.sum()), np.int64)
    codes = np.zeros((len(ids), index.code_size), np.uint8)
    for number, end in enumerate(np.cumsum(sizes).tolist()):
        if n := int(sizes[number]):
            ids[end - n : end] = faiss.rev_swig_ptr(lists.get_ids(number), n)
            flat_codes = faiss.rev_swig_ptr(lists.get_codes(number), n * index.code_size)
            codes[end - n : end] = flat_codes.reshape(n, -1)
    return ids, codes, np.repeat(np.arange(index.nlist), sizes)
