"""Equal bits from `Points` of every backend: repeated, by element of a batch, by number of threads, stopped early."""

from __future__ import annotations

import itertools
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pytest
from helpers import BACKENDS, FITS, INITS, bits, every_backend, every_init, every_metric

from flash_kmeans_mlx import KMeansResult, assign
from flash_kmeans_mlx.backends.portable import points as portable

SMALL = (3, 203, 17, 7)
# More than 1e7 products of a batch element.
PRODUCTS = (2, 4999, 17, 131)
LANES = (2, 5003, 3, 709)
SIZES = {"small": SMALL, "products": PRODUCTS, "lanes": LANES}
# What large sizes are cut into is the CPU backend's own; the others do the same thing at any size.
every_size = pytest.mark.parametrize(
    ("backend", "size"),
    [(b, s) for b in BACKENDS for s in SIZES.values() if b == "cpu" or s is SMALL],
    ids=[f"{b}-{s}" for b in BACKENDS for s in SIZES if b == "cpu" or s == "small"],
)


def data(size: tuple[int, int, int, int]) -> np.ndarray:
    return helpers.blobs(*size).astype(np.float32)


def stacked(results: list[KMeansResult]) -> dict[str, bytes]:
    """Return the bits of a batch with these elements."""
    parts = [bits(result) for result in results]
    return {name: b"".join(part[name] for part in parts) for name in parts[0]}


@every_size
@every_metric
def test_a_stack_of_fits_is_the_fits_of_the_stack(
    size: tuple[int, int, int, int], metric: str, backend: str
) -> None:
    b, _, _, k = size
    x = data(size)
    x[1] *= 100  # batch elements of different size and pace
    x[1, :, 0] += 1000
    for tol, max_iters in ((0.05, 12), (0.0, 30)) if size is SMALL else ((0.05, 12),):
        options = {"max_iters": max_iters, "tol": tol, "init": "k-means++", "backend": backend}
        singles = [FITS[metric](x[i], k, seed=5, **options) for i in range(b)]
        assert bits(FITS[metric](x, k, seed=5, **options)) == stacked(singles)
        assert len({r.n_iter for r in singles}) > 1 or size is not SMALL


@every_backend
@every_init
def test_a_stack_of_weighted_restarts_is_the_restarts_of_the_stack(init: str, backend: str) -> None:
    x = data(SMALL)
    w = np.random.default_rng(0).gamma(1.0, size=x.shape[:2])
    options = {"max_iters": 5, "n_init": 4, "init": init, "backend": backend}
    singles = [
        FITS["euclidean"](m, 7, sample_weight=v, **options) for m, v in zip(x, w, strict=True)
    ]
    assert bits(FITS["euclidean"](x, 7, sample_weight=w, **options)) == stacked(singles)


@every_metric
def test_portable_tiles_do_not_depend_on_the_batch(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portable, "TILE_BYTES", 1 << 16)
    x = data(SMALL)
    options = {"max_iters": 6, "init": "k-means++", "backend": "portable"}
    singles = [FITS[metric](element, 7, **options) for element in x]
    assert bits(FITS[metric](x, 7, **options)) == stacked(singles)


@every_size
@every_metric
@every_init
def test_the_same_seed_gives_the_same_bits(
    init: str, size: tuple[int, int, int, int], metric: str, backend: str
) -> None:
    x, k = data(size), size[3]
    w = np.random.default_rng(1).gamma(1.0, size=x.shape[:2])
    options = {"max_iters": 3, "init": init, "sample_weight": w, "backend": backend}
    assert bits(FITS[metric](x, k, seed=3, **options)) == bits(
        FITS[metric](x, k, seed=3, **options)
    )


@every_metric
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@every_init
def test_threads_do_not_change_a_bit(
    init: str, size: tuple[int, int, int, int], metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, k = data(size), size[3]
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("FLASH_KMEANS_THREADS", threads)
        found.append(bits(FITS[metric](x, k, 4, init=init, empty="split", backend="cpu")))
    assert found[0] == found[1] == found[2]


@every_backend
def test_seeds_differ(backend: str) -> None:
    x = data(SMALL)
    for init in INITS:
        starts = [
            FITS["euclidean"](x, 7, 0, init=init, seed=s, backend=backend).centroids
            for s in range(3)
        ]
        assert not np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[1], starts[2])


