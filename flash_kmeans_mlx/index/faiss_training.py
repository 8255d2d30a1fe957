"""train_faiss: indexes of faiss trained by our k-means. faiss is imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..kmeans.api import batch_kmeans_Dot, batch_kmeans_Euclid
from ..kmeans.assign import assign
from .arguments import vectors
from .opq import OPQMatrix
from .quantizer import ProductQuantizer
from .scalar_quantizer import QTYPES, ScalarQuantizer
from .training import sample
from .transforms import PCAMatrix

__all__ = [
    "faiss_module",
    "faiss_of",
    "qtype_of",
    "ranges_of",
    "set_codebooks",
    "set_ranges",
    "set_rotation",
    "train_faiss",
    "unknown_class",
]


def train_faiss(
    index: Any, x: Any, *, max_points_per_centroid: int = 256, **fit_options: Any
) -> Any:
    """Train an index of faiss with our k-means.

    The centroids of its lists are found by one fit, and its codebooks by one batched fit.

    Args:
        index: An empty IndexIVFFlat, IndexIVFPQ, IndexPQ or IndexFlat of faiss, in an
            IndexPreTransform, IndexIDMap or IndexRefineFlat or by itself. An OPQMatrix before it is
            learnt too; other transformations are trained by faiss.
        x: (N, D) vectors, `mx.array` or NumPy.
        max_points_per_centroid: Training takes a sample of more than this many vectors per
            centroid.
        fit_options: As in `batch_kmeans_Euclid`, for both fits: seed, max_iters, n_init, backend
            and so on.

    Returns:
        The index, ready for add and search.

    Raises:
        ImportError: faiss is not installed.
        TypeError, ValueError: The message names the argument, its value and its bound; or the index
            is of another kind.
    """
    faiss = faiss_of(index)
    if index.ntotal:
        raise ValueError(
            f"train_faiss needs an empty index, this one holds ntotal={index.ntotal} vectors:"
            " make a new one"
        )
    rows, _ = vectors(x, index.d)
    _Training(faiss, max_points_per_centroid, fit_options).run(index, rows)
    return index


def faiss_module() -> Any:
    """Import faiss.

    Raises:
        ImportError: It is not installed; the message says what to do about it.
    """
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError("faiss is not installed: pip install faiss-cpu") from error


def faiss_of(index: Any) -> Any:
    """Return faiss.

    Raises:
        TypeError: The index is none of faiss's.
    """
    faiss = faiss_module()
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index must be an index of faiss, got {type(index).__name__}")
    return faiss


def unknown_class(index: Any) -> TypeError:
    """Return the error for an index of a class that is not supported."""
    return TypeError(f"an index of faiss's class {type(index).__name__} is not supported")


def set_codebooks(faiss: Any, pq: Any, quantizer: ProductQuantizer) -> None:
    """Give a quantizer of faiss the codebooks of one of ours."""
    faiss.copy_array_to_vector(quantizer.trained("to_faiss").reshape(-1), pq.centroids)


def set_rotation(faiss: Any, transform: Any, rotation: OPQMatrix | PCAMatrix) -> None:
    """Give a LinearTransform of faiss the matrix of a rotation or projection of ours."""
    assert rotation.matrix is not None
    faiss.copy_array_to_vector(rotation.matrix.reshape(-1), transform.A)
    transform.is_orthonormal = transform.is_trained = True


class _Training:
    """One training, with its options."""

    def __init__(
        self, faiss: Any, max_points_per_centroid: int, fit_options: dict[str, Any]
    ) -> None:
        self.faiss = faiss
        self.max_points_per_centroid = max_points_per_centroid
        self.fit_options = fit_options

    def run(self, index: Any, rows: np.ndarray) -> None:
        """Train an index of any kind on rows (N, D)."""
        index = self.faiss.downcast_index(index)
        kind = type(index).__name__
        if kind in ("IndexIDMap", "IndexIDMap2"):
            self.run(index.index, rows)
        elif kind == "IndexRefineFlat":
            self.run(index.base_index, rows)
        elif kind == "IndexPreTransform":
            self.run(index.index, self._transformed(index, rows))
        elif kind in ("IndexIVFFlat", "IndexIVFPQ"):
            self._lists(index, rows)
        elif kind == "IndexPQ":
            self._codebooks(index.pq, self._sample(rows, index.pq.ksub))
        elif not kind.startswith("IndexFlat"):
            raise unknown_class(index)
        index.is_trained = True

    def _sample(self, rows: np.ndarray, n_centroids: int) -> np.ndarray:
        seed = self.fit_options.get("seed", 0)
        return sample(rows, n_centroids, self.max_points_per_centroid, seed)

    def _transformed(self, index: Any, rows: np.ndarray) -> np.ndarray:
        """Apply the transformations before an index to rows; train those that are not trained."""
        for i in range(index.chain.size()):
            transform = self.faiss.downcast_VectorTransform(index.chain.at(i))
            if not transform.is_trained:
                self._train_transform(transform, rows)
            rows = transform.apply(rows)
        return rows

    def _train_transform(self, transform: Any, rows: np.ndarray) -> None:
        is_rotation = isinstance(transform, self.faiss.OPQMatrix)
        if not is_rotation or transform.d_in != transform.d_out:
            transform.train(rows)
            return
        options = {
            name: self.fit_options[name] for name in ("seed", "backend") if name in self.fit_options
        }
        rotation = OPQMatrix(
            transform.d_in,
            transform.M,
            max_points_per_centroid=self.max_points_per_centroid,
            **options,
        )
        rotation.train(rows)
        set_rotation(self.faiss, transform, rotation)

    def _lists(self, index: Any, rows: np.ndarray) -> None:
        """Train an index with lists on rows (N, D)."""
        metrics = {self.faiss.METRIC_L2: "euclidean", self.faiss.METRIC_INNER_PRODUCT: "dot"}
        if index.metric_type not in metrics:
            raise ValueError(
                f"metric_type={index.metric_type} must be METRIC_L2 or METRIC_INNER_PRODUCT"
            )
        metric = metrics[index.metric_type]
        fit: Any = batch_kmeans_Dot if metric == "dot" else batch_kmeans_Euclid
        options = {"max_iters": 25} | self.fit_options
        centroids = fit(self._sample(rows, index.nlist), index.nlist, **options).centroids
        index.quantizer.reset()
        if not index.quantizer.is_trained:
            index.quantizer.train(centroids)
        index.quantizer.add(centroids)
        if isinstance(index, self.faiss.IndexIVFPQ):
            points = self._sample(rows, index.pq.ksub)
            if index.by_residual:
                backend = self.fit_options.get("backend")
                points = points - centroids[assign(points, centroids, metric, backend=backend)]
            self._codebooks(index.pq, points)
            index.precompute_table()

    def _codebooks(self, pq: Any, rows: np.ndarray) -> None:
        """Train a ProductQuantizer of faiss on rows (N, D)."""
        quantizer = ProductQuantizer(pq.d, pq.M, pq.nbits)
        quantizer.learn(rows, **self.fit_options)
        set_codebooks(self.faiss, pq, quantizer)


def set_ranges(faiss: Any, twin: Any, quantizer: ScalarQuantizer) -> None:
    """Give a scalar quantizer's ranges to an index of faiss.

    Raises:
        ValueError: Vectors are coded as float16 less their mean.
    """
    assert quantizer.ranges is not None
    mean, *ranges = quantizer.ranges
    if ranges:
        least, width = ranges
        faiss.copy_array_to_vector(np.concatenate([mean + least, width]), twin.sq.trained)
    elif mean.any():
        raise ValueError(
            "qtype='fp16' was trained, so that vectors are coded less their mean, which faiss does"
            " not do: add them to an index that is not trained"
        )
    twin.is_trained = True


def ranges_of(faiss: Any, index: Any, quantizer: ScalarQuantizer) -> None:
    """Give the ranges of an index of faiss to a scalar quantizer.

    Raises:
        ValueError: The index has another qtype.
    """
    if index.sq.qtype != QTYPES[quantizer.qtype]:
        raise ValueError(f"sq.qtype={index.sq.qtype} must be QT_8bit or QT_fp16")
    if quantizer.qtype == "8bit":
        least, width = faiss.vector_to_array(index.sq.trained).reshape(2, -1)
        quantizer.restore({"ranges": np.stack([np.zeros_like(least), least, width])})


def qtype_of(index: Any) -> str:
    """Return the name of the qtype of an index of faiss, any for those that are not ours."""
    return next((name for name, number in QTYPES.items() if number == index.sq.qtype), "8bit")
