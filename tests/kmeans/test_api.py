"""Results as callers see them: types, dtypes and shapes, whatever they gave; warnings."""

from __future__ import annotations

import dataclasses
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, KINDS, backends_but, blobs, every_backend, every_metric, given

import flash_kmeans_mlx as fk

X = blobs(3, 130, 7, 4).astype(np.float32)


# A metric gives no other types: every kind is met with one, and every metric with one kind.
@pytest.mark.parametrize(
    ("metric", "kind"),
    [*(("euclidean", kind) for kind in KINDS), ("cosine", "numpy-float32"), ("dot", "mlx-float32")],
)
@every_backend
def test_types_and_shapes_with_and_without_a_batch(metric: str, backend: str, kind: str) -> None:
    library = mx.array if kind.startswith("mlx") else np.ndarray
    dtypes = (mx.uint32, mx.float32) if kind.startswith("mlx") else (np.uint32, np.float32)
    batch = FITS[metric](given(X, kind), 4, 5, backend=backend)
    one = FITS[metric](given(X[0], kind), 4, 5, backend=backend)
    for result, lead in ((batch, (3,)), (one, ())):
        labels, centroids, n_iter = result
        assert isinstance(labels, library)
        assert isinstance(centroids, library)
        assert (labels.dtype, centroids.dtype) == dtypes
        assert (tuple(labels.shape), tuple(centroids.shape)) == ((*lead, 130), (*lead, 4, 7))
        assert (
            result.labels is labels,
            result.centroids is centroids,
            result.n_iter is n_iter,
        ) == (True, True, True)
        assert type(n_iter) is int
        assert type(result.backend) is str
        assert result.backend == backend
    for field, dtype, scalar in (
        ("inertia", "f8", float),
        ("converged", "?", bool),
        ("n_iter_per_batch", "i8", int),
    ):
        stacked = getattr(batch, field)
        assert isinstance(stacked, np.ndarray)
        assert (stacked.shape, stacked.dtype) == ((3,), np.dtype(dtype))
        assert type(getattr(one, field)) is scalar
    labels = fk.assign(given(X, kind), np.array(batch.centroids), metric, backend=backend)
    assert isinstance(labels, library)
    assert labels.dtype == dtypes[0]
    np.testing.assert_array_equal(np.array(labels), np.array(batch.labels))


def test_a_batch_of_one_keeps_its_dimension() -> None:
    result = fk.batch_kmeans_Euclid(X[:1], 4)
    assert (result.labels.shape, result.centroids.shape) == ((1, 130), (1, 4, 7))
    assert (
        np.shape(result.inertia),
        np.shape(result.converged),
        np.shape(result.n_iter_per_batch),
    ) == ((1,), (1,), (1,))


def test_a_result_is_frozen_and_unpacks_into_three() -> None:
    result = fk.batch_kmeans_Euclid(X[0], 4)
    assert len(list(result)) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.n_iter = 0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_result_indexes_and_slices_like_the_tuple_that_it_unpacks_into() -> None:
    result = fk.batch_kmeans_Euclid(X[0], 4)
    labels, centroids, n_iter = result
    assert len(result) == 3
    assert result[0] is labels and result[-2] is centroids and result[2] == n_iter
    assert result[:2] == (labels, centroids)
    with pytest.raises(IndexError):
        result[3]


def test_cluster_sizes() -> None:
    for x in (X, X[0], mx.array(X[0])):
        result = fk.batch_kmeans_Euclid(x, 4, 2, init_centroids=X[:, :4] if x is X else X[0, :4])
        expected = (np.array(result.labels)[..., None] == np.arange(4)).sum(-2)
        np.testing.assert_array_equal(result.cluster_sizes, expected)
        assert result.cluster_sizes.dtype == np.int64


@every_metric
def test_compiled_changes_no_bit(metric: str) -> None:
    plain = FITS[metric](X, 4, 5, backend="portable", compiled=False)
    compiled = FITS[metric](X, 4, 5, backend="portable", compiled=True)
    np.testing.assert_array_equal(plain.labels, compiled.labels)
    np.testing.assert_array_equal(plain.centroids, compiled.centroids)


def test_the_default_backend_is_named() -> None:
    result = fk.batch_kmeans_Euclid(X[0], 3)
    assert result.backend == ("cpu" if mx.default_device() == mx.cpu else "portable")


@pytest.mark.parametrize("backend", backends_but("reference", "metal"))
def test_an_mlx_array_is_read_in_place(backend: str) -> None:
    x = mx.random.normal((60000, 64), key=mx.random.key(0))
    mx.eval(x)
    fk.batch_kmeans_Euclid(x, 3, 1, backend=backend)  # whatever is loaded once
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    fk.batch_kmeans_Euclid(x, 3, 1, backend=backend, max_mem_gb=0.008)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.nbytes == 15_360_000
    assert peak < 8e6
    assert mx.get_peak_memory() - before < 8e6


def test_a_warning_points_at_the_caller() -> None:
    x = np.zeros((10, 2), np.float32)
    model = fk.FlashKMeans(k=3)
    for call in (
        lambda: fk.batch_kmeans_Euclid(x, 3),
        lambda: model.fit(x),
        lambda: model.fit_predict(x),
    ):
        with pytest.warns(
            fk.EmptyClusterWarning,
            match=r"n_clusters=3 in 1 of 1 batch elements \(x\.shape=\(10, 2\)\)",
        ) as caught:
            call()
        assert [w.filename for w in caught] == [__file__]
