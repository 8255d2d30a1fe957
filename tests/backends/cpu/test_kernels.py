"""The Numba kernels by themselves, against NumPy."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pytest
from numba import njit

from flash_kmeans_mlx.backends.cpu import kernels
from flash_kmeans_mlx.backends.cpu.store import Rows
from flash_kmeans_mlx.metrics import EUCLIDEAN

RNG = np.random.default_rng
READ_ROWS = kernels.rows.read_rows  # which only compiled code can call


@njit
def read_rows(source, lo, n, out):
    return READ_ROWS(source, lo, n, out)


def source(
    x: np.ndarray, shift: float = 0.0, factor: float = 1.0, kind: str = ""
) -> kernels.rows.Source:
    """x (N, D) as kernels take it."""
    code = kernels.rows.KINDS[kind or str(x.dtype)]
    direct = shift == 0 and factor == 1 and code == kernels.rows.FLOAT32 and x.flags.c_contiguous
    row_stride, column_stride = x.strides
    return kernels.rows.Source(
        address=x.ctypes.data,
        row_stride=row_stride,
        column_stride=column_stride,
        kind=code,
        direct=np.bool_(direct),
        shift=np.full(x.shape[1], shift),
        factor=np.float64(factor),
    )


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return RNG(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_rows_of_any_strides_in_any_frame(order: str, real: type) -> None:
    x = RNG(0).standard_normal((11, 5)).astype(real)
    seen = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(x, 3, axis=0)[::3]}[order]
    for shift, factor in ((0.0, 1.0), (2.5, 1.0), (0.0, 0.25), (-1.5, 4.0)):
        out = np.full((6, 5), np.nan, np.float32)
        got = read_rows(source(seen, shift, factor), 3, 6, out)
        np.testing.assert_array_equal(
            got, ((x[3:9].astype(np.float64) - shift) * factor).astype(np.float32)
        )
    got = read_rows(source(seen), 3, 6, np.empty((6, 5), np.float32))
    assert np.shares_memory(got, seen) == (order == "C" and real is np.float32), (
        "copied, or not converted"
    )


def test_float64_is_shifted_before_it_is_rounded() -> None:
    x = np.array([[1e9 + 0.25, 1e9 - 0.5]])
    out = read_rows(source(x, 1e9), 0, 1, np.empty((1, 2), np.float32))
    assert out.tolist() == [[0.25, -0.5]]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (1.0, 0.5)])
def test_every_16_bit_float_is_decoded(name: str, shift: float, factor: float) -> None:
    """All 65536 patterns but NaN and Inf, denormals and both zeros included."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    exact = {
        "float16": bits.view(np.float16).astype(np.float32),
        "bfloat16": (bits.astype(np.uint32) << 16).view(np.float32),
    }[name]
    finite = np.isfinite(exact)
    x, exact = bits[finite], exact[finite]
    n = len(x)
    expected = ((exact.astype(np.float64) - shift) * factor).astype(np.float32)
    for seen in (x[:, None], np.repeat(x, 3)[::3][:, None], np.stack([x, x, x], axis=1)[:, ::2]):
        got = read_rows(
            source(seen, shift, factor, name), 0, n, np.empty((n, seen.shape[1]), np.float32)
        )
        np.testing.assert_array_equal(got, np.broadcast_to(expected[:, None], got.shape))
    assert (exact != 0).sum() == n - 2


@pytest.mark.parametrize(
    "kind",
    [
        "numpy-float16",
        "numpy-float32",
        "numpy-float64",
        "mlx-float16",
        "mlx-bfloat16",
        "mlx-float32",
    ],
)
def test_rows_are_read_as_they_were_given(kind: str) -> None:
    x = helpers.given(helpers.blobs(1, 41, 5, 3), kind)
    rows = Rows(x)
    got = read_rows(rows.source(0), 0, 41, np.empty((41, 5), np.float32))
    np.testing.assert_array_equal(got, helpers.to_float64(x)[0].astype(np.float32))
    assert np.shares_memory(rows.x, np.asarray(x.view(mx.uint16) if kind == "mlx-bfloat16" else x))
    with pytest.raises(ValueError, match="read-only"):
        rows.x[0, 0, 0] = 0


