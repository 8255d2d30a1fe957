"""Both strategies give the labels of Lloyd's algorithm, and the result names the one that ran.

One is chosen by a measurement, once per class of shapes.
"""

from __future__ import annotations

from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, METRICS, blobs, given

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.metal import kernels, launch, strategy
from flash_kmeans_mlx.backends.metal.device import Device
from flash_kmeans_mlx.backends.metal.strategy import Strategy, candidates, choose

M1, M5 = Device("applegpu_g13g"), Device("applegpu_g17g")


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("kind", ["mlx-float32", "mlx-bfloat16", "numpy-float64"])
@pytest.mark.parametrize("metric", METRICS)
def test_both_strategies_follow_lloyd(
    metric: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "LEAST_ROWS", 50)
    monkeypatch.setattr(Device, "cache_bytes", 0)  # chunks of 50 rows
    x = given(blobs(2, 211, 17, 7) + (20 if metric == "euclidean" else 0), kind)
    start = helpers.to_float64(x)[:, ::31][:, :7]
    for name in ("fused", "addmm", "groups"):
        result = FITS[metric](
            x, 7, 4, init_centroids=start, empty="keep", backend="metal", strategy=name
        )
        # Bounds are of Euclidean distances.
        ran = "fused" if name == "groups" and metric != "euclidean" else name
        assert result.strategy == ran
        helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)
        for b, element in enumerate(helpers.to_float64(x)):
            best = helpers.inertia(element, *helpers.lloyd(element, start[b], metric, 4), metric)
            assert result.inertia[b] == pytest.approx(best, rel=1e-4)


@pytest.mark.usefixtures("metal")
def test_a_stack_of_fits_by_products_is_the_fits_of_the_stack() -> None:
    x = blobs(3, 150, 17, 7).astype(np.float32)
    options = {"max_iters": 6, "backend": "metal", "strategy": "addmm"}
    stack = fk.batch_kmeans_Euclid(x, 7, **options)
    for b in range(3):
        np.testing.assert_array_equal(
            fk.batch_kmeans_Euclid(x[b], 7, **options).centroids, stack.centroids[b]
        )


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("d", [16, 17, 64, 128, 130, 161])
def test_tiles_do_not_change_a_bit(d: int) -> None:
    rng = np.random.default_rng(d)
    x, c = (mx.array(rng.standard_normal((1, n, d), np.float32)) for n in (300, 130))
    bias = -0.5 * mx.square(c).sum(-1)
    one, other = (kernels.assign(x, c, bias, tiles=tiles) for tiles in launch.assign_tiles(d))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


@pytest.mark.usefixtures("metal")
def test_the_estimator_passes_it_on() -> None:
    x = blobs(1, 100, 5, 3)[0].astype(np.float32)
    model = fk.FlashKMeans(k=3, backend="metal", strategy="addmm").fit(x)
    np.testing.assert_array_equal(model.predict(x), model.labels_)
    model.strategy = "fast"
    with pytest.raises(
        ValueError,
        match=r"strategy='fast' must be one of 'fused', 'addmm', 'groups' or None on backend='metal'",
    ):
        model.predict(x)


@pytest.mark.parametrize(
    ("backend", "strategy", "choices"),
    [
        ("cpu", "loop", "one of 'tiles', 'int8', 'head' or None"),
        ("portable", "", "None"),
        ("reference", "", "None"),
    ],
)
def test_other_backends_have_other_strategies(backend: str, strategy: str, choices: str) -> None:
    x = blobs(1, 20, 3, 2)
    assert fk.batch_kmeans_Euclid(x, 2, 1, backend=backend).strategy == strategy
    with pytest.raises(ValueError, match=f"strategy='fused' must be {choices} on backend"):
        fk.batch_kmeans_Euclid(x, 2, backend=backend, strategy="fused")


def names(options: list[Strategy]) -> list[str]:
    return [option.name for option in options]


