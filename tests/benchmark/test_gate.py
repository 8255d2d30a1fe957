"""The gate lets right results pass, ties and rounding included, and nothing else."""
# pyright: reportMissingImports=false

from functools import partial

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import gate
from flash_kmeans_mlx.benchmark.contestants import Array
from wrong_contestants import nearest_labels


@pytest.fixture
def problem() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 301, 7), dtype=np.float32)
    centroids = np.stack([points[:11] for points in x])
    labels = np.stack([nearest_labels(points, c) for points, c in zip(x, centroids, strict=True)])
    return x, labels, centroids


def test_right_result_passes_with_its_inertia(problem: tuple[Array, Array, Array]) -> None:
    x, labels, centroids = problem
    true = sum(((x[b] - centroids[b][labels[b]]) ** 2).sum(dtype=np.float64) for b in range(2))
    verdict = gate.judge(x, labels, centroids, reported=true)
    assert verdict.ok and verdict.regret == 0 and verdict.rows == 602
    assert verdict.inertia == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_one_wrong_label_is_found_even_under_an_offset(
    problem: tuple[Array, Array, Array], offset: float
) -> None:
    x, labels, centroids = problem
    x, centroids = x + np.float32(offset), centroids + np.float32(offset)
    labels = np.stack([nearest_labels(points, c) for points, c in zip(x, centroids, strict=True)])
    assert gate.judge(x, labels, centroids).ok
    labels[1, 17] = (labels[1, 17] + 1) % 11
    verdict = gate.judge(x, labels, centroids)
    assert not verdict.ok and "label regret" in verdict.reason


def test_float32_rounding_and_ties_pass() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2000, 192), dtype=np.float32) * 100 + 50
    centroids = x[:, :64]
    scores = x[0] @ centroids[0].T - 0.5 * (centroids[0] ** 2).sum(axis=1)
    assert gate.judge(x, scores.argmax(axis=1)[None], centroids).ok
    twins = np.concatenate([centroids, centroids], axis=1)
    assert gate.judge(x, scores.argmax(axis=1)[None] + 64, twins).ok


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_other_metrics(metric: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 500, 9), dtype=np.float32)
    centroids = gate.unit_rows(x[:, :6])
    labels = (x[0] @ centroids[0].T).argmax(axis=1)[None]
    verdict = gate.judge(x, labels, centroids, metric=metric)
    assert verdict.ok
    rows = gate.unit_rows(x[0]) if metric == "cosine" else x[0]
    cost = -(rows * centroids[0][labels[0]]).sum() + (500 if metric == "cosine" else 0)
    assert verdict.inertia == pytest.approx(cost, rel=1e-5)
    labels[0, 3] = (labels[0, 3] + 1) % 6
    assert "label regret" in gate.judge(x, labels, centroids, metric=metric).reason


def test_malformed_results_are_named(problem: tuple[Array, Array, Array]) -> None:
    x, labels, centroids = problem
    assert "shapes" in gate.judge(x, labels[:, :-1], centroids).reason
    assert "out of range" in gate.judge(x, labels + 11, centroids).reason
    assert "out of range" in gate.judge(x, labels.astype(np.int64) - 11, centroids).reason
    assert "finite" in gate.judge(x, labels, np.where(centroids > 2, np.nan, centroids)).reason


def test_reported_inertia_must_be_the_one_it_has(problem: tuple[Array, Array, Array]) -> None:
    x, labels, centroids = problem
    true = gate.judge(x, labels, centroids).inertia
    assert gate.judge(x, labels, centroids, reported=true * (1 + 1e-5)).ok
    assert "reports inertia" in gate.judge(x, labels, centroids, reported=true * 0.99).reason


def test_inertia_is_compared_beyond_one_percent() -> None:
    assert gate.compare(gate.Verdict(inertia=100.9), 100).ok
    assert "+2.0%" in gate.compare(gate.Verdict(inertia=102), 100).reason
    assert gate.compare(gate.Verdict(inertia=-99.5), -100).ok
    assert not gate.compare(gate.Verdict(inertia=-98), -100).ok
    assert (
        gate.compare(gate.Verdict(reason="label regret", inertia=200), 100).reason == "label regret"
    )


def test_large_problems_are_sampled(problem: tuple[Array, Array, Array]) -> None:
    x, labels, centroids = problem
    assert gate.judge(x, labels, centroids, sample=100).rows == 100
    shuffled = np.roll(labels, 1, axis=1)
    assert not gate.judge(x, shuffled, centroids, sample=100).ok


def test_seeds_are_points_of_the_data(problem: tuple[Array, Array, Array]) -> None:
    x, labels, centroids = problem
    verdict = gate.judge_seeds(x, centroids)
    assert verdict.ok
    assert verdict.inertia == pytest.approx(gate.judge(x, labels, centroids).inertia, rel=1e-9)
    assert "not points" in gate.judge_seeds(x, centroids + np.float32(1e-3)).reason


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_neighbours_are_judged(metric: str) -> None:
    rng = np.random.default_rng(0)
    x, queries = (
        rng.standard_normal((1, 60, 5)).astype(np.float32),
        rng.standard_normal((1, 9, 5)).astype(np.float32),
    )
    a, b = (gate.unit_rows(y) if metric == "cosine" else y for y in (queries[0], x[0]))
    every = np.square(a[:, None] - b).sum(2) if metric == "euclidean" else -(a @ b.T)
    order = np.argsort(every, axis=1)[:, :4]
    values = np.take_along_axis(every, order, 1)
    values = {"euclidean": values, "cosine": values + 1, "dot": -values}[metric]
    judge = partial(gate.judge_neighbours, x, queries, metric=metric, k=4)
    assert judge(order[None], values[None]).ok
    farther, far = order.copy(), values.copy()
    farther[3, 3] = np.argsort(every, axis=1)[3, 4]
    far[3, 3] *= 1.01
    assert judge(farther[None], values[None]).reason.startswith("regret of a neighbour")
    assert judge(order[None, :, ::-1], values[None, :, ::-1]).reason.startswith(
        "regret of a neighbour"
    )
    assert judge(order[None], far[None]).reason.startswith("a distance is off by")
    assert judge(order[None, :, :3], values[None, :, :3]).reason.startswith("shapes")
    assert judge(np.full_like(order, 60)[None], values[None]).reason == "indices out of range"
    assert (
        judge(np.zeros_like(order)[None], values[None]).reason
        == "a point twice among the neighbours of a query"
    )
