"""Results: their types, dtypes and shapes, and that labels, centroids and inertia agree."""

from __future__ import annotations

import dataclasses
import re
import tracemalloc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import BACKENDS, FITS, assert_labels_optimal, blobs, given, inertia

import flash_kmeans_mlx as fk

KINDS = [
    "numpy-float32",
    "numpy-float64",
    "numpy-float16",
    "mlx-float32",
    "mlx-float16",
    "mlx-bfloat16",
]
X = blobs(3, 130, 7, 4).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", FITS)
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


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", FITS)
def test_a_stack_of_fits_is_the_fits_of_the_stack(metric: str, backend: str, init: str) -> None:
    together = FITS[metric](X, 6, 30, init=init, backend=backend, seed=4)
    assert len(set(together.n_iter_per_batch.tolist())) > 1  # or freezing would not be seen
    for b, x in enumerate(X):
        alone = FITS[metric](x, 6, 30, init=init, backend=backend, seed=4)
        np.testing.assert_array_equal(together.labels[b], alone.labels)
        np.testing.assert_allclose(
            together.centroids[b], alone.centroids, rtol=0, atol=1e-5
        )  # MLX's products differ by shape
        assert together.inertia[b] == pytest.approx(alone.inertia, rel=1e-6)
        assert (together.n_iter_per_batch[b], together.converged[b]) == (
            alone.n_iter,
            alone.converged,
        )
    assert together.n_iter == max(together.n_iter_per_batch)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", FITS)
@pytest.mark.parametrize("max_iters", [0, 1, 2, 100])
def test_labels_centroids_and_inertia_agree_wherever_the_loop_ends(
    max_iters: int, metric: str, backend: str
) -> None:
    weights = np.random.default_rng(0).random((3, 130))
    result = FITS[metric](X, 5, max_iters, sample_weight=weights, backend=backend)
    assert_labels_optimal(X, result.centroids, result.labels, metric)
    np.testing.assert_array_equal(
        fk.assign(X, result.centroids, metric, backend=backend), result.labels
    )
    exact = inertia(X, result.centroids, result.labels, metric, weights)
    np.testing.assert_allclose(result.inertia, exact, rtol=1e-5)  # float32 costs
    assert np.all(result.converged) == (max_iters == 100)
    assert result.n_iter <= max_iters


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", FITS)
def test_no_iterations_assign_to_the_initial_centroids(metric: str, backend: str) -> None:
    start = X[0, :4]
    result = FITS[metric](X[0], 4, 0, init_centroids=start, backend=backend)
    unit = start / np.linalg.norm(start, axis=1, keepdims=True)
    np.testing.assert_allclose(
        result.centroids, start if metric == "euclidean" else unit, rtol=1e-6
    )  # a few ulp
    assert_labels_optimal(X[0], result.centroids, result.labels, metric)
    assert (result.n_iter, result.n_iter_per_batch, result.converged) == (0, 0, False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tol_is_the_shift_at_which_a_element_stops(backend: str) -> None:
    free = fk.batch_kmeans_Euclid(X, 5, 50, backend=backend)
    loose = fk.batch_kmeans_Euclid(X, 5, 50, tol=1e9, backend=backend)
    assert free.n_iter > 2
    assert (loose.n_iter, np.all(loose.converged)) == (1, True)  # pyright: ignore[reportAttributeAccessIssue]
    assert_labels_optimal(X, loose.centroids, loose.labels, "euclidean")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", FITS)
def test_n_init_keeps_the_best_run_of_every_element(metric: str, backend: str) -> None:
    one = FITS[metric](X, 9, 20, backend=backend, seed=1)
    best = FITS[metric](X, 9, 20, backend=backend, seed=1, n_init=6)
    assert (best.inertia <= one.inertia).all()
    assert (best.inertia < one.inertia).any()
    assert_labels_optimal(X, best.centroids, best.labels, metric)
    exact = inertia(X, best.centroids, best.labels, metric)
    np.testing.assert_allclose(best.inertia, exact, rtol=1e-5)  # float32 costs


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(backend: str) -> None:
    for init in ("random", "k-means++", "k-means||"):
        runs = [fk.batch_kmeans_Euclid(X, 5, seed=s, init=init, backend=backend) for s in (7, 7, 8)]
        assert runs[0].centroids.tobytes() == runs[1].centroids.tobytes()
        assert runs[0].centroids.tobytes() != runs[2].centroids.tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_global_random_states_are_left_alone(backend: str) -> None:
    mx.random.seed(3)
    want = mx.random.uniform(shape=(4,)).tolist()
    mx.random.seed(3)
    state = np.random.get_state(legacy=False)  # noqa: NPY002  # the global state is the point
    fk.batch_kmeans_Euclid(mx.array(X), 4, init="k-means||", backend=backend)
    assert str(np.random.get_state(legacy=False)) == str(state)  # noqa: NPY002
    assert mx.random.uniform(shape=(4,)).tolist() == want


@pytest.mark.parametrize("metric", FITS)
def test_compiled_changes_no_bit(metric: str) -> None:
    plain, compiled = (
        FITS[metric](X, 4, 5, backend="portable", compiled=value) for value in (False, True)
    )
    np.testing.assert_array_equal(plain.labels, compiled.labels)
    np.testing.assert_array_equal(plain.centroids, compiled.centroids)


def test_the_default_backend_is_named() -> None:
    result = fk.batch_kmeans_Euclid(X[0], 3)
    assert result.backend == ("cpu" if mx.default_device() == mx.cpu else "portable")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_initial_callable_gets_what_the_caller_gave(backend: str) -> None:
    seen: list[Any] = []

    def init(x: Any, n_clusters: int, rng: np.random.Generator) -> Any:
        seen.append((x, n_clusters))
        return x[..., :n_clusters, :] if len(seen) % 2 else np.array(x)[..., :n_clusters, :]

    for x in (X, X[0], mx.array(X[0])):
        for _ in range(2):
            result = fk.batch_kmeans_Euclid(x, 4, 3, init=init, backend=backend)
            want = fk.batch_kmeans_Euclid(
                x, 4, 3, init_centroids=np.array(x)[..., :4, :], backend=backend
            )
            np.testing.assert_array_equal(np.array(result.centroids), np.array(want.centroids))
            assert type(seen[-1][0]) is type(x)
            assert tuple(seen[-1][0].shape) == tuple(x.shape)
            assert seen[-1][1] == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_verbose_prints_a_line_per_iteration_and_changes_nothing(
    backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = fk.batch_kmeans_Euclid(X, 5, 20, backend=backend)
    assert capsys.readouterr().out == ""
    loud = fk.batch_kmeans_Euclid(X, 5, 20, backend=backend, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == loud.n_iter == quiet.n_iter
    np.testing.assert_array_equal(loud.labels, quiet.labels)
    np.testing.assert_array_equal(loud.n_iter_per_batch, quiet.n_iter_per_batch)
    pattern = r"iteration (\d+): shift (\S+), inertia (\S+), (\d+) empty clusters, (\d+) running"
    values = np.array([re.fullmatch(pattern, line).groups() for line in lines], float)  # pyright: ignore[reportOptionalMemberAccess]
    np.testing.assert_array_equal(values[:, 0], np.arange(1, loud.n_iter + 1))
    assert (np.diff(values[:, 2]) <= 0).all()
    assert (values[0, 4], values[-1, 1]) == (3, 0)


@pytest.mark.parametrize("backend", ["cpu", "portable"])
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
