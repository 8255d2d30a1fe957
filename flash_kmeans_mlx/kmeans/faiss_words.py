"""Methods of faiss's Kmeans that are made of those of FlashKMeans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotFittedError
from ..metrics import PROXIMITIES
from ..validation import to_numpy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FaissWords"]

ROWS = 1 << 16  # whose distances are computed at a time


class FaissWords:
    """Methods of faiss's Kmeans beside the constructor and `centroids`."""

    centroids: Any
    inertia_: Any
    metric: str
    fit: Any
    predict: Any

    @property
    def obj(self) -> np.ndarray:
        """The inertia, (1,) or (B,) float64; faiss has that of each iteration."""
        if self.centroids is None:
            raise NotFittedError("obj needs a fitted model: call fit first")
        return np.atleast_1d(np.asarray(self.inertia_, np.float64))

    def train(
        self, x: Any, weights: Any = None, init_centroids: Any = None, **options: Any
    ) -> Self:
        """Cluster x as `fit` does; `weights` are `sample_weight`, options its other arguments."""
        if weights is not None:
            options["sample_weight"] = weights
        return self.fit(x, init_centroids=init_centroids, **options)

    def assign(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances (N,) float32 of points x (N, D) to their centroids, and labels (N,).

        Distances are squared for "euclidean", ``1 - cos`` for "cosine", and dot products for "dot".
        """
        labels = np.asarray(self.predict(x))
        if labels.ndim != 1:
            raise ValueError(f"assign needs points of shape (N, D), got labels of {labels.shape}")
        points = to_numpy(x)
        centroids = np.asarray(self.centroids, np.float64)
        proximity = PROXIMITIES[self.metric]
        distances = np.empty(len(labels), np.float32)
        for lo in range(0, len(labels), ROWS):
            part = slice(lo, lo + ROWS)
            near = centroids[labels[part], None]
            distances[part] = proximity.distances(points[part].astype(np.float64), near)[:, 0]
        return -distances if self.metric == "dot" else distances, labels.astype(np.int64)