@every_backend
def test_random_states_are_left_alone(backend: str) -> None:
    mx.random.seed(11)
    np.random.seed(11)  # noqa: NPY002  # the state a careless library would use
    state: Any = mx.random.state
    key, legacy = np.array(state[0]), np.random.get_state(legacy=False)  # noqa: NPY002
    for init in INITS:
        FITS["euclidean"](mx.array(data(SMALL)), 7, 3, init=init, backend=backend)
    assert np.array_equal(np.array(state[0]), key)
    np.testing.assert_equal(np.random.get_state(legacy=False), legacy)  # noqa: NPY002


@every_size
@every_metric
@pytest.mark.parametrize("kind", ["numpy-float32", "mlx-float16"])
def test_labels_are_those_that_assign_gives(
    kind: str, size: tuple[int, int, int, int], metric: str, backend: str
) -> None:
    x = helpers.given(data(size), kind)
    result = FITS[metric](x, size[3], 2, backend=backend)
    again = assign(x, result.centroids, metric, backend=backend)
    assert type(again) is type(result.labels)
    assert np.array_equal(np.array(again), np.array(result.labels))


@every_backend
@every_metric
@pytest.mark.parametrize("empty", ["farthest", "keep"])
def test_tol_stops_each_element_at_its_own_shift(empty: str, metric: str, backend: str) -> None:
    x = data(SMALL)
    options = {"init_centroids": x[:, :7], "empty": empty, "backend": backend}
    limit = 14
    path = [FITS[metric](x, 7, i, **options).centroids.astype(np.float64) for i in range(limit)]
    shifts = np.array([np.linalg.norm(b - a, axis=-1).max(-1) for a, b in itertools.pairwise(path)])
    # A little above one of the shifts: the backend's own, in float32, may round either way.
    tol = float(np.median(shifts[:5])) * (1 + 1e-6)
    result = FITS[metric](x, 7, limit - 1, tol, **options)
    stops = 1 + (shifts <= tol).argmax(0)  # iterations until the first shift within tol
    assert result.n_iter_per_batch.tolist() == stops.tolist() and result.converged.all()
    assert stops.min() < stops.max()
    for b, i in enumerate(stops):
        np.testing.assert_array_equal(result.centroids[b], path[i][b].astype(np.float32))
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)


@every_backend
def test_without_tol_only_an_unchanged_assignment_stops(backend: str) -> None:
    x = data(SMALL)
    options = {"init_centroids": x[:, :7], "backend": backend}
    result = FITS["euclidean"](x, 7, 200, **options)
    assert result.converged.all()
    for b, n_iter in enumerate(result.n_iter_per_batch.tolist()):
        runs = [FITS["euclidean"](x, 7, i, **options) for i in (n_iter - 3, n_iter - 2)]
        changed = [not np.array_equal(r.labels[b], result.labels[b]) for r in runs]
        assert changed == [True, False]  # after i moves labels are those of E-step i + 1
        assert not any(r.converged[b] for r in runs)


@every_backend
@every_metric
def test_more_restarts_are_never_worse_for_any_element(metric: str, backend: str) -> None:
    x = data(SMALL)
    results = [FITS[metric](x, 7, 20, n_init=n, seed=2, backend=backend) for n in (1, 2, 3, 6)]
    inertia = [result.inertia for result in results]
    assert (np.diff(inertia, axis=0) <= 0).all()
    assert (inertia[0] > inertia[-1]).sum() >= 2
    last = results[-1]
    helpers.assert_labels_optimal(x, last.centroids, last.labels, metric)
    exact = helpers.inertia(x, last.centroids, last.labels, metric)
    np.testing.assert_allclose(last.inertia, exact, rtol=1e-5)  # float32 costs
