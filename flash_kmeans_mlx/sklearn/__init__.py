"""scikit-learn's k-means and nearest neighbours on this package's core.

To use them in code written for scikit-learn, change the import.
"""

from .kmeans import KMeans
from .minibatch import MiniBatchKMeans
from .neighbors import NearestNeighbors

__all__ = ["KMeans", "MiniBatchKMeans", "NearestNeighbors"]
