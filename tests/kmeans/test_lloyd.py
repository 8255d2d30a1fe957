"""The loop: by hand, scikit-learn's named cases, empty clusters, duplicates, what it prints."""

from __future__ import annotations

import re
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import BACKENDS, FITS, every_backend, every_metric

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import EmptyClusterWarning, KMeansResult, batch_kmeans_Euclid
from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES

# As in scikit-learn's test_kmeans_results.
FOUR = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]])


def summary(result: KMeansResult) -> tuple[Any, ...]:
    return result.labels.tolist(), result.centroids.tolist(), result.n_iter, result.inertia


@every_backend
def test_four_points_by_hand(backend: str) -> None:
    """[0 1 1 1], means (0, 0) (2/3, 2/3); then [0 0 1 1], means (1/4, 0) (3/4, 1); then nothing changes."""
    for max_iters, n_iter, converged in ((2, 2, False), (3, 3, True), (9, 3, True)):
        result = batch_kmeans_Euclid(FOUR, 2, max_iters, init_centroids=FOUR[:2], backend=backend)
        assert summary(result) == ([0, 0, 1, 1], [[0.25, 0.0], [0.75, 1.0]], n_iter, 0.25)
        assert result.converged is converged
    first = batch_kmeans_Euclid(FOUR, 2, 1, init_centroids=FOUR[:2], backend=backend)
    # Half a unit of float32.
    np.testing.assert_allclose(first.centroids, [[0, 0], [2 / 3, 2 / 3]], rtol=1e-7)
    assert first.labels.tolist() == [0, 0, 1, 1] and first.n_iter == 1 and not first.converged


@every_backend
def test_four_weighted_points_by_hand(backend: str) -> None:
    result = batch_kmeans_Euclid(
        FOUR, 2, init_centroids=FOUR[[0, 3]], sample_weight=[3.0, 1, 1, 3], backend=backend
    )
    assert summary(result) == ([0, 0, 1, 1], [[0.125, 0.0], [0.875, 1.0]], 2, 0.375)


@every_backend
def test_four_directions_by_hand(backend: str) -> None:
    """Two pairs at right angles, of any length: each pair's centroid is half way between its directions."""
    x = np.array([[4.0, 3.0], [30.0, 40.0], [-8.0, 6.0], [-0.6, 0.8]])
    result = fk.batch_kmeans_Cosine(x, 2, init_centroids=[[2.0, 0.0], [-5.0, 0.0]], backend=backend)
    half = 0.5**0.5
    assert result.labels.tolist() == [0, 0, 1, 1] and result.n_iter == 2
    # Two units of float32.
    np.testing.assert_allclose(result.centroids, [[half, half], [-half, half]], rtol=2e-7)
    # 1 - cos cancels three digits.
    assert result.inertia == pytest.approx(4 * (1 - 1.4 * half), rel=1e-5)
    dot = fk.batch_kmeans_Dot(x[:2], 1, backend=backend)
    np.testing.assert_allclose(dot.centroids, helpers.unit(np.array([[34.0, 43.0]])), rtol=2e-7)
    assert dot.inertia == pytest.approx(-np.hypot(34, 43), rel=1e-6)


@every_backend
@pytest.mark.parametrize("compiled", [True, False])
def test_relocated_clusters(compiled: bool, backend: str) -> None:
    """scikit-learn's case: the second centroid is too far away and moves to the farthest point, the first of two."""
    result = batch_kmeans_Euclid(
        FOUR, 2, init_centroids=[[0.5, 0.5], [3.0, 3.0]], compiled=compiled, backend=backend
    )
    assert summary(result) == ([1, 1, 0, 0], [[0.75, 1.0], [0.25, 0.0]], 3, 0.25)


LINE = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [15.0]])
FAR = [[1.0], [12.0], [100.0], [200.0]]  # the last two start empty


@every_backend
def test_farthest_by_hand(backend: str) -> None:
    """Costs 1 0 1 | 4 1 9: 15 moves to the third cluster, 10 to the fourth."""
    one = batch_kmeans_Euclid(LINE, 4, 1, init_centroids=FAR, backend=backend)
    assert one.centroids.tolist() == [[1.0], [11.0], [15.0], [10.0]]
    end = batch_kmeans_Euclid(LINE, 4, init_centroids=FAR, backend=backend)
    assert summary(end) == ([0, 0, 0, 3, 1, 2], [[1.0], [11.0], [15.0], [10.0]], 2, 2.0)


@every_backend
def test_farthest_leaves_no_cluster_empty(backend: str) -> None:
    """15 costs most but is alone; of 0 and 2, the first moves."""
    result = batch_kmeans_Euclid(
        LINE[[0, 1, 2, 5]], 3, 1, init_centroids=[[1.0], [9.0], [99.0]], backend=backend
    )
    assert result.centroids.tolist() == [[1.5], [15.0], [0.0]]


@every_backend
def test_farthest_passes_over_points_without_weight(backend: str) -> None:
    w = [1.0, 1, 1, 1, 1, 0]
    result = batch_kmeans_Euclid(
        LINE, 3, 1, init_centroids=FAR[:3], sample_weight=w, backend=backend
    )
    assert result.centroids.tolist() == [[1.0], [11.0], [10.0]]


