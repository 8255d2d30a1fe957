"""Vector indexes with faiss's verbs, trained by our k-means: vectors with ids are added, searched and removed."""

from .base import Index, load_index
from .flat import IndexFlat
from .ivf import IndexIVFFlat
from .store import EmbeddingStore

__all__ = ["EmbeddingStore", "Index", "IndexFlat", "IndexIVFFlat", "load_index"]
