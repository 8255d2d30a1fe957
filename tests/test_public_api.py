"""Names, signatures and defaults that users rely on, exactly."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from helpers import FITS

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index

ALL = [
    "BackendUnavailableError",
    "EmptyClusterWarning",
    "FlashKMeans",
    "KMeansResult",
    "KNN",
    "NotFittedError",
    "VectorFileError",
    "assign",
    "batch_kmeans_Cosine",
    "batch_kmeans_Dot",
    "batch_kmeans_Euclid",
    "knn",
]
LOOP = ", callback=None, labels_path=None, checkpoint=None, checkpoint_seconds=0.0, resume=False, client=None)"
FIT = (
    "(x, n_clusters, max_iters=100, tol=0.0, init_centroids=None, verbose=False, *, init='random', seed=0, "
    "sample_weight=None, n_init=1, empty='farthest', compiled=True, max_mem_gb=0.0, dtype=None, backend=None, "
    "strategy=None, check_finite=True" + LOOP
)
KNN = "(queries, data, k, metric='euclidean', *, max_mem_gb=0.0, backend=None, exclude_self=False)"
ASSIGN = "(x, centroids, metric='euclidean', *, max_mem_gb=0.0, backend=None, check_finite=True, labels_path=None)"
ESTIMATOR = (
    "(d=None, k=8, niter=25, tol=1e-08, seed=0, verbose=False, dtype=None, metric='euclidean', compiled=True, "
    "max_mem_gb=0.0, init='k-means++', *, n_init=1, empty='farthest', backend=None, strategy=None, check_finite=True, "
    "n_clusters=None, nredo=None, spherical=False)"
)
IVF = ", *, seed=0, niter=25, max_points_per_centroid=256, coarse_quantizer=None, backend=None)"
INDEXES = {
    "EmbeddingStore": "(metric='cosine', max_memory_gb=0.0, *, index=None, seed=0, backend=None)",
    "IndexFlat": "(d, metric='euclidean', *, backend=None)",
    "IndexHNSW": "(d, m=16, ef_construction=200, metric='euclidean', ef=64, *, backend=None)",
    "IndexIVFFlat": "(d, nlist, metric='euclidean', nprobe=1" + IVF,
    "IndexIVFPQ": "(d, nlist, m, nbits=8, metric='euclidean', nprobe=1" + IVF,
    "IndexPQ": "(d, m, nbits=8, metric='euclidean', *, seed=0, niter=25, max_points_per_centroid=256, backend=None)",
    "IndexPreTransform": "(transform, index)",
    "IndexRefine": "(base_index, refine_index=None, k_factor=4.0)",
    "IndexRefineSearchParameters": "(sel=None, k_factor=None, base_index_params=None)",
    "IDSelectorBatch": "(indices)",
    "IDSelectorBitmap": "(bitmap)",
    "IDSelectorRange": "(imin, imax)",
    "NormalizationTransform": "(d)",
    "PCAMatrix": "(d_in, d_out, *, seed=0, max_points_per_d=1000)",
    "OPQMatrix": "(d, m, nbits=8, *, seed=0, niter=50, max_points_per_centroid=256, backend=None)",
    "ProductQuantizer": "(d, m, nbits=8, *, seed=0, niter=25, max_points_per_centroid=256, backend=None)",
    "SearchParameters": "(sel=None)",
    "SearchParametersHNSW": "(sel=None, efSearch=None)",
    "SearchParametersIVF": "(sel=None, nprobe=None)",
    "deserialize_index": "(data)",
    "from_faiss": "(index, *, backend=None)",
    "index_factory": "(d, description, metric='euclidean', *, seed=0, backend=None)",
    "lance_centroids": "(dataset, column, num_partitions, num_sub_vectors=None, metric='l2', *, seed=0, "
    "max_points_per_centroid=256, **fit_options)",
    "load_index": "(path, *, mmap=False)",
    "serialize_index": "(index)",
    "to_faiss": "(index)",
    "train_faiss": "(index, x, *, max_points_per_centroid=256, **fit_options)",
    "train_lance": "(dataset, column, num_partitions, num_sub_vectors=None, metric='l2', *, name=None, "
    "replace=False, seed=0, max_points_per_centroid=256, **fit_options)",
}
INDEX_VERBS = {
    "add": "(self, x, ids=None)",
    "load": "(path, *, mmap=False)",
    "add_with_ids": "(self, x, ids)",
    "assign": "(self, x, k=1)",
    "copy_subset_to": "(self, other, subset_type, a1, a2)",
    "merge_from": "(self, other, add_id=0)",
    "range_search": "(self, x, radius, *, nprobe=None, ef=None, k_factor=None, ids=None, "
    "exclude=None, params=None)",
    "reconstruct": "(self, id)",
    "reconstruct_n": "(self, n0=0, ni=-1)",
    "reset": "(self)",
    "search_and_reconstruct": "(self, x, k, **options)",
    "update_vectors": "(self, ids, x)",
    "remove_ids": "(self, ids)",
    "save": "(self, path)",
    "search": "(self, x, k, *, nprobe=None, ef=None, k_factor=None, ids=None, "
    "exclude=None, params=None)",
    "train": "(self, x, *, verbose=False)",
}
STORE_VERBS = {
    "add": "(self, embeddings, ids=None, metadata=None)",
    "compact": "(self)",
    "delete": "(self, ids)",
    "get": "(self, ids)",
    "load": "(path, *, backend=None)",
    "save": "(self, path)",
    "search": "(self, query, k, *, where=None)",
    "update": "(self, ids, embeddings=None, metadata=None)",
    "upsert": "(self, ids, embeddings, metadata=None)",
}
VERBS = {
    "fit": "(self, x, sample_weight=None, init_centroids=None, *" + LOOP,
    "fit_predict": "(self, x, sample_weight=None, init_centroids=None)",
    "load": "(path)",
    "partial_fit": "(self, x, sample_weight=None)",
    "predict": "(self, x, *, labels_path=None)",
    "save": "(self, path)",
    "score": "(self, x, sample_weight=None)",
    "transform": "(self, x)",
    "update": "(self, x, sample_weight=None)",
}


def signature(function: Callable[..., Any]) -> str:
    """Return a signature without annotations."""
    bare = inspect.signature(function)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in bare.parameters.values()]
    return str(bare.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def test_all() -> None:
    assert sorted(fk.__all__) == ALL
    assert {name for name in vars(fk) if not name.startswith("_")} - set(ALL) <= submodules()
    for name in ALL:
        assert getattr(fk, name).__module__.startswith("flash_kmeans_mlx.")


def submodules() -> set[str]:
    return {name for name, value in vars(fk).items() if inspect.ismodule(value)}


def test_star_import() -> None:
    names: dict[str, Any] = {}
    exec("from flash_kmeans_mlx import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == ALL


def test_version() -> None:
    assert fk.__version__ == importlib.metadata.version("flash-kmeans-mlx")


@pytest.mark.parametrize("metric", FITS)
def test_the_fits_take_the_same_arguments(metric: str) -> None:
    assert signature(FITS[metric]) == FIT
    assert inspect.signature(FITS[metric]).return_annotation == "KMeansResult"


@pytest.mark.parametrize("metric", list(FITS))
def test_prune_says_what_to_write_instead(metric: str) -> None:
    with pytest.raises(TypeError, match="strategy='tiles' for 'off'"):
        FITS[metric](np.eye(3), 2, prune="off")


def test_assign_takes() -> None:
    assert signature(fk.assign) == ASSIGN


def test_knn_takes() -> None:
    assert signature(fk.knn) == KNN
    assert signature(fk.KNN) == "(data, metric='euclidean', *, max_mem_gb=0.0, backend=None)"
    assert signature(fk.KNN.query) == "(self, x, k=1, *, exclude_self=False)"


def test_the_estimator_takes() -> None:
    assert signature(fk.FlashKMeans) == ESTIMATOR
    public = {
        name: getattr(fk.FlashKMeans, name)
        for name in vars(fk.FlashKMeans)
        if not name.startswith("_") and callable(getattr(fk.FlashKMeans, name))
    }
    assert {name: signature(verb) for name, verb in sorted(public.items())} == VERBS
    assert (
        signature(fk.FlashKMeans.train) == "(self, x, weights=None, init_centroids=None, **options)"
    )
    assert signature(fk.FlashKMeans.assign) == "(self, x)"


@pytest.mark.parametrize("name", list(INDEXES))
def test_the_indexes_take(name: str) -> None:
    assert signature(getattr(index, name)) == INDEXES[name]


def test_the_verbs_of_indexes() -> None:
    assert {name: signature(getattr(index.Index, name)) for name in INDEX_VERBS} == INDEX_VERBS
    kinds = (index.IndexFlat, index.IndexIVFFlat, index.IndexHNSW, index.IndexPreTransform)
    for kind in (*kinds, index.IndexRefine):
        assert {name: signature(getattr(kind, name)) for name in INDEX_VERBS} == INDEX_VERBS


def test_the_verbs_of_the_store() -> None:
    store = index.EmbeddingStore
    public = [name for name in vars(store) if not name.startswith("_")]
    assert sorted(public) == sorted([*STORE_VERBS, "index"])
    assert {name: signature(getattr(store, name)) for name in STORE_VERBS} == STORE_VERBS


def test_the_result_holds() -> None:
    names = [field.name for field in fields(fk.KMeansResult)]
    first = [
        "labels",
        "centroids",
        "n_iter",
        "inertia",
        "converged",
        "n_iter_per_batch",
        "backend",
        "strategy",
    ]
    assert names == [*first, "products", "seconds"]


def test_errors_can_be_caught_by_what_they_are() -> None:
    assert issubclass(fk.NotFittedError, ValueError)
    assert issubclass(fk.NotFittedError, AttributeError)
    assert issubclass(fk.BackendUnavailableError, RuntimeError)
    assert issubclass(fk.VectorFileError, ValueError)
    assert issubclass(fk.EmptyClusterWarning, UserWarning)
