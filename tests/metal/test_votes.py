"""The simulations of bounds count what the kernels compute, and bounds of low precision hold."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_kmeans_mlx.backends.metal import groups
from metal import low_precision, votes
from metal.kit import needs_gpp

N, K, D = 1000, 128, 24


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, D) and centroids (K, D) to start from."""
    rng = np.random.default_rng(2)
    centres = 2 * rng.standard_normal((2 * K, D))
    x = centres[rng.integers(2 * K, size=N)] + 0.5 * rng.standard_normal((N, D))
    x = (x - x.mean(0)).astype(np.float32)
    return x, x[:: N // K][:K].copy()


@needs_gpp
@pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated")
@pytest.mark.usefixtures("metal")
def test_the_simulation_counts_what_the_kernel_compares() -> None:
    x, c = problem()
    simulated, unsorted = (
        votes.Variant(group=32, sort="needs"),
        votes.Variant(group=32, sort="data"),
    )
    iterations, _ = votes.fit(x, c, [simulated, unsorted])
    tiles = groups.tiles_for(K, D)
    assert tiles is not None and tiles.centroids == 32
    points = mx.array(x[None])
    bounds = groups.start(N, mx.array(c[None]), tiles)
    grouping = groups.group_centroids(c[None], tiles)
    left = []
    for _ in range(iterations):
        inner = mx.array(c[None])
        bias = -0.5 * mx.square(inner).sum(-1)
        labels, bounds = groups.assign(
            *(points, inner, bias, None),
            tiles=tiles,
            grouping=grouping,
            square=mx.square(points).sum(-1),
            bounds=groups.recount(bounds),
        )
        left.append(groups.share_compared(bounds, tiles))
        c = votes.means(x, np.array(labels)[0].astype(np.int64), c)
    assert left[-1] < 0.5 * left[0]
    # The kernel sorts by place, which is a little better than by label.
    np.testing.assert_allclose(left, simulated.left, atol=0.06)
    assert np.abs(np.array(left) - unsorted.left).max() > 0.1


@pytest.mark.parametrize("form", low_precision.FORMS)
def test_what_low_precision_rules_out_never_wins(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, c = problem()
    scores = x.astype(np.float64) @ c.T.astype(np.float64) - 0.5 * np.square(c.astype(float)).sum(1)
    best = scores.argmax(1)
    count, decided = low_precision.survivors(x, c, best, form)
    assert 1 <= count < K / 4 and decided > 0.1
    # From any other label, the best one survives beside it.
    other = (best + 1) % K
    assert low_precision.survivors(x, c, other, form)[1] == 0
    monkeypatch.setattr(low_precision, "norms", lambda a: np.zeros(len(a), np.float32))
    assert low_precision.survivors(x, c, best, form)[0] < count