@every_backend
def test_split_by_hand(backend: str) -> None:
    """Three points each: the first is cut, its twin a sixteenth of the way to 0; then the second, towards 15."""
    result = batch_kmeans_Euclid(LINE, 4, 1, init_centroids=FAR, empty="split", backend=backend)
    assert result.centroids.tolist() == [[1.0], [12.0], [1 - 1 / 16], [12 + 3 / 16]]
    assert result.labels.tolist() == [2, 0, 0, 1, 1, 3]


@every_backend
def test_split_fills_one_cluster_after_the_other(backend: str) -> None:
    """Ten points in the last cluster: it is cut once an iteration, until none is empty."""
    x = np.arange(10.0)[:, None]
    options = {"init_centroids": [[1e3], [2e3], [0.0]], "empty": "split", "backend": backend}
    one = batch_kmeans_Euclid(x, 3, 1, **options)
    assert one.centroids.tolist() == [[4.5 + 4.5 / 16], [2e3], [4.5]]  # towards 9, which cost most
    end = batch_kmeans_Euclid(x, 3, **options)
    assert end.converged and len(np.unique(end.labels)) == 3


@every_backend
@pytest.mark.parametrize("empty", ["farthest", "split"])
@pytest.mark.parametrize("name", ["euclidean", "cosine", "dot", "photograph"])
def test_no_cluster_stays_empty_while_points_are_left(name: str, empty: str, backend: str) -> None:
    """Many copies of few points, as the colours of a photograph are."""
    few = (
        helpers.pixels(120)
        if name == "photograph"
        else helpers.blobs(1, 120, 3, 9)[0].astype(np.float32)
    )
    x = np.repeat(few, 9, axis=0)
    k = len(np.unique(x, axis=0)) * 3 // 4
    result = FITS.get(name, batch_kmeans_Euclid)(x, k, empty=empty, seed=1, backend=backend)
    assert result.converged and len(np.unique(result.labels)) == k


@every_backend
def test_keep_by_hand(backend: str) -> None:
    result = batch_kmeans_Euclid(LINE, 4, init_centroids=FAR, empty="keep", backend=backend)
    assert summary(result) == ([0, 0, 0, 1, 1, 1], [[1.0], [12.0], [100.0], [200.0]], 1, 16.0)


@pytest.mark.usefixtures("metal")
@every_metric
@pytest.mark.parametrize("empty", POLICIES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_empty_clusters_end_alike_on_every_backend(weighted: bool, empty: str, metric: str) -> None:
    x = helpers.blobs(3, 211, 17, 7).astype(np.float32)
    # The last three begin as copies.
    c0 = np.concatenate([x[:, :4], np.repeat(x[:, 5:6], 4, axis=1)], axis=1)
    w = np.random.default_rng(0).gamma(1.0, size=(3, 211)) if weighted else None
    options = {"init_centroids": c0, "empty": empty, "sample_weight": w}
    results = [FITS[metric](x, 8, 30, backend=b, **options) for b in BACKENDS]
    if empty != "keep":
        assert [len(np.unique(labels)) for labels in results[0].labels] == [8] * 3
    for other in results[1:]:
        np.testing.assert_array_equal(other.labels, results[0].labels)
        np.testing.assert_allclose(
            other.centroids, results[0].centroids, rtol=0, atol=helpers.tolerance(17) * 5
        )


COPIES = ((300, 3, 0.0), (1000, 33, 0.0), (1000, 33, 100.0), (200_000, 3, 1.0))  # N, D, offset


@pytest.mark.parametrize(
    ("backend", "n", "d", "offset"),
    [(b, *case) for b in BACKENDS for case in COPIES if b != "reference" or case is not COPIES[-1]],
)
@pytest.mark.parametrize("empty", ["farthest", "split"])
def test_fewer_distinct_points_than_clusters(
    n: int, d: int, offset: float, empty: str, backend: str
) -> None:
    distinct, k = 7, 19
    x = helpers.duplicates(n, distinct, d) + np.float32(offset)
    with pytest.warns(
        EmptyClusterWarning,
        match=rf"n_clusters=19 in 1 of 1 batch elements \(x.shape=\({n}, {d}\)\)",
    ):
        result = batch_kmeans_Euclid(x, k, empty=empty, backend=backend)
    # A new point found in every iteration at worst; copies may wander between centroids that rounded sums leave a bit apart.
    assert result.converged and result.n_iter <= (2 if backend == "metal" else 1) * distinct + 2
    assert len(np.unique(result.labels)) == distinct
    rounding = helpers.tolerance(d) * np.abs(x).max()
    assert result.inertia <= n * rounding**2
    np.testing.assert_allclose(result.centroids[result.labels], x, rtol=0, atol=rounding)


@every_backend
@every_metric
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [5, 50_000])
def test_one_point_many_times(n: int, dtype: type, metric: str, backend: str) -> None:
    x = np.full((n, 3), dtype(0.1))
    with pytest.warns(EmptyClusterWarning):
        result = FITS[metric](x, 5, backend=backend)
    assert not result.labels.any() and result.n_iter <= 2
    size = 0.1 if metric == "euclidean" else 3**-0.5
    np.testing.assert_allclose(result.centroids, size, rtol=helpers.tolerance(3))


