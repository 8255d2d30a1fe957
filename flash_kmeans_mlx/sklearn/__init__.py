"""scikit-learn's k-means on this package's core: change the import and keep the rest."""

from .kmeans import KMeans
from .minibatch import MiniBatchKMeans

__all__ = ["KMeans", "MiniBatchKMeans"]
