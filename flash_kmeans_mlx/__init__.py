"""Batched, exact k-means for MLX: correct on raw data, fast on Apple GPUs, NVIDIA GPUs and CPUs."""

from importlib.metadata import version as _version

from .errors import BackendUnavailableError, EmptyClusterWarning, NotFittedError, VectorFileError
from .kmeans.api import batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid
from .kmeans.assign import assign
from .kmeans.estimator import FlashKMeans
from .kmeans.result import KMeansResult
from .neighbours.api import KNN, knn

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
