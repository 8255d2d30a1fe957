"""faiss's indexes, trained by our k-means. faiss is imported when needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..kmeans.api import assign, batch_kmeans_Dot, batch_kmeans_Euclid
from .opq import OPQMatrix
from .quantizer import ProductQuantizer
from .training import sample, vectors

__all__ = ["checked", "train_faiss"]


def train_faiss(
    index: Any, x: Any, *, max_points_per_centroid: int = 256, **fit_options: Any
) -> Any:
    """Train an index of faiss with our k-means: the centroids of its lists by one fit, its codebooks by one batched fit.

    Args:
        index: faiss's IndexIVFFlat, IndexIVFPQ, IndexPQ or IndexFlat, in an IndexPreTransform or IndexIDMap or by itself;
            empty. An OPQMatrix before it is learnt too, other transformations are trained by faiss.
        x: (N, D) vectors, `mx.array` or NumPy.
        max_points_per_centroid: training takes a sample of more than this many vectors per centroid.
        fit_options: as in `batch_kmeans_Euclid`, for both fits: seed, max_iters, n_init, backend and so on.

    Returns:
        The index, ready for add and search.

    Raises:
        ImportError: faiss is not installed.
        TypeError, ValueError: naming the argument, its value and its bound; an index of another kind.
    """
    faiss = checked(index)
    if index.ntotal:
        raise ValueError(
            f"train_faiss needs an empty index, this one holds ntotal={index.ntotal} vectors: make a new one"
        )
    _Training(faiss, max_points_per_centroid, fit_options).run(index, vectors(x, index.d)[0])
    return index


def faiss_module() -> Any:
    """faiss; ImportError with what to do about it."""
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError("faiss is not installed: pip install faiss-cpu") from error


def checked(index: Any) -> Any:
    """faiss; TypeError where the index is none of its."""
    faiss = faiss_module()
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index must be an index of faiss, got {type(index).__name__}")
    return faiss


def unknown(index: Any) -> TypeError:
    """What to raise for an index of a class that we do not know."""
    return TypeError(f"an index of faiss's class {type(index).__name__} is not supported")


def set_codebooks(faiss: Any, pq: Any, quantizer: ProductQuantizer) -> None:
    """Give faiss's quantizer the codebooks of ours."""
    faiss.copy_array_to_vector(quantizer.trained("to_faiss").reshape(-1), pq.centroids)


def set_rotation(faiss: Any, transform: Any, rotation: OPQMatrix) -> None:
    """Give faiss's LinearTransform the matrix of ours."""
    assert rotation.matrix is not None
    faiss.copy_array_to_vector(rotation.matrix.reshape(-1), transform.A)
    transform.is_orthonormal = transform.is_trained = True


class _Training:
    """One training, with its options."""

    def __init__(self, faiss: Any, most: int, options: dict[str, Any]) -> None:
        self.faiss, self.most, self.options = faiss, most, options
        self.named = {name: options[name] for name in ("seed", "backend") if name in options}

    def run(self, index: Any, rows: np.ndarray) -> None:
        """Train an index of any kind on rows (N, D)."""
        index = self.faiss.downcast_index(index)
        kind = type(index).__name__
        if kind in ("IndexIDMap", "IndexIDMap2"):
            self.run(index.index, rows)
        elif kind == "IndexPreTransform":
            self.run(index.index, self._transformed(index, rows))
        elif kind in ("IndexIVFFlat", "IndexIVFPQ"):
            self._lists(index, rows)
        elif kind == "IndexPQ":
            self._codebooks(index.pq, self._sample(rows, index.pq.ksub))
        elif not kind.startswith("IndexFlat"):
            raise unknown(index)
        index.is_trained = True

    def _sample(self, rows: np.ndarray, n_centroids: int) -> np.ndarray:
        return sample(rows, n_centroids, self.most, self.options.get("seed", 0))

    def _transformed(self, index: Any, rows: np.ndarray) -> np.ndarray:
        """The rows as the index inside gets them; trains what is not trained."""
        for i in range(index.chain.size()):
            transform = self.faiss.downcast_VectorTransform(index.chain.at(i))
            if not transform.is_trained:
                if (
                    isinstance(transform, self.faiss.OPQMatrix)
                    and transform.d_in == transform.d_out
                ):
                    rotation = OPQMatrix(
                        transform.d_in, transform.M, max_points_per_centroid=self.most, **self.named
                    )
                    rotation.train(rows)
                    set_rotation(self.faiss, transform, rotation)
                else:
                    transform.train(rows)
            rows = transform.apply(rows)
        return rows

    def _lists(self, index: Any, rows: np.ndarray) -> None:
        metrics = {self.faiss.METRIC_L2: "euclidean", self.faiss.METRIC_INNER_PRODUCT: "dot"}
        if index.metric_type not in metrics:
            raise ValueError(
                f"metric_type={index.metric_type} must be METRIC_L2 or METRIC_INNER_PRODUCT"
            )
        metric = metrics[index.metric_type]
        fit: Any = batch_kmeans_Dot if metric == "dot" else batch_kmeans_Euclid
        centroids = fit(
            self._sample(rows, index.nlist), index.nlist, **({"max_iters": 25} | self.options)
        ).centroids
        index.quantizer.reset()
        if not index.quantizer.is_trained:
            index.quantizer.train(centroids)
        index.quantizer.add(centroids)
        if isinstance(index, self.faiss.IndexIVFPQ):
            some = self._sample(rows, index.pq.ksub)
            if index.by_residual:
                some = (
                    some
                    - centroids[
                        assign(some, centroids, metric, backend=self.options.get("backend"))
                    ]
                )
            self._codebooks(index.pq, some)
            index.precompute_table()

    def _codebooks(self, pq: Any, rows: np.ndarray) -> None:
        quantizer = ProductQuantizer(pq.d, pq.M, pq.nbits)
        quantizer.learn(rows, **self.options)
        set_codebooks(self.faiss, pq, quantizer)
