"""Accepted input: whatever its type, byte order and strides, the result is that of the same contiguous float32 values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, Array, every_backend

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import validation
from flash_kmeans_mlx.kmeans import arguments
from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES

# N, D, K. The CPU backend reads few dimensions in another way than many.
FEW, MANY = (230, 5, 7), (190, 21, 6)


def packed(x: Array) -> Array:
    """Return the same values at odd addresses."""
    field = np.zeros(
        x.shape, np.dtype({"names": ["v"], "formats": ["f4"], "offsets": [1], "itemsize": 5})
    )
    field["v"] = x
    return field["v"]


def interleaved(x: Array) -> Array:
    wide = np.full((x.shape[0] * 2, x.shape[1] * 3), np.nan, np.float32)
    wide[::2, 1::3] = x
    return wide[::2, 1::3]


def read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


class Convertible:
    """An array of another library, as NumPy sees it."""

    def __init__(self, x: Array) -> None:
        self.x = x

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.x, dtype, copy=copy)


VIEWS: dict[str, Callable[[Array], Any]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "reversed-columns": lambda x: x[:, ::-1].copy()[:, ::-1],
    "interleaved": interleaved,
    "unaligned": packed,
    "read-only": read_only,
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian-float64": lambda x: x.astype(">f8"),
    "float64": lambda x: x.astype(np.float64),
    "float64-fortran": lambda x: np.asfortranarray(x.astype(np.float64)),
    "longdouble": lambda x: x.astype(np.longdouble),
    "list": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "array-protocol": Convertible,
    "mlx": mx.array,
    "mlx-transposed": lambda x: mx.array(np.ascontiguousarray(x.T)).T,
    "mlx-strided": lambda x: mx.array(np.repeat(x, 2, 0))[::2],
    "mlx-lazy": lambda x: mx.array(x) + 0,
}
WHOLE = {
    "uint8": lambda x: x.astype(np.uint8),
    "int16": lambda x: x.astype(np.int16),
    "int64-fortran": lambda x: np.asfortranarray(x.astype(np.int64)),
    "float16": lambda x: x.astype(np.float16),
    "float16-strided": lambda x: np.repeat(x.astype(np.float16), 3, 1)[:, ::3],
    "float16-big-endian": lambda x: x.astype(">f2"),
    "mlx-uint8": lambda x: mx.array(x.astype(np.uint8)),
    "mlx-int64": lambda x: mx.array(x.astype(np.int64)),
    "mlx-float16": lambda x: mx.array(x.astype(np.float16)),
    "mlx-bfloat16": lambda x: mx.array(x).astype(mx.bfloat16),
    "mlx-bfloat16-transposed": lambda x: mx.array(np.ascontiguousarray(x.T)).astype(mx.bfloat16).T,
}


def sizes(backend: str) -> list[tuple[int, int, int]]:
    """Return the sizes at which a backend reads x in ways of its own."""
    return [FEW, MANY] if backend == "cpu" else [MANY]


@cache
def points(n: int, d: int, *, whole: bool = False) -> Array:
    """Return (N, D) float32, normal or whole numbers."""
    rng = np.random.default_rng(n)
    x = rng.integers(0, 200, (n, d)) if whole else rng.standard_normal((n, d))
    return x.astype(np.float32)


@cache
def plain_fit(
    n: int, d: int, k: int, metric: str, backend: str, *, whole: bool = False
) -> fk.KMeansResult:
    """Return the fit of `points` as they are, once for all views of them."""
    return fit(points(n, d, whole=whole), k, metric, backend)


def fit(x: Any, k: int, metric: str, backend: str) -> fk.KMeansResult:
    return FITS[metric](x, k, 6, init="k-means++", seed=3, backend=backend)


def check_same(x: Any, want: fk.KMeansResult, k: int, metric: str, backend: str) -> None:
    """Assert that the same values read in another way give the same bits."""
    got = fit(x, k, metric, backend)
    np.testing.assert_array_equal(np.array(got.labels), want.labels)
    np.testing.assert_array_equal(np.array(got.centroids), want.centroids)
    assert got.n_iter == want.n_iter
    # NumPy adds up in the order of the strides.
    assert got.inertia == pytest.approx(want.inertia, rel=1e-14)
    labels = fk.assign(x, want.centroids, metric, backend=backend)
    np.testing.assert_array_equal(np.array(labels), want.labels)


@pytest.mark.parametrize("view", VIEWS)
@every_backend
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])  # "dot" reads x as "cosine" does
def test_any_view_of_float_values(metric: str, backend: str, view: str) -> None:
    for n, d, k in sizes(backend):
        x = VIEWS[view](points(n, d))
        check_same(x, plain_fit(n, d, k, metric, backend), k, metric, backend)


@pytest.mark.parametrize("view", VIEWS)
def test_any_view_cut_over_threads(view: str) -> None:
    n, d, k = 21000, 24, 22
    x = VIEWS[view](points(n, d))
    check_same(x, plain_fit(n, d, k, "cosine", "cpu"), k, "cosine", "cpu")


@pytest.mark.parametrize("kind", WHOLE)
@every_backend
def test_whole_numbers_in_any_dtype(backend: str, kind: str) -> None:
    for n, d, k in sizes(backend):
        x = WHOLE[kind](points(n, d, whole=True))
        want = plain_fit(n, d, k, "euclidean", backend, whole=True)
        check_same(x, want, k, "euclidean", backend)


@every_backend
def test_booleans(backend: str) -> None:
    x = np.random.default_rng(0).random((90, 12)) < 0.5
    want = fit(x.astype(np.float32), 4, "euclidean", backend)
    check_same(x, want, 4, "euclidean", backend)
    check_same(mx.array(x), want, 4, "euclidean", backend)  # pyright: ignore[reportArgumentType]


@every_backend
def test_batches_with_any_strides(backend: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 150, 7)).astype(np.float32)
    want = fk.batch_kmeans_Euclid(x, 5, 6, backend=backend)
    views = [
        np.asfortranarray(x),
        np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
        x[::-1].copy()[::-1],
        np.repeat(x, 2, axis=1)[:, ::2],
        np.concatenate([x, x + 1], axis=-1)[..., : x.shape[-1]],
        mx.array(np.ascontiguousarray(x.transpose(2, 0, 1))).transpose(1, 2, 0),
        x.tolist(),
    ]
    for view in views:
        got = fk.batch_kmeans_Euclid(view, 5, 6, backend=backend)
        np.testing.assert_array_equal(np.array(got.labels), want.labels)
        np.testing.assert_array_equal(np.array(got.centroids), want.centroids)
    one = fk.batch_kmeans_Euclid(np.broadcast_to(x[1], x.shape), 5, 6, backend=backend)
    for element in one.labels:
        np.testing.assert_array_equal(element, want.labels[1])


@every_backend
def test_memory_maps(backend: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    before = (tmp_path / "x.npy").read_bytes()
    want = fit(x, 4, "cosine", backend)
    for mode in ("r", "r+", "c"):
        check_same(np.load(tmp_path / "x.npy", mmap_mode=mode), want, 4, "cosine", backend)
    assert (tmp_path / "x.npy").read_bytes() == before


@every_backend
def test_initial_centroids_and_weights_in_any_form(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((120, 4)).astype(np.float32), rng.integers(0, 5, 120)
    start = x[[3, 50, 99]]
    want = fk.batch_kmeans_Euclid(
        x, 3, 5, init_centroids=start, sample_weight=weights.astype(np.float32), backend=backend
    )
    starts = [
        start.tolist(),
        start.astype(np.float64),
        np.asfortranarray(start),
        mx.array(start),
        start[None],
        lambda *_: start,
    ]
    for value in starts:
        for w in (
            weights,
            weights.tolist(),
            mx.array(weights),
            weights[None].astype(">f8"),
            np.repeat(weights, 2)[::2],
        ):
            got = fk.batch_kmeans_Euclid(x, 3, 5, init=value, sample_weight=w, backend=backend)
            np.testing.assert_array_equal(got.centroids, want.centroids)
            np.testing.assert_array_equal(got.labels, want.labels)


@every_backend
@pytest.mark.parametrize("metric", FITS)
def test_nothing_given_is_changed(metric: str, backend: str) -> None:
    rng = np.random.default_rng(0)
    x, weights = (
        rng.standard_normal((2, 80, 5)).astype(np.float32),
        rng.random((2, 80)).astype(np.float32),
    )
    start = x[:, :4].copy()
    arrays = (x, weights, start)
    before = [a.tobytes() for a in arrays]
    for library in (np.asarray, mx.array):
        given = [library(a) for a in arrays]
        for empty in POLICIES:
            FITS[metric](
                given[0],
                4,
                init_centroids=given[2],
                sample_weight=given[1],
                backend=backend,
                empty=empty,
            )
        fk.assign(given[0], given[2], metric, backend=backend)
        assert [np.array(a).tobytes() for a in given] == before


def test_counts_may_be_numpy_integers() -> None:
    x = np.random.default_rng(0).standard_normal((30, 2))
    numbers: dict[str, Any] = {
        "tol": np.float32(0),
        "seed": np.int64(1),
        "n_init": np.int64(2),
        "max_iters": np.uint8(4),
    }
    result = fk.batch_kmeans_Euclid(x, n_clusters=np.int32(3), **numbers)  # pyright: ignore[reportArgumentType]
    want = fk.batch_kmeans_Euclid(x, 3, 4, seed=1, n_init=2)
    np.testing.assert_array_equal(result.centroids, want.centroids)


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("float16"), mx.float16])
def test_dtype_in_any_spelling_rounds_the_points(dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    want = fk.batch_kmeans_Euclid(x.astype(np.float16), 4)
    for given in (x, x.astype(np.float64), mx.array(x)):
        got = fk.batch_kmeans_Euclid(given, 4, dtype=dtype)
        np.testing.assert_array_equal(np.array(got.labels), want.labels)
        np.testing.assert_array_equal(np.array(got.centroids), want.centroids)
    assert not np.array_equal(want.centroids, fk.batch_kmeans_Euclid(x, 4).centroids)


def test_dtype_bfloat16_of_numpy_points() -> None:
    x = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    want = fk.batch_kmeans_Euclid(mx.array(x).astype(mx.bfloat16), 4)
    for view in (x, x[::-1].copy()[::-1], x.astype(np.float64)):
        got = fk.batch_kmeans_Euclid(view, 4, dtype="bfloat16")
        assert isinstance(got.labels, np.ndarray)
        np.testing.assert_array_equal(got.centroids, np.array(want.centroids))


def test_points_that_passed_say_what_the_caller_wrote() -> None:
    for x, given_shape, batched in (
        (np.ones((4, 2)), (4, 2), False),
        (mx.ones((3, 4, 2)), (3, 4, 2), True),
    ):
        data = validation.data(x)
        assert (data.given_shape, data.batched, data.mlx) == (
            given_shape,
            batched,
            isinstance(x, mx.array),
        )
        assert data.shape == (1, *given_shape)[-3:]


@pytest.mark.parametrize("shape", [(9,), (1, 9), (2, 9)])
def test_weights_may_be_written_to(shape: tuple[int, ...]) -> None:
    """Read-only arrays are another type to Numba, which loads a kernel once more for each call."""
    w = np.ones(shape, np.float32)
    w.flags.writeable = False
    data = validation.data(np.ones((2 if shape[0] == 2 else 1, 9, 3), np.float32))
    found = arguments.weights(w, data, True)
    assert found is not None and found.flags.writeable and not np.shares_memory(found, w)
