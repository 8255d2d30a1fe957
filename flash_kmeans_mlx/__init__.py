"""Batched, exact k-means for MLX: correct on raw data, fast on Apple GPUs, NVIDIA GPUs and CPUs."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from .errors import BackendUnavailableError, EmptyClusterWarning, NotFittedError, VectorFileError
from .kmeans.api import batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid
from .kmeans.assign import assign
from .kmeans.estimator import FlashKMeans
from .kmeans.result import KMeansResult
from .neighbours.api import KNN, knn

if _TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Return `__version__`: finding it takes a fifth of the time of an import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        globals()[name] = version("flash-kmeans-mlx")
        return globals()[name]


__all__ = [
    "KNN",
    "BackendUnavailableError",
    "EmptyClusterWarning",
    "FlashKMeans",
    "KMeansResult",
    "NotFittedError",
    "VectorFileError",
    "assign",
    "batch_kmeans_Cosine",
    "batch_kmeans_Dot",
    "batch_kmeans_Euclid",
    "knn",
]
