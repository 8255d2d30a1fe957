"""Bytes and bounds on the CPU: whatever is skipped, the result is that of all products, bit for bit."""

from __future__ import annotations

import importlib
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import stated_need

from flash_kmeans_mlx import assign
from flash_kmeans_mlx.backends.cpu import looped, trial, tuner
from flash_kmeans_mlx.backends.cpu.int8 import Int8
from flash_kmeans_mlx.backends.cpu.kernels import ir
from flash_kmeans_mlx.backends.cpu.looped import LoopedCpuPoints
from flash_kmeans_mlx.backends.cpu.pruning import Pruning, principal_directions
from flash_kmeans_mlx.backends.cpu.trial import Trial
from flash_kmeans_mlx.backends.cpu.tuner import Tuner
from flash_kmeans_mlx.backends.grouping import halved
from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES

FITS = helpers.FITS
pytestmark = pytest.mark.filterwarnings("ignore::flash_kmeans_mlx.EmptyClusterWarning")
every_way = pytest.mark.parametrize("strategy", ["head", "int8"])
every_metric = pytest.mark.parametrize("metric", FITS)


def same(
    x: Any, k: int, iters: int, strategy: str | None, metric: str = "euclidean", **options: Any
) -> Any:
    """Return a fit by this strategy, known to have the bits of a fit by tiles."""
    off, on = (
        FITS[metric](x, k, iters, strategy=p, backend="cpu", **options) for p in ("tiles", strategy)
    )
    for name in ("labels", "centroids", "n_iter_per_batch", "inertia", "converged"):
        np.testing.assert_array_equal(getattr(on, name), getattr(off, name), err_msg=name)
    return on


