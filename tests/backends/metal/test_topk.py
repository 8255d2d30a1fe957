"""The top-k kernels agree with a sort in float64, ties and NaN included."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from metal.problems import DTYPES, make, run, variant

from flash_kmeans_mlx.backends.metal import launch, topk
from flash_kmeans_mlx.backends.metal.device import Device

pytestmark = pytest.mark.usefixtures("metal")


def check_top(truth: np.ndarray, label: np.ndarray, score: np.ndarray, k: int, atol: float) -> None:
    best = -np.sort(-truth, axis=-1)[..., :k]
    chosen = np.take_along_axis(truth, label.astype(np.int64), -1)
    assert np.abs(chosen - best).max() <= atol
    assert np.abs(score - best).max() <= atol
    assert all(len(set(row)) == k for row in label.reshape(-1, k).tolist())


@pytest.mark.parametrize("d", [3, 17, 130])
@pytest.mark.parametrize("k", [1, 7, 65])
def test_topk(k: int, d: int) -> None:
    dtype, framed = variant(d)
    for b, n in ((1, 1), (3, 33)):
        data = make(b, n, k, d, dtype, framed=framed)
        for top in sorted({1, min(k, 5), min(k, 32), min(k, 40)}):
            label, score = run(
                lambda data=data, top=top: topk.topk(
                    data.x, data.c, data.bias, top, data.normalisation
                )
            )
            check_top(data.scores, label, score, top, data.tolerance)


@pytest.mark.parametrize("top", [5, 40])
@pytest.mark.parametrize("k", [150, 1000])
def test_topk_ties_in_order_and_parts(k: int, top: int) -> None:
    data = make(1, 33, k, 17, mx.float32, framed=True, integers=True)
    gpu = Device("applegpu_g13s")
    assert (launch.topk_launch(launch.topk_tiles(17), 1, 33, k, gpu).grid[2] > 1) == (k == 1000)
    label, _ = run(
        lambda: topk.topk(data.x, data.c, data.bias, top, data.normalisation, device=gpu)
    )
    np.testing.assert_array_equal(label, np.argsort(-data.scores, -1, kind="stable")[..., :top])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_top_of_rows(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(0)
    for r, m, top in ((1, 1, 1), (1, 7, 7), (33, 65, 32), (33, 150, 100)):
        values = rng.integers(-4, 4, (r, m)).astype(np.float32)
        values[rng.random((r, m)) < 0.1] = -np.inf
        label, score = run(
            lambda values=values, top=top: topk.top_of_rows(mx.array(values).astype(dtype), top)
        )
        order = np.argsort(-values, -1, kind="stable")[:, :top]
        np.testing.assert_array_equal(label, order)
        np.testing.assert_array_equal(score, np.take_along_axis(values, order, -1))


def test_top_of_rows_ranks_nan_last() -> None:
    values = np.array([[np.nan, -1, 3, np.nan, 3, 2, 0, 1, -np.inf]], np.float32)
    label, _ = run(lambda: topk.top_of_rows(mx.array(values), 9))
    np.testing.assert_array_equal(label, [[2, 4, 5, 7, 6, 1, 0, 3, 8]])


def test_topk_by_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(3, 130, 150, 17, mx.float32, framed=True)
    arguments = (data.x, data.c, data.bias, 5, data.normalisation)
    whole = run(lambda: topk.topk(*arguments))
    monkeypatch.setattr(launch, "MAX_PRODUCTS", 1)
    for a, b in zip(whole, run(lambda: topk.topk(*arguments)), strict=True):
        np.testing.assert_array_equal(a, b)
