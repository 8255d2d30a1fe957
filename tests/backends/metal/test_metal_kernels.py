"""The kernels of k-means agree with float64, whatever the order in which threads run.

Without a GPU they run in the emulator of `tests/metal`, in three orders of threads; on a Mac they run on
the GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import EPS, tolerance
from metal.emulator import emulation
from metal.problems import DIMS, DTYPES, Data, make, run, variant

from flash_kmeans_mlx.backends.metal import kernels, launch, order, sums, sums_launch
from flash_kmeans_mlx.backends.metal.device import Device

# 545 rows: more than one threadgroup of every kernel, the last one not full.
SHAPES = tuple(itertools.product((1, 3), (1, 33, 545), (1, 7, 65)))
HIGHEST = np.uint32(0xFFFFFFFF)

pytestmark = pytest.mark.usefixtures("metal")


def check_best(data: Data, label: np.ndarray, score: np.ndarray) -> None:
    truth = data.scores
    assert label.max() < truth.shape[-1]
    chosen = np.take_along_axis(truth, label[..., None].astype(np.int64), -1)[..., 0]
    assert (truth.max(-1) - chosen).max() <= data.tolerance
    assert np.abs(score - truth.max(-1)).max() <= data.tolerance


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize(("b", "n", "k"), SHAPES)
def test_assign(b: int, n: int, k: int, d: int) -> None:
    dtype, framed = variant(d)
    data = make(b, n, k, d, dtype, framed=framed)
    check_best(data, *run(lambda: kernels.assign(data.x, data.c, data.bias, data.normalisation)))


@pytest.mark.parametrize("d", [3, 17, 130])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_assign_ties_go_to_the_lowest_index(d: int, dtype: mx.Dtype) -> None:
    for framed in (False, True):
        data = make(1, 133, 150, d, dtype, framed=framed, integers=True)
        c = mx.concatenate([data.c, data.c], axis=1)
        bias = mx.concatenate([data.bias, data.bias], axis=1)
        label, _ = run(
            lambda data=data, c=c, bias=bias: kernels.assign(data.x, c, bias, data.normalisation)
        )
        np.testing.assert_array_equal(label, data.scores.argmax(-1))


@pytest.mark.parametrize("d", [17, 64, 128, 130])
def test_assign_by_the_second_candidate(d: int) -> None:
    data = make(2, 300, 130, d, mx.float32, framed=False)
    tiles = launch.assign_tiles(d)[1]
    check_best(data, *run(lambda: kernels.assign(data.x, data.c, data.bias, tiles=tiles)))


@pytest.mark.parametrize("d", [3, 17])
def test_assign_in_parts(d: int) -> None:
    data = make(1, 33, 2500, d, mx.float32, framed=True, integers=True)
    gpu = Device("applegpu_g13s")
    assert launch.assign_launch(launch.assign_tiles(d)[0], 1, 33, 2500, gpu).grid[2] > 1
    label, _ = run(
        lambda: kernels.assign(data.x, data.c, data.bias, data.normalisation, device=gpu)
    )
    np.testing.assert_array_equal(label, data.scores.argmax(-1))


@pytest.mark.parametrize("d", [3, 17, 130])
def test_bad_rows_and_excluded_centroids(d: int) -> None:
    data = make(1, 100, 65, d, mx.float32, framed=False)
    bias = np.array(data.bias)
    bias[0, [0, 64]] = -np.inf
    with emulation():
        clean = np.array(kernels.assign(data.x, data.c, mx.array(bias))[0])
    assert not np.isin(clean, [0, 64]).any()
    x = np.array(data.x)
    x[0, 5, d - 1] = np.nan
    x[0, 7] = np.inf
    label, score = run(lambda: kernels.assign(mx.array(x), data.c, mx.array(bias)))
    others = np.delete(np.arange(100), [5, 7])
    np.testing.assert_array_equal(label[0, others], clean[0, others])
    assert label.max() < 65
    assert label[0, 5] == 0
    assert score[0, 5] == -np.inf
    none = mx.full(bias.shape, -mx.inf)
    label, score = run(lambda: kernels.assign(data.x, data.c, none))
    assert not label.any()
    assert (score == -np.inf).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 7, 8, 65, 1001])
def test_argmax(k: int, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(k)
    for r in (1, 33, 200):
        values = rng.integers(-4, 0, (r, k)).astype(np.float32)
        values[rng.random((r, k)) < 0.1] = -np.inf
        label, score = run(lambda values=values: kernels.argmax(mx.array(values).astype(dtype)))
        np.testing.assert_array_equal(label, values.argmax(1))
        np.testing.assert_array_equal(score, values.max(1))


def test_argmax_skips_nan() -> None:
    values = np.array([[np.nan, -1, 3, 3], [np.nan] * 4], np.float32)
    label, score = run(lambda: kernels.argmax(mx.array(values)))
    np.testing.assert_array_equal(label, [2, 0])
    np.testing.assert_array_equal(score, [3, -np.inf])


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (33, 7), (1000, 65), (2500, 300), (1, 20000), (3000, 20000)]
)
def test_counting_sort(n: int, k: int) -> None:
    labels = np.random.default_rng(n).integers(0, k + k // 4 + 1, (3, n)).astype(np.uint32)
    labels[1] = np.where(np.arange(n) % 20, k // 2, labels[1])
    labels[2, : n // 2] = HIGHEST
    *_, rows_in_order, offsets = run(lambda: order.counting_sort(mx.array(labels), k))
    for b in range(3):
        rows = np.flatnonzero(labels[b] < k)
        np.testing.assert_array_equal(
            rows_in_order[b, : len(rows)], rows[np.argsort(labels[b, rows], kind="stable")]
        )
        np.testing.assert_array_equal(
            offsets[b], np.searchsorted(np.sort(labels[b, rows]), np.arange(k + 1))
        )


def check_sums(data: Data, labels: np.ndarray, k: int, weights: np.ndarray | None) -> None:
    given = None if weights is None else mx.array(weights)
    totals, weight_sum, counts = run(
        lambda: sums.accumulate(data.x, mx.array(labels), k, given, data.normalisation)
    )
    for b, rows in enumerate(data.rows):
        w = np.ones(len(rows)) if weights is None else np.maximum(weights[b], 0.0).astype(float)
        w = np.where(labels[b] < k, w, 0.0)
        cluster = np.minimum(labels[b], k - 1)
        truth, size = np.zeros((2, k, rows.shape[1]))
        np.add.at(truth, cluster, rows * w[:, None])
        np.add.at(size, cluster, np.abs(rows) * w[:, None])
        # Hundreds of rows are added one after another where K is small.
        growth = 8 + np.sqrt(len(rows)) / 4
        assert (np.abs(totals[b] - truth) <= growth * EPS["float32"] * size).all()
        expected = np.bincount(cluster, w, k)
        np.testing.assert_allclose(weight_sum[b], expected, rtol=8 * EPS["float32"])
        np.testing.assert_array_equal(counts[b], np.bincount(cluster[w > 0], minlength=k))


def random_weights(b: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.random((b, n)) * (rng.random((b, n)) < 0.8)).astype(np.float32)


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize(("b", "n", "k"), SHAPES)
def test_accumulate(b: int, n: int, k: int, d: int) -> None:
    dtype, framed = variant(d)
    data = make(b, n, k, d, dtype, framed=framed)
    rng = np.random.default_rng(k)
    labels = rng.integers(0, k, (b, n)).astype(np.uint32)
    labels[0, rng.random(n) < 0.95] = k // 2
    check_sums(data, labels, k, random_weights(b, n) if d in (3, 8, 64) else None)


@pytest.mark.parametrize("k", [8, 70])
@pytest.mark.parametrize(
    ("weighted", "framed", "dtype"),
    [(True, True, 1), (False, True, 2), (True, False, 0), (False, False, 0)],
)
def test_accumulate_at_the_edges_of_chunks(
    k: int, weighted: bool, framed: bool, dtype: int
) -> None:
    sizes = [1024, 1025, 0, 1280, 1, 600, 2049, 255]
    labels = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)[None]
    n = labels.size
    sorted_sums = sums_launch.sorted_sums_launch(1, n, k, 17)
    assert (sorted_sums.chunk_rows, sorted_sums.whole_rows) == (256, 1024)
    data = make(1, n, k, 17, DTYPES[dtype], framed=framed)
    weights = random_weights(1, n) if weighted else None
    check_sums(data, labels, k, weights)
    labels[0, ::10] = HIGHEST
    check_sums(data, labels, k, weights)
    check_sums(data, np.full_like(labels, k - 1), k, weights)
    check_sums(data, np.full_like(labels, k), k, weights)


@pytest.mark.parametrize("d", [3, 130])
@pytest.mark.parametrize(("spherical", "framed"), [(False, False), (False, True), (True, False)])
def test_move_centroids(d: int, spherical: bool, framed: bool) -> None:
    """Centroids are float64 quotients, rounded; very few differ in their last bit."""
    rng = np.random.default_rng(d)
    b, k = 3, 70
    totals, old = rng.standard_normal((2, b, k, d)).astype(np.float32)
    weight_sum = rng.integers(1, 100, (b, k)).astype(np.float32)
    weight_sum[0, 3], totals[0, 3] = 0, 0
    active = np.array([True, True, False])
    shift = rng.normal(0, 1, (b, d)).astype(np.float32) if framed else np.zeros((b, d), np.float32)
    scale = np.ldexp(1.0, np.arange(b) - 1).astype(np.float32) if framed else np.ones(b, np.float32)
    c, normalised, bias, moved, still = run(
        lambda: kernels.move_centroids(
            sums=mx.array(totals),
            weight_sum=mx.array(weight_sum),
            old=mx.array(old),
            active=mx.array(active.astype(np.uint32)),
            spherical=spherical,
            shift=mx.array(shift) if framed else None,
            scale=mx.array(scale) if framed else None,
        )
    )
    wide = totals.astype(np.float64)
    size = np.linalg.norm(wide, axis=-1) if spherical else weight_sum.astype(np.float64)
    truth = wide / np.where(size > 0, size, 1)[..., None] * scale[:, None, None] + shift[:, None]
    moves = active[:, None] & (weight_sum > 0)
    truth = np.where(moves[..., None], truth, old).astype(np.float32)
    assert (c != truth).mean() <= 1e-4
    np.testing.assert_allclose(c, truth, rtol=EPS["float32"])
    expected = (c.astype(np.float64) - shift[:, None]) / scale[:, None, None]
    np.testing.assert_array_equal(normalised, expected.astype(np.float32))
    square = np.square(normalised.astype(np.float64)).sum(-1)
    expected = 0 * square if spherical else -0.5 * square
    np.testing.assert_allclose(bias, expected, rtol=EPS["float32"])
    step = (c.astype(np.float64) - old) / scale[:, None, None]
    np.testing.assert_allclose(moved, np.square(step).sum(-1), rtol=tolerance(d))
    np.testing.assert_array_equal(still, (c == old).all(-1))


def test_kernels_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are built by what mx.fast.metal_kernel is at the time of the call."""
    made: list[str] = []

    def factory(**arguments: Any) -> Callable[..., list[mx.array]]:
        made.append(arguments["name"])
        return lambda **call: [
            mx.zeros(shape, dtype)
            for shape, dtype in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]

    monkeypatch.setattr(mx.fast, "metal_kernel", factory)
    for k in (10, 100):
        kernels.argmax(mx.zeros((3, k)))
    assert made == ["flash_kmeans_argmax"]