@every_way
@every_metric
@pytest.mark.parametrize(
    ("b", "n", "d", "k"),
    [
        (1, 1, 1, 1),
        (1, 5, 3, 5),
        (3, 211, 17, 7),
        (2, 700, 1, 9),
        (1, 3000, 40, 130),
        (1, 2100, 3, 200),
        (2, 1500, 70, 64),
    ],
)
def test_all_shapes(b: int, n: int, d: int, k: int, metric: str, strategy: str | None) -> None:
    x = helpers.blobs(b, n, d, max(2, k // 2)).astype(np.float32)
    result = same(x, k, 12, strategy, metric, sample_weight=(1 + np.arange(n)) % 3)
    helpers.assert_labels_optimal(x, result.centroids, result.labels, metric)


@every_way
@pytest.mark.parametrize("kind", ["numpy-float64", "numpy-float16", "mlx-bfloat16", "mlx-float32"])
def test_all_types(kind: str, strategy: str | None) -> None:
    same(helpers.given(helpers.blobs(2, 800, 20, 30), kind), 70, 10, strategy)


@every_way
@every_metric
@pytest.mark.parametrize(
    "name", ["offset", "duplicates", "grid", "zero rows", "one far point", "tiny", "huge"]
)
def test_awkward_points(name: str, metric: str, strategy: str | None) -> None:
    rng = np.random.default_rng(0)
    x = {
        "offset": lambda: 100 + 1e-3 * rng.standard_normal((1500, 24)),
        "duplicates": lambda: helpers.duplicates(1500, 90, 24),
        "grid": lambda: rng.integers(0, 3, (1500, 24)),  # ties everywhere
        "zero rows": lambda: rng.standard_normal((1500, 24)) * (np.arange(1500) % 4 > 0)[:, None],
        "one far point": lambda: np.concatenate(
            [rng.standard_normal((1499, 24)), np.full((1, 24), 1e4)]
        ),
        "tiny": lambda: 1e-30 * rng.standard_normal((1500, 24)),
        "huge": lambda: 1e18 * rng.standard_normal((1500, 24)),
    }[name]()
    same(x.astype(np.float32), 100, 15, strategy, metric)


@every_way
@pytest.mark.parametrize("empty", POLICIES)
def test_empty_clusters(empty: str, strategy: str | None) -> None:
    x = helpers.blobs(2, 900, 12, 30).astype(np.float32)
    # A third of them far off.
    start = x[:, :80] + np.where(np.arange(80) % 3, 0, 500).astype(np.float32)[:, None]
    same(x, 80, 12, strategy, init_centroids=start, empty=empty)


@every_way
def test_runs_elements_and_reports(
    strategy: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Elements that end at different times, several runs, one iteration at a time, other ways to begin."""
    x = helpers.blobs(3, 600, 10, 20).astype(np.float32)
    same(x, 70, 60, strategy, n_init=3)
    same(x, 70, 60, strategy, tol=0.3)
    same(x, 70, 4, strategy, verbose=True)
    same(x, 70, 10, strategy, init="k-means||")
    same(x, 70, 10, strategy, init="k-means++")
    assert capsys.readouterr().out


@every_way
@every_metric
@pytest.mark.parametrize(("n", "k"), [(3000, 10), (600, 40), (90, 3)])
def test_rounds_of_seeding_have_labels_of_their_own(
    n: int, k: int, metric: str, strategy: str | None
) -> None:
    """Some rounds of k-means|| have as many centres as there are clusters, and others more."""
    x = np.random.default_rng(0).normal(size=(2, n, 16)).astype(np.float32)
    for seed in range(3):
        same(x, k, 6, strategy, metric, init="k-means||", seed=seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["head", "int8"]), st.sampled_from(sorted(FITS)))
def test_random_problems(seed: int, strategy: str | None, metric: str) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 700)), int(rng.choice([1, 2, 5, 18, 33]))
    k = int(rng.integers(1, min(n, 180) + 1))
    x = rng.standard_normal((n, d)) @ np.diag(rng.random(d) ** 3) + rng.choice([0.0, 3.0, 50.0])
    x = x[rng.integers(n, size=n)] if rng.random() < 0.3 else x
    x = np.rint(2 * x) if rng.random() < 0.3 else x
    same(
        x.astype(np.float32),
        k,
        int(rng.integers(1, 12)),
        strategy,
        metric,
        init=str(rng.choice(["random", "k-means++"])),
    )


@pytest.mark.parametrize("most", [None, 0])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(FITS)))
def test_random_problems_of_the_loop_by_bytes(most: int | None, seed: int, metric: str) -> None:
    """With `most` 0, bytes are given up as soon as they don't decide."""
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(150, 1500)), int(rng.integers(60, 150)), int(rng.integers(100, 140))
    x = rng.standard_normal((n, d)) + rng.choice([0.0, 3.0, 50.0])
    x = x[rng.integers(n, size=n)] if rng.random() < 0.3 else x
    x = np.rint(2 * x) if rng.random() < 0.3 else x
    used = []
    with pytest.MonkeyPatch.context() as patch:
        if most is not None:
            patch.setattr(looped, "most_compared", lambda *_: most)
        by_bytes = LoopedCpuPoints._by_bytes
        patch.setattr(
            LoopedCpuPoints, "_by_bytes", lambda self: used.append(by_bytes(self)) or used[-1]
        )
        same(x.astype(np.float32), k, int(rng.integers(1, 9)), None, metric)
    assert any(used) or not ir.INT8


def test_most_products_of_structured_points_are_skipped() -> None:
    x = helpers.low_rank(6000, 64, 5)
    head, as_bytes = (same(x, 300, 25, strategy) for strategy in ("head", "int8"))
    assert head.products < 0.6 and as_bytes.products < 0.1
    assert head.strategy in ("head 63", "head 31", "head 15") and as_bytes.strategy == "int8"
    off = FITS["euclidean"](x, 300, 25, strategy="tiles", backend="cpu")
    assert (off.products, off.strategy) == (1.0, "loop")
    assert (
        set(off.seconds) == {"choice", "seeding", "assignment", "update"}
        and off.seconds["choice"] == 0.0
    )


@pytest.mark.parametrize("strategy", ["head", "int8"])
def test_a_named_strategy_that_cannot_win_stops_early(strategy: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8000, 96)).astype(np.float32)
    if strategy == "int8":  # one coordinate leaves no digits to the others
        x[:, 0] = rng.choice([-1e4, 1e4], 8000)
    result = same(x, 200, 5, strategy)
    assert result.strategy == "tiles" and 0.9 < result.products < 1.3


@pytest.fixture
def always_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the CPU backend choose for small problems too."""
    monkeypatch.setattr(tuner, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(tuner, "MIN_POINT_PASSES", 0)
    monkeypatch.setattr(importlib.import_module("flash_kmeans_mlx.backends.cpu.plan"), "LOOPED", 0)


@pytest.mark.usefixtures("always_choose")
@every_metric
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_the_choice_changes_no_bits(init: str, metric: str) -> None:
    for x in (
        helpers.low_rank(8000, 64, 5),
        np.random.default_rng(0).standard_normal((8000, 40)).astype(np.float32),
    ):
        same(np.stack([x, 2 * x]), 300, 20, None, metric, init=init)


@pytest.mark.usefixtures("always_choose")
def test_the_choice_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    x = helpers.low_rank(8000, 64, 5)
    seconds = {63: 9.0, 31: 4.0, 15: 3.0}
    monkeypatch.setattr(Trial, "_rivals", lambda *_: 0.0)
    monkeypatch.setattr(
        Trial, "_time_head", lambda _self, _c, basis, _passes: seconds[basis.shape[1]]
    )
    monkeypatch.setattr(Tuner, "_as_bytes", lambda *_: None)
    chosen = {}
    for plain in (10.0, 0.1):
        monkeypatch.setattr(Trial, "_time_plain", lambda _self, _c, plain=plain: plain)
        chosen[plain] = same(x, 300, 8, None).strategy
    assert chosen == {10.0: "head 15", 0.1: "tiles"}


@pytest.mark.usefixtures("always_choose")
def test_a_hopeless_head_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    monkeypatch.setattr(trial, "DISTANCE", 1.0)
    monkeypatch.setattr(
        Trial,
        "_time_head",
        lambda _self, _c, basis, _passes: timed.append(basis.shape[1]) or 0.0,
    )
    FITS["euclidean"](helpers.low_rank(8000, 64, 5), 300, 4, backend="cpu")
    assert timed in ([], [63])  # [63]: only to load the kernels


@pytest.mark.usefixtures("always_choose")
@pytest.mark.parametrize("way", [Int8, Pruning])
def test_a_way_that_does_not_pay_is_left_at_any_shard(
    monkeypatch: pytest.MonkeyPatch, way: type[Int8 | Pruning]
) -> None:
    monkeypatch.setattr(trial, "GAIN", 1e9 if way is Pruning else 0.0)
    monkeypatch.setattr(way, "pays", lambda self: self.rows() < 9000)
    x = np.random.default_rng(0).standard_normal((8000, 64)).astype(np.float32)
    assert same(x, 300, 8, None).strategy in ("tiles", "int8")


def test_few_points_are_not_worth_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(importlib.import_module("flash_kmeans_mlx.backends.cpu.plan"), "LOOPED", 0)
    chosen: list[int] = []
    monkeypatch.setattr(Tuner, "_fastest", lambda _self, _c, passes: chosen.append(passes))
    x = helpers.low_rank(12_000, 20, 5)
    FITS["euclidean"](x, 40, 8, backend="cpu")
    assert not chosen
    FITS["euclidean"](x, 40, 11, backend="cpu")
    assert chosen == [10, 10]  # at the start, and with the first means


@pytest.mark.parametrize(("strategy", "short"), [("head", "tiles"), ("int8", "int8")])
def test_a_strategy_takes_less_where_memory_is_short(strategy: str, short: str) -> None:
    """Without memory for the bytes of all points, those of a tile are made anew in every pass."""
    x = helpers.low_rank(6000, 64, 5)
    least = stated_need(lambda cap: FITS["euclidean"](x, 300, 4, max_mem_gb=cap, backend="cpu"))
    tight = same(x, 300, 4, strategy, max_mem_gb=1.01 * least)
    assert tight.strategy == short
    assert same(x, 300, 4, strategy, max_mem_gb=4 * least + 0.05).strategy.startswith(strategy)


@pytest.mark.usefixtures("always_choose")
def test_predict_may_use_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    x = helpers.low_rank(8000, 64, 5)
    c = x[::20]
    expected = assign(x, c, backend="cpu")
    monkeypatch.setattr(Trial, "_time_plain", lambda *_: 1e9)
    np.testing.assert_array_equal(assign(x, c, backend="cpu"), expected)


def test_features_and_bytes_never_change_the_seeds() -> None:
    """Rows one by one, rows as lanes, a head bound, bytes: the same draws."""
    for x in (
        helpers.low_rank(5000, 64, 5),
        helpers.pixels(4000),
        np.rint(2 * helpers.low_rank(3000, 30, 30)),
    ):
        for metric in FITS:
            off, head, by_bytes = (
                FITS[metric](
                    x,
                    50,
                    0,
                    init="k-means++",
                    strategy=p,
                    backend="cpu",
                    sample_weight=np.arange(len(x)) % 4,
                )
                for p in ("tiles", "head", "int8")
            )
            np.testing.assert_array_equal(off.centroids, head.centroids)
            np.testing.assert_array_equal(off.centroids, by_bytes.centroids)


def test_seeds_are_those_of_the_reference_where_distances_are_exact() -> None:
    x = np.rint(8 * helpers.low_rank(1500, 9, 4)).astype(np.float32)
    ours, exact = (
        FITS["euclidean"](x, 60, 0, init="k-means++", backend=b).centroids
        for b in ("cpu", "reference")
    )
    np.testing.assert_array_equal(ours, exact)


def test_principal_directions() -> None:
    x = helpers.low_rank(500, 40, 6, noise=0.0)
    basis = principal_directions(x, 6)
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(x @ basis.T @ basis, x, atol=1e-4 * np.abs(x).max())
    along = np.square(x @ basis.T).sum(0)
    assert (np.diff(along) <= 1e-4 * along[0]).all()


@pytest.mark.parametrize("k", [1, 63, 64, 65, 200, 1000])
def test_halving_keeps_neighbours_together(k: int) -> None:
    c = np.random.default_rng(0).standard_normal((k, 3)).astype(np.float32)
    order = halved(c, 64)
    assert sorted(order) == list(range(k))
    spread = [np.square(c[o] - c[o].mean(0)).sum() for o in np.split(order, range(64, k, 64))]
    assert k <= 128 or sum(spread) < 0.7 * np.square(c - c.mean(0)).sum()
