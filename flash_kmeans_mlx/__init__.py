"""Batched, exact k-means for MLX: correct on raw data, fast on Apple GPUs, NVIDIA GPUs and CPUs."""

from importlib.metadata import version as _version

from .api import assign, batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid
from .errors import BackendUnavailableError, EmptyClusterWarning, NotFittedError, VectorFileError
from .estimator import FlashKMeans
from .nearest import KNN, knn
from .result import KMeansResult

__version__ = _version("flash-kmeans-mlx")
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