@every_backend
def test_only_the_poor_element_is_warned_about(backend: str) -> None:
    rich = helpers.blobs(1, 60, 3, 5)[0].astype(np.float32)
    with pytest.warns(EmptyClusterWarning, match="in 1 of 2 batch elements"):
        result = batch_kmeans_Euclid(
            np.stack([helpers.duplicates(60, 3, 3), rich]), 5, backend=backend
        )
    alone = batch_kmeans_Euclid(rich, 5, backend=backend)
    np.testing.assert_array_equal(result.labels[1], alone.labels)


@every_backend
@every_metric
def test_convergence_without_tol(metric: str, backend: str) -> None:
    """scikit-learn's case: 5000 points without structure; the fit must stop by itself."""
    n = 1500 if backend == "metal" and helpers.EMULATED else 5000
    x = np.random.default_rng(0).standard_normal((n, 17)).astype(np.float32)
    result = FITS[metric](x, 5, 300, tol=0.0, backend=backend)
    assert result.converged and result.n_iter < 300


@every_backend
@every_metric
def test_weighted_is_repeated(metric: str, backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    w = np.random.default_rng(2).integers(1, 5, 211)
    options = {"init_centroids": x[:7], "backend": backend}
    weighted = FITS[metric](x, 7, sample_weight=w, **options)
    repeated = FITS[metric](np.repeat(x, w, axis=0), 7, **options)
    np.testing.assert_array_equal(np.repeat(weighted.labels, w), repeated.labels)
    np.testing.assert_allclose(
        weighted.centroids, repeated.centroids, rtol=0, atol=helpers.tolerance(17) * 5
    )
    assert weighted.inertia == pytest.approx(repeated.inertia, rel=helpers.tolerance(17))


@every_backend
@every_metric
@pytest.mark.parametrize("factor", [1e-30, 1e-6, 0.25, 3.0, 1e6, 1e30])
def test_scaled_weights_scale_the_inertia_only(factor: float, metric: str, backend: str) -> None:
    x = helpers.blobs(1, 211, 17, 7)[0].astype(np.float32)
    w = np.random.default_rng(2).gamma(2.0, size=211)
    one, other = (
        FITS[metric](x, 7, sample_weight=v, seed=1, backend=backend) for v in (w, factor * w)
    )
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(
        other.centroids, one.centroids, rtol=0, atol=helpers.tolerance(17) * 5
    )
    assert other.inertia == pytest.approx(factor * one.inertia, rel=helpers.tolerance(17))


@every_backend
def test_arguments_are_not_mutated(backend: str) -> None:
    x = helpers.blobs(2, 211, 17, 7).astype(np.float32)
    w, c0 = np.ones((2, 211), np.float32), x[:, :7].copy()
    before = [a.tobytes() for a in (x, w, c0)]
    batch_kmeans_Euclid(x, 7, init_centroids=c0, sample_weight=w, backend=backend)
    batch_kmeans_Euclid(x, 7, init=c0, sample_weight=w, backend=backend)
    assert [a.tobytes() for a in (x, w, c0)] == before


PRINTED = re.compile(
    r"iteration (\d+): shift (\S+), inertia (\S+), (\d+) empty clusters, (\d+) running"
)


@every_backend
@every_metric
@pytest.mark.parametrize("tol", [0.0, 0.1])
def test_verbose_prints_a_line_per_iteration(
    tol: float, metric: str, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = helpers.blobs(3, 211, 17, 7).astype(np.float32)
    options = {
        "init_centroids": np.concatenate([x[:, :6], x[:, :1]], 1),
        "tol": tol,
        "backend": backend,
    }
    quiet = FITS[metric](x, 7, **options)
    assert capsys.readouterr().out == ""
    result = FITS[metric](x, 7, verbose=True, **options)
    np.testing.assert_array_equal(result.labels, quiet.labels)
    np.testing.assert_array_equal(result.n_iter_per_batch, quiet.n_iter_per_batch)
    lines = [PRINTED.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    table = np.array([[float(v) for v in line.groups()] for line in lines if line])
    assert len(table) == len(lines) == result.n_iter and table[:, 0].tolist() == list(
        range(1, result.n_iter + 1)
    )
    assert table[0, 3] == 3 and not table[1:, 3].any()
    assert table[:, 4].tolist() == [
        (result.n_iter_per_batch > i).sum() for i in range(result.n_iter)
    ]
    assert (np.diff(table[:, 2]) <= 0).all() and table[-1, 1] <= tol
    last = FITS[metric](x, 7, result.n_iter - 1, **options).inertia.sum()
    assert table[-1, 2] == pytest.approx(last, rel=1e-7)  # eight digits are printed
    for name in ("labels", "centroids", "inertia", "n_iter_per_batch", "converged"):
        np.testing.assert_array_equal(getattr(result, name), getattr(quiet, name))