def test_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(candidates(None, 64, M1, capped=False)) == ["fused", "fused", "addmm"]
    assert names(candidates(None, 3, M1, capped=False)) == ["fused", "addmm"]
    assert names(candidates("fused", 64, M1, capped=False)) == ["fused", "fused"]
    assert candidates("addmm", 64, M5, capped=True) == [Strategy("addmm", capped=True)]
    assert names(candidates(None, 64, M1, capped=True)) == ["fused", "fused"]
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert names(candidates(None, 64, M1, capped=False)) == ["fused", "fused", "addmm"]
    # The products of an M5 are rounded to TF32.
    assert names(candidates(None, 64, M5, capped=False)) == ["fused", "fused"]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Strategy, int]]:
    """The strategies that were timed, and the products of each run; addmm always wins."""
    seen: list[tuple[Strategy, int]] = []

    def seconds(option: Strategy, x: mx.array, c: mx.array, *_: Any) -> float:
        seen.append((option, x.size * c.shape[1]))
        return 0.1 if option.name == "addmm" else 1.0

    monkeypatch.setattr(strategy, "_seconds", seconds)
    monkeypatch.setattr(strategy, "_fastest", {})
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    return seen


def pick(
    n: int, k: int = 1000, b: int = 1, d: int = 64, name: str | None = None, measure: bool = True
) -> Strategy:
    x = mx.zeros((b, n, d))
    return choose(name, x, k, None, device=M1, capped=False, measure=measure)


RUNS = 9  # one that compiles and two more of each of three candidates


def test_the_fastest_is_remembered_by_class_of_shapes(timed: list[Any]) -> None:
    n = 40_000
    assert pick(n, measure=False).name == "fused" and not timed
    assert pick(n).name == pick(n, measure=False).name == "addmm"
    assert {option for option, _ in timed} == set(candidates(None, 64, M1, capped=False))
    assert pick(n + 40, 1010).name == pick(n, b=3).name == "addmm"
    assert len(timed) == RUNS
    assert pick(2 * n).name == "addmm" and len(timed) == 2 * RUNS
    assert pick(n, name="fused").name == "fused" and len(timed) == 2 * RUNS + 6


@pytest.mark.parametrize(
    ("n", "k", "d"), [(10**5, 1000, 16), (10**4, 5000, 384), (10**6, 1000, 784), (10**8, 10**4, 3)]
)
def test_a_choice_takes_less_than_3_percent_of_a_fit(
    n: int, k: int, d: int, timed: list[tuple[Strategy, int]]
) -> None:
    """Of the products of 20 iterations."""
    pick(n, k, 1, d)
    measured = sum(products for _, products in timed)
    assert 0 < measured <= 0.03 * 20 * n * k * d
    assert max(products for _, products in timed) <= strategy.MEASURED


def test_an_option_far_behind_is_run_twice() -> None:
    options = candidates(None, 64, M1, capped=False)
    times = dict(zip(options, ([9, 2, 1.9], [9, 2.7], [1, 2, 1.8]), strict=True))
    left = {option: list(seconds) for option, seconds in times.items()}
    assert strategy._fastest_of(options, lambda option: left[option].pop(0)) is options[2]
    assert not any(left.values())


def test_small_problems_and_machines_without_a_gpu_are_not_timed(
    timed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pick(2000) == candidates(None, 64, M1, capped=False)[0]
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert pick(40_000) == candidates(None, 64, M1, capped=False)[0]
    assert not timed


def test_what_is_remembered_is_bounded(timed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "REMEMBERED", 2)
    for n in (40_000, 80_000, 160_000, 160_000, 40_000):
        pick(n)
    assert len(strategy._fastest) == 2
    assert len(timed) == RUNS * 4  # 40,000 had been forgotten


@pytest.mark.usefixtures("metal")
def test_a_strategy_is_timed_by_running_it() -> None:
    x = mx.array(blobs(1, 50, 5, 3).astype(np.float32))
    for option in candidates(None, 5, M1, capped=False):
        assert strategy._seconds(option, x, x[:, :7], mx.zeros((1, 7)), None, M1) > 0
