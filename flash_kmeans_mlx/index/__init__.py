"""Vector indexes with faiss's verbs, trained by our k-means.

Vectors with ids are added, searched and removed.
"""

from .base import Index, load_index
from .factory import index_factory
from .faiss import from_faiss, to_faiss
from .faiss_training import train_faiss
from .flat import IndexFlat
from .hnsw import IndexHNSW
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .lance import lance_centroids, train_lance
from .opq import OPQMatrix
from .pq import IndexPQ
from .pretransform import IndexPreTransform
from .quantizer import ProductQuantizer
from .store import EmbeddingStore

__all__ = [
    "EmbeddingStore",
    "Index",
    "IndexFlat",
    "IndexHNSW",
    "IndexIVFFlat",
    "IndexIVFPQ",
    "IndexPQ",
    "IndexPreTransform",
    "OPQMatrix",
    "ProductQuantizer",
    "from_faiss",
    "index_factory",
    "lance_centroids",
    "load_index",
    "to_faiss",
    "train_faiss",
    "train_lance",
]
