"""E-steps by bounds give the labels of the fused kernel, whatever the centroids do."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.metal import groups, kernels, launch, points, sources
from flash_kmeans_mlx.backends.metal.groups import tiles_for
from flash_kmeans_mlx.backends.metal.kernels import Normalisation

pytestmark = pytest.mark.usefixtures("metal")


class Run(NamedTuple):
    """What a sequence of E-steps did."""

    labels: list[np.ndarray]
    left: list[float]


def bias_of(c: np.ndarray) -> mx.array:
    squares = np.square(c.astype(np.float64)).sum(-1)
    return mx.array((-0.5 * squares).astype(np.float32))


def follow(x: mx.array, steps: list[np.ndarray], normalisation: Normalisation | None = None) -> Run:
    """Do an E-step for each of the centroids (B, K, D); every one must have the labels of fused."""
    _, n, d = x.shape
    k = steps[0].shape[1]
    tiles = tiles_for(k, d)
    assert tiles is not None
    grouping = groups.group_centroids(steps[0], tiles)
    rows = x.astype(mx.float32)
    if normalisation is not None:
        rows = (rows - normalisation.shift[:, None]) * normalisation.factor[:, None, None]
    square = mx.square(rows).sum(-1)
    bounds = groups.start(n, mx.array(steps[0]), tiles)
    run = Run([], [])
    for c in steps:
        args = (x, mx.array(c), bias_of(c), normalisation)
        labels, bounds = groups.assign(
            *args, tiles=tiles, grouping=grouping, square=square, bounds=bounds
        )
        mx.eval(labels, *bounds)
        expected = np.array(kernels.assign(*args)[0])
        np.testing.assert_array_equal(np.array(labels), expected)
        run.labels.append(expected)
        run.left.append(groups.share_compared(bounds, tiles))
        bounds = groups.recount(bounds)
    return run


def lloyd(rows: np.ndarray, c: np.ndarray, iterations: int) -> list[np.ndarray]:
    """Return the centroids of Lloyd's loop on rows (B, N, D), in float64."""
    steps = [c.astype(np.float32)]
    for _ in range(iterations - 1):
        c = steps[-1].astype(np.float64)
        moved = c.copy()
        for b, element in enumerate(rows):
            scores = element @ c[b].T - 0.5 * np.square(c[b]).sum(-1)
            labels = scores.argmax(1)
            for k in np.unique(labels):
                moved[b, k] = element[labels == k].mean(0)
        steps.append(moved.astype(np.float32))
    return steps


def clustered(b: int, n: int, k: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((b, k, d))
    cluster = rng.integers(k, size=(b, n, 1))
    x = np.take_along_axis(centres, cluster, axis=1) + rng.standard_normal((b, n, d))
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("b", "n", "k", "d"),
    [(1, 400, 100, 17), (2, 300, 130, 64), (1, 333, 97, 130), (1, 200, 7, 40), (1, 1, 1, 9)],
)
def test_labels_are_those_of_fused(b: int, n: int, k: int, d: int) -> None:
    x = clustered(b, n, k, d)
    run = follow(mx.array(x), lloyd(x, x[:, np.linspace(0, n - 1, k).astype(int)], 6))
    assert run.left[0] <= 1
    if n > 100 and k > 64:
        assert run.left[-1] < 0.5 * run.left[0]


def jumps(c: np.ndarray, scale: float, iterations: int = 5) -> list[np.ndarray]:
    """Return centroids that move by less and less, then stand still, then jump."""
    rng = np.random.default_rng(5)
    steps = [c]
    for i in range(iterations):
        noise = rng.standard_normal(c.shape).astype(np.float32)
        steps.append(steps[-1] + np.float32(scale * 10.0**-i) * noise)
    return [*steps, steps[-1], c]


def trembling(c: np.ndarray) -> list[np.ndarray]:
    """Return centroids that move a little around their places."""
    rng = np.random.default_rng(5)
    noise = 0.02 * rng.standard_normal((12, *c.shape)).astype(np.float32)
    return [c, *(c + noise * (c != 0))]


class Moves(NamedTuple):
    """Points (1, N, 24) and a sequence of centroids."""

    x: np.ndarray
    steps: list[np.ndarray]


def in_space() -> Moves:
    """Return points that fill three of their dimensions, so that many are near a border."""
    x = np.zeros((1, 600, 24), np.float32)
    x[..., :3] = np.random.default_rng(7).standard_normal((1, 600, 3))
    return Moves(x, trembling(x[:, ::6]))


def on_a_line() -> Moves:
    """Return three groups of centroids on a line; the last of the first leaves, step by step."""
    x, c = np.zeros((1, 600, 24), np.float32), np.zeros((1, 96, 24), np.float32)
    x[..., 0] = np.linspace(-48, 48, 600)
    c[..., 0] = np.arange(96) - 47.5
    steps = [c]
    for _ in range(9):
        steps.append(steps[-1].copy())
        steps[-1][0, 31, 0] -= 0.06
    return Moves(x, steps)


