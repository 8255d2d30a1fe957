"""The kernels of k-means++ by themselves, against NumPy, and what bytes rule out in its rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import helpers
import numpy as np
import pytest

from flash_kmeans_mlx.backends.cpu import kernels, seeds
from flash_kmeans_mlx.backends.cpu.int8 import Int8
from flash_kmeans_mlx.backends.cpu.tuner import Tuner

RNG = np.random.default_rng
Rng = np.random.Generator


@pytest.mark.parametrize("n", [1, 511, 512, 513, 2000])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_draws_follow_the_cumulative_potential(weighted: bool, n: int) -> None:
    nearest = np.rint(9 * RNG(0).random(n)).astype(np.float32)
    nearest[0] = 1
    w = RNG(1).integers(0, 3, n).astype(np.float32) if weighted else np.zeros(0, np.float32)
    w[:1] = 1
    potential = nearest * (w if weighted else 1)
    blocks = np.zeros(-(-n // kernels.seed.DRAW))
    uniforms = np.append((np.arange(999) + 0.5) / 999, [0.0, 1 - 2**-53])
    kernels.seed.sum_blocks(nearest, w, 0, n, blocks)
    assert blocks.sum() == potential.sum()
    out = np.full(len(uniforms), -1, np.int64)
    kernels.seed.draw(nearest, w, blocks, uniforms, out)
    whole = np.cumsum(potential, dtype=np.float64)
    np.testing.assert_array_equal(out, np.searchsorted(whole, uniforms * whole[-1], side="right"))


def test_there_is_nothing_to_draw_from_nothing() -> None:
    out = np.full(3, -1, np.int64)
    kernels.seed.draw(
        np.zeros(600, np.float32),
        np.zeros(0, np.float32),
        np.zeros(2),
        np.array([0.0, 0.5, 0.9]),
        out,
    )
    assert out.tolist() == [-1, -1, -1]


def _powers(rng: Rng, low: float, high: float, shape: Any = None) -> Any:
    return 10.0 ** rng.uniform(low, high, shape)


# What is made of standard normal rows (N, D).
ROWS: dict[str, Callable[[np.ndarray, Rng], np.ndarray]] = {
    "gaussian": lambda x, _: x,
    "offset": lambda x, rng: x + _powers(rng, 0, 5) * rng.standard_normal(x.shape[1]),
    "low rank": lambda x, rng: x[:, :2] @ rng.standard_normal((2, x.shape[1])) + 1e-4 * x,
    "grid": lambda x, _: np.rint(x),
    "heavy tails": lambda x, rng: x * np.exp(5 * rng.standard_normal((len(x), 1))),
    "parallel": lambda x, rng: rng.standard_normal(x.shape[1]) + _powers(rng, -5, -1) * x,
    "duplicates": lambda x, rng: x[rng.integers(len(x) // 9, size=len(x))],
    "near duplicates": lambda x, rng: (
        x[rng.integers(len(x) // 9, size=len(x))] + _powers(rng, -8, -2) * x
    ),
    "tiny": lambda x, rng: _powers(rng, -36, -8) * x,
    "huge": lambda x, rng: _powers(rng, 8, 18) * x,
    "mixed rows": lambda x, rng: _powers(rng, -44, 2, (len(x), 1)) * x,
    "mixed columns": lambda x, rng: _powers(rng, -12, 2, x.shape[1]) * x,
    "zeros": lambda x, rng: x * (rng.random((len(x), 1)) < 0.5),
    "unit rows": lambda x, _: x / np.linalg.norm(x, axis=1, keepdims=True),
    "equal": lambda x, _: np.repeat(x[:1], len(x), axis=0),
}


@pytest.mark.skipif(not kernels.ir.INT8, reason="this CPU has no products of bytes")
@pytest.mark.parametrize("metric", helpers.FITS)
@pytest.mark.parametrize("kind", ROWS)
def test_bytes_miss_no_point_that_a_candidate_is_nearer_to(
    kind: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every round, all candidates gain the same on the same points as without bytes."""
    rounds: list[tuple[np.ndarray, ...]] = []
    run_rounds = seeds._Run.__call__

    def watched(run: Any, team: Any, candidates: Any, *rest: Any) -> None:
        run_rounds(run, team, candidates, *rest)
        rounds.append((candidates.gains.copy(), candidates.counts.copy()))
        rounds.append((run.state.nearest.copy(),))

    def as_bytes(tuner: Tuner) -> Int8:
        points = Int8(tuner.points, kept=True)
        points.fill()
        return points

    monkeypatch.setattr(seeds, "CALL", 1)  # a round to a call
    monkeypatch.setattr(seeds._Run, "__call__", watched)
    for seed, (n, d, dtype) in enumerate(
        [(700, 40, np.float32), (130, 3, np.float64), (577, 129, np.float32), (64, 64, np.float16)]
    ):
        rng = RNG(seed)
        x = ROWS[kind](rng.standard_normal((n, d)), rng)
        x = (x / np.abs(x).max() if dtype == np.float16 else x).astype(dtype)
        weights = rng.integers(1, 4, n) if seed % 2 else None
        found = []
        for kept in (lambda _: None, as_bytes):
            monkeypatch.setattr(Tuner, "for_seeding", kept)
            rounds.clear()
            helpers.FITS[metric](
                x, 25, 0, init="k-means++", sample_weight=weights, backend="cpu", seed=seed
            )
            found.append([array for arrays in rounds for array in arrays])
        assert len(found[0]) == len(found[1]) > 1
        for with_rows, with_bytes in zip(*found, strict=True):
            np.testing.assert_array_equal(with_rows, with_bytes)
