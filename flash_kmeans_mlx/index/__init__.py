"""Vector indexes with faiss's verbs, trained by our k-means.

Vectors with ids are added, searched and removed.
"""

from .base import Index, load_index
from .factory import index_factory
from .faiss import from_faiss, to_faiss
from .faiss_training import train_faiss
from .faiss_words import METRIC_INNER_PRODUCT, METRIC_L1, METRIC_L2, METRIC_Linf
from .flat import IndexFlat
from .hnsw import IndexHNSW
from .ivf import IndexIVFFlat
from .ivfpq import IndexIVFPQ
from .ivfsq import IndexIVFScalarQuantizer
from .lance import lance_centroids, train_lance
from .opq import OPQMatrix
from .pq import IndexPQ
from .pretransform import IndexPreTransform
from .quantizer import ProductQuantizer
from .refine import IndexRefine
from .registry import deserialize_index, serialize_index
from .scalar_quantizer import ScalarQuantizer
from .search_parameters import (
    IDSelectorArray,
    IDSelectorBatch,
    IDSelectorBitmap,
    IDSelectorRange,
    IndexRefineSearchParameters,
    SearchParameters,
    SearchParametersHNSW,
    SearchParametersIVF,
)
from .sq import IndexScalarQuantizer
from .store import EmbeddingStore
from .transforms import NormalizationTransform, PCAMatrix

__all__ = [
    "METRIC_INNER_PRODUCT",
    "METRIC_L1",
    "METRIC_L2",
    "EmbeddingStore",
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorRange",
    "Index",
    "IndexFlat",
    "IndexHNSW",
    "IndexIVFFlat",
    "IndexIVFPQ",
    "IndexIVFScalarQuantizer",
    "IndexPQ",
    "IndexPreTransform",
    "IndexRefine",
    "IndexRefineSearchParameters",
    "IndexScalarQuantizer",
    "METRIC_Linf",
    "NormalizationTransform",
    "OPQMatrix",
    "PCAMatrix",
    "ProductQuantizer",
    "ScalarQuantizer",
    "SearchParameters",
    "SearchParametersHNSW",
    "SearchParametersIVF",
    "deserialize_index",
    "from_faiss",
    "index_factory",
    "lance_centroids",
    "load_index",
    "serialize_index",
    "to_faiss",
    "train_faiss",
    "train_lance",
]
