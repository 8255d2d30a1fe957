"""Vector indexes with faiss's verbs, trained by our k-means: vectors with ids are added, searched and removed."""

from .base import Index, load_index
from .flat import IndexFlat
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .pq import IndexPQ
from .quantizer import ProductQuantizer
from .store import EmbeddingStore

__all__ = [
    "EmbeddingStore",
    "Index",
    "IndexFlat",
    "IndexIVFFlat",
    "IndexIVFPQ",
    "IndexPQ",
    "ProductQuantizer",
    "load_index",
]