MOVES = {"space": in_space, "line": on_a_line}


def hard_case(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return points (1, N, D), centroids (1, K, D) and how far the first of them move."""
    rng = np.random.default_rng(3)
    x = clustered(1, 300, 40, 24)
    c = x[:, ::3].copy()
    if name == "ties":  # many centroids are equally far
        return np.round(x), np.round(c), 0.0
    if name == "duplicates":
        return np.repeat(x[:, ::3], 3, axis=1), np.repeat(c[:, :50], 2, axis=1), 1e-3
    if name == "offset":  # rounding of scores is as large as their differences
        return x + np.float32(3000), c + np.float32(3000), 0.1
    if name == "parallel":  # rows along one direction
        along = rng.standard_normal((1, 300, 1)).astype(np.float32)
        x = (along * x[:, :1] + 1e-4 * rng.standard_normal(x.shape)).astype(np.float32)
        return x, x[:, ::3].copy(), 1e-4
    if name == "zeros":
        x[:, ::2] = 0
        c[:, ::2] = 0
        return x, c, 1e-3
    power, move = {
        "jumps": (0, 1.0),
        "tiny": (-40, 0.1),
        "subnormal": (-70, 0.1),
        "huge": (40, 0.1),
    }[name]
    return np.ldexp(x, power), np.ldexp(c, power), float(np.ldexp(move, power))


HARD = ("ties", "duplicates", "offset", "parallel", "zeros", "jumps", "tiny", "subnormal", "huge")


@pytest.mark.parametrize("name", HARD)
def test_rounding_never_decides(name: str) -> None:
    x, c, scale = hard_case(name)
    follow(mx.array(x), jumps(c, scale))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_points_of_16_bits_and_another_frame(dtype: mx.Dtype) -> None:
    x = clustered(2, 150, 40, 24) + np.float32(20)
    given = mx.array(x).astype(dtype)
    shift = mx.full((2, 24), 20.0)
    factor = mx.array([0.5, 2.0])
    rows = (given.astype(mx.float32) - shift[:, None]) * factor[:, None, None]
    c = np.array(rows)[:, ::3].copy()
    follow(given, jumps(c, 0.3), Normalisation(shift, factor))


def test_rows_that_are_not_finite_have_the_labels_of_fused() -> None:
    x = clustered(1, 100, 40, 24)
    x[0, 3, 5] = np.nan
    x[0, 40, 0] = np.inf
    x[0, 41, 1] = -np.inf
    follow(mx.array(x), jumps(x[:, 50:90].copy(), 0.1))


def test_centroids_that_stand_still_cost_nothing() -> None:
    x = clustered(1, 256, 70, 24)
    run = follow(mx.array(x), [x[:, :70].copy()] * 3)
    assert run.left[1] <= 1 / 3 and run.left[2] <= run.left[1]


@pytest.mark.parametrize("d", [24, 130])
def test_fits_are_those_of_fused(d: int) -> None:
    x = clustered(2, 400, 70, d) + np.float32(30)
    options: dict[str, Any] = {"max_iters": 12, "backend": "metal", "seed": 1}
    fused = fk.batch_kmeans_Euclid(x, 70, strategy="fused", **options)
    bounded = fk.batch_kmeans_Euclid(x, 70, strategy="groups", **options)
    assert (fused.strategy, bounded.strategy) == ("fused", "groups")
    np.testing.assert_array_equal(bounded.labels, fused.labels)
    np.testing.assert_array_equal(bounded.centroids, fused.centroids)
    np.testing.assert_array_equal(bounded.n_iter, fused.n_iter)
    np.testing.assert_array_equal(bounded.inertia, fused.inertia)


@pytest.mark.parametrize("name", MOVES)
def test_centroids_move_in_turn(name: str) -> None:
    x, steps = MOVES[name]()
    run = follow(mx.array(x), steps)
    changes = [(a != b).any() for a, b in itertools.pairwise(run.labels)]
    assert any(changes) and min(run.left) < 0.8


@pytest.mark.parametrize("d", [9, 17, 33, 65, 129])
def test_registers_are_bounded(d: int) -> None:
    tiles = tiles_for(100, d)
    assert tiles is not None and groups.registers(tiles) <= launch.MAX_REGISTERS


def test_bounds_that_rule_out_little_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "PAYS", 0.1)
    x = np.random.default_rng(0).standard_normal((1, 1500, 64), np.float32)
    options: dict[str, Any] = {"max_iters": 12, "backend": "metal", "seed": 1}
    result = fk.batch_kmeans_Euclid(x, 70, strategy="groups", **options)
    assert result.strategy == "fused"
    fused = fk.batch_kmeans_Euclid(x, 70, strategy="fused", **options)
    np.testing.assert_array_equal(result.labels, fused.labels)
    np.testing.assert_array_equal(result.centroids, fused.centroids)


def test_what_the_kernels_do_not_take_is_left_to_fused() -> None:
    x = clustered(1, 100, 5, 9)
    options: dict[str, Any] = {"max_iters": 2, "backend": "metal", "strategy": "groups"}
    results = (
        fk.batch_kmeans_Euclid(x, 5, max_mem_gb=1.0, **options),
        fk.batch_kmeans_Cosine(x, 5, **options),
        fk.batch_kmeans_Euclid(x[..., :8], 5, **options),
    )
    assert [result.strategy for result in results] == ["fused"] * 3


@pytest.mark.parametrize("least", [128, 512])
def test_many_launches_are_one(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clustered(2, 333, 70, 24)
    steps = lloyd(x, x[:, ::4][:, :70], 4)
    tiles = tiles_for(70, 24)
    assert tiles is not None
    options: dict[str, Any] = {
        "tiles": tiles,
        "grouping": groups.group_centroids(steps[0], tiles),
        "square": mx.square(mx.array(x)).sum(-1),
    }
    whole = parted = groups.start(333, mx.array(steps[0]), tiles)
    for c in steps:
        problem = (mx.array(x), mx.array(c), bias_of(c), None)
        labels, whole = groups.assign(*problem, **options, bounds=whole)
        with monkeypatch.context() as patch:
            patch.setattr(launch, "MAX_PRODUCTS", 1)
            patch.setattr(launch, "LEAST_ROWS", least)
            found, parted = groups.assign_in_launches(*problem, **options, bounds=parted)
        np.testing.assert_array_equal(np.array(found), np.array(labels))
    assert parted.compared.shape == whole.compared.shape


DEFECTS = {  # what replaces what, and the points that find it
    "no room for rounding": ("float(2 * D + 32) * ULP", "0.0f", "offset"),
    "an upper bound that does not loosen": (
        "(upper[at] + drift",
        "(upper[at] + 0 * drift",
        "line",
    ),
    "a lower bound that does not": ("TIGHTER - group_drift", "TIGHTER - 0 * group_drift", "jumps"),
    "ties to the first place": (
        "wins = bounds.index[places + place] < bounds.index[places + before];",
        "wins = false;",
        "ties",
    ),
    "the bound of the second where the first lost": (
        "wins ? second : first, square",
        "second, square",
        "jumps",
    ),
    "the loser of another group is forgotten": (
        "if (wins && before != NO_PLACE)\n",
        "if (false && before != NO_PLACE)\n",
        "space",
    ),
}


@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated")
@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, name = DEFECTS[defect]
    text = sources.source_text("groups")
    assert text.count(old) == 1
    whole = sources.source_text
    monkeypatch.setattr(
        sources,
        "source_text",
        lambda header: text.replace(old, new) if header == "groups" else whole(header),
    )
    sources._build.cache_clear()
    if name in HARD:
        x, c, scale = hard_case(name)
        steps = jumps(c, scale)
    else:
        x, steps = MOVES[name]()
    try:
        with pytest.raises(AssertionError):
            follow(mx.array(x), steps)
    finally:
        sources._build.cache_clear()


def random_problem(seed: int) -> Moves:
    """Return points of any spread, offset and order, with centroids that move as they like."""
    rng = np.random.default_rng(seed)
    n, k, d = (int(rng.integers(*r)) for r in ((1, 300), (1, 150), (9, 33)))
    spread = np.zeros(d)
    spread[: rng.integers(1, d + 1)] = 1
    x = rng.standard_normal((1, n, d)) * spread
    if rng.random() < 0.3:
        x = np.round(2 * x)
    if rng.random() < 0.3:
        x += rng.choice([10, 1e3, 1e5]) * rng.standard_normal(d)
    c = x[:, rng.integers(n, size=k)]
    noise = rng.choice([0, 1e-6, 1e-2, 1.0])
    steps = [c + noise * rng.standard_normal(c.shape)]
    for _ in range(5):
        moves = rng.random((1, k, 1)) < rng.choice([0.02, 0.5, 1])
        length = rng.choice([1e-6, 1e-3, 0.05, 1]) * rng.standard_normal(c.shape) * spread
        steps.append(steps[-1] + moves * length)
    scale = 2.0 ** rng.integers(-30, 31)
    return Moves((scale * x).astype(np.float32), [(scale * c).astype(np.float32) for c in steps])


@pytest.mark.parametrize("seed", range(8))
def test_random_problems(seed: int) -> None:
    x, steps = random_problem(seed)
    follow(mx.array(x), steps)