def best(
    x: np.ndarray, c: np.ndarray, bias: np.ndarray, at: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (N,) and labels (N,) of the best centroids; lanes begin at column `at`."""
    n, d = x.shape
    padded = -(-n // kernels.lanes.POINTS) * kernels.lanes.POINTS
    value, label = np.full(padded, np.nan, np.float32), np.full(padded, -1, np.int32)
    lanes = np.full((d, at + padded + 3), np.nan, np.float32)
    kernels.lanes.to_lanes(x, lanes[:, at:])
    kernels.lanes.best_by_lanes(n, lanes, at, c, bias, value, label)
    return value[:n], label[:n]


@pytest.mark.parametrize(
    ("n", "k", "d"), [(1, 1, 1), (2, 3, 1), (63, 17, 3), (64, 1, 3), (200, 531, 3), (97, 70, 16)]
)
def test_the_best_centroid(n: int, k: int, d: int) -> None:
    x, c = normals(n, d), normals(k, d, seed=1)
    bias = EUCLIDEAN.bias(c)
    value, label = best(x, c, bias, at=n % 5)
    scores = x.astype(np.float64) @ c.T.astype(np.float64) + bias
    limit = helpers.tolerance(d) * (np.square(x).sum(1) + np.square(c).sum(1).max())
    assert (scores.max(1) - scores[np.arange(n), label] <= limit).all()
    assert (np.abs(value - scores.max(1)) <= limit).all()
    every = np.full((k, n + kernels.lanes.POINTS), np.nan, np.float32)
    lanes = np.zeros((d, n + kernels.lanes.POINTS), np.float32)
    kernels.lanes.to_lanes(x, lanes)
    kernels.lanes.scores_by_lanes(n, lanes, c, bias, every, 0)
    np.testing.assert_array_equal(every[:, :n].max(0), value)
    np.testing.assert_array_equal(every[:, :n].argmax(0), label)


def again(module: Any) -> Any:
    """Return the module, executed once more."""
    spec = importlib.util.spec_from_file_location(module.__name__, str(module.__file__))
    assert spec is not None and spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    return other


@pytest.mark.parametrize(("features", "points"), [("+avx512f", 64), ("+avx2", 16), ("", 16)])
def test_the_best_centroid_with_registers_of_other_widths(
    features: str, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = importlib.import_module("flash_kmeans_mlx.kernels.cpu.target")
    cache = importlib.import_module("flash_kmeans_mlx.kernels.cpu.object_cache")
    monkeypatch.setattr(cache, "key", lambda: f"with{features}")
    monkeypatch.setattr(cache, "folders", lambda: ())
    monkeypatch.setattr(cache, "_said", [True])
    with monkeypatch.context() as patch:
        patch.setattr(target, "cpu_features", lambda: features)
        patch.setitem(sys.modules, kernels.ir.__name__, again(kernels.ir))
        module = again(kernels.lanes)
    assert points == module.POINTS
    for n, k, d in ((1, 1, 1), (61, 5, 3), (130, 23, 17)):
        x, c = normals(n, d), normals(k, d, seed=1)
        bias, wide = EUCLIDEAN.bias(c), -(-n // points) * points
        value, label = np.full(wide, np.nan, np.float32), np.full(wide, -1, np.int32)
        held = np.full((d, wide), np.nan, np.float32)
        module.to_lanes(x, held)
        module.best_by_lanes(n, held, 0, c, bias, value, label)
        scores = x.astype(np.float64) @ c.T.astype(np.float64) + bias
        limit = helpers.tolerance(d) * (np.square(x).sum(1) + np.square(c).sum(1).max())
        assert (scores.max(1) - scores[np.arange(n), label[:n]] <= limit).all()


def test_equal_scores_go_to_the_lowest_index() -> None:
    x = np.rint(3 * normals(129, 3))
    # Whole numbers: no rounding, whatever the order.
    c = np.tile(np.rint(3 * normals(9, 3, seed=1)), (61, 1))
    _, label = best(x, c, EUCLIDEAN.bias(c))
    np.testing.assert_array_equal(label, (x @ c.T + EUCLIDEAN.bias(c)).argmax(1))


def test_centroids_of_bias_minus_infinity_never_win() -> None:
    x, c = normals(65, 3), normals(20, 3, seed=1)
    bias = np.where(np.arange(20) % 4 == 3, 0.0, -np.inf).astype(np.float32)
    _, label = best(x, c, bias)
    np.testing.assert_array_equal(label, 4 * (x @ c[3::4].T).argmax(1) + 3)


def step(
    x: np.ndarray, c: np.ndarray, labels: np.ndarray, w: np.ndarray, lo: int, hi: int, tiles: int
) -> Any:
    """Return (changed, sums, weight_sum, counts, touched) of one call of step_rows."""
    d, tile = x.shape[1], 64
    k = len(c)
    changes = kernels.tile.Changes(
        np.zeros((k, d)), np.zeros(k), np.zeros(k, np.int64), np.zeros(k, np.bool_)
    )
    lanes = np.empty((tiles, d, tile), np.float32)
    scratch = kernels.tile.TileScratch(
        rows=np.empty((tile, d), np.float32),
        lanes=lanes[:1],
        best=np.empty(tile, np.float32),
        label=np.empty(tile, np.int32),
        moved=np.empty(tile, np.int32),
    )
    changed = kernels.tile.step_rows(
        source(x),
        w,
        kernels.tile.Scored(c, EUCLIDEAN.bias(c)),
        lanes,
        True,
        lo,
        hi,
        labels,
        changes,
        scratch,
    )
    return changed, *changes


@pytest.mark.parametrize("tiles", [1, 5], ids=["a tile of lanes", "all lanes"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_step_adds_only_what_moved(weighted: bool, tiles: int) -> None:
    x, c, k = normals(301, 17), normals(10, 17, seed=1), 10
    w = (
        np.where(RNG(2).random(301) < 0.2, 0, RNG(3).random(301)).astype(np.float32)
        if weighted
        else np.zeros(0, np.float32)
    )
    weight = w.astype(np.float64) if weighted else np.ones(301)
    labels = np.full(301, kernels.tile.UNSET)
    labels[200:] = 7
    rows = slice(64, 250)

    def totals(labels: np.ndarray) -> tuple[np.ndarray, ...]:
        known = labels[rows] != kernels.tile.UNSET
        one_hot = (labels[rows][:, None] == np.arange(k)) & known[:, None]
        weight_sum = weight[rows][:, None] * one_hot
        return weight_sum.T @ x[rows].astype(np.float64), weight_sum.sum(0), (weight_sum > 0).sum(0)

    for centroids in (c, c[::-1].copy(), c[::-1].copy()):
        before = labels.copy()
        changed, sums, weight_sum, counts, touched = step(
            x, centroids, labels, w, rows.start, rows.stop, tiles
        )
        np.testing.assert_array_equal(
            labels[rows], helpers.costs(x, centroids, "euclidean").argmin(1)[rows]
        )
        outside = np.ones(301, bool)
        outside[rows] = False
        np.testing.assert_array_equal(labels[outside], before[outside])
        assert changed == (labels != before).sum()
        for delta, new, old in zip(
            (sums, weight_sum, counts), totals(labels), totals(before), strict=True
        ):
            # Float64 sums of 200 float32 values.
            np.testing.assert_allclose(delta, new - old, rtol=0, atol=1e-12)
        assert not sums[~touched].any() and not counts[~touched].any()
    assert changed == 0 and not touched.any()


def test_merge_adds_the_shards_in_order_and_clears_them() -> None:
    rng = RNG(0)
    shards = (
        rng.random((3, 5, 2)),
        rng.random((3, 5)),
        rng.integers(0, 9, (3, 5)),
        np.ones((3, 5), np.bool_),
    )
    shards[3][:, 4] = shards[3][1, 0] = False
    for a in shards[:3]:
        a[~shards[3]] = 0
    totals = (rng.random((5, 2)), rng.random(5), rng.integers(0, 9, 5))
    expected = [t + s[0] + s[1] + s[2] for t, s in zip(totals, shards, strict=False)]
    for k0, k1 in ((0, 2), (2, 5)):
        kernels.tile.merge(kernels.tile.Changes(*shards), kernels.tile.Totals(*totals), k0, k1)
    for found, right in zip(totals, expected, strict=True):
        np.testing.assert_array_equal(found, right)
    assert not any(a.any() for a in shards)


@pytest.mark.parametrize("cost", ["SQUARES", "DIRECTIONS", "PRODUCTS"])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_measured_costs_and_their_sum(shift: float, cost: str) -> None:
    x, c = (
        normals(301, 17) + np.float32(shift),
        helpers.unit(normals(10, 17, seed=1)).astype(np.float32),
    )
    x[100], c[3] = 0, 0
    inverse = np.divide(1, np.linalg.norm(x, axis=1), out=np.zeros(301, np.float32), where=x.any(1))
    labels, w = (
        RNG(2).integers(10, size=301).astype(np.uint32),
        RNG(3).random(301).astype(np.float32),
    )
    exact = {
        "SQUARES": lambda: np.square(x - np.float32(shift) - c.astype(np.float64)[labels]).sum(1),
        "DIRECTIONS": lambda: helpers.costs(x, c, "cosine")[np.arange(301), labels],
        "PRODUCTS": lambda: helpers.costs(x, c, "dot")[np.arange(301), labels],
    }[cost]()
    for weights, factor in ((w, w.astype(np.float64)), (np.zeros(0, np.float32), np.ones(301))):
        out = np.full(301, np.nan, np.float32)
        total = kernels.tile.measure_rows(
            source(x, shift),
            weights,
            c,
            labels,
            40,
            300,
            getattr(kernels.tile, cost),
            inverse,
            out,
            0.0,
            np.empty((64, 17), np.float32),
        )
        np.testing.assert_allclose(
            out[40:300], exact[40:300], rtol=0, atol=helpers.tolerance(17) * np.abs(exact).max()
        )
        assert np.isnan(np.delete(out, slice(40, 300))).all()
        assert total == pytest.approx(
            (factor * exact)[40:300].sum(), abs=helpers.tolerance(17) * np.abs(exact).sum()
        )
