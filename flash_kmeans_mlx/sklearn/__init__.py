"""scikit-learn's k-means and nearest neighbours on this package's core: change the import and keep the rest."""

from .kmeans import KMeans
from .minibatch import MiniBatchKMeans
from .neighbors import NearestNeighbors

__all__ = ["KMeans", "MiniBatchKMeans", "NearestNeighbors"]
