"""The gate: a result is checked in float64 before its time is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SAMPLE = 20_000
INERTIA_LIMIT = 0.01
SEEDING_LIMIT = 0.25  # draws differ
_EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_SLACK = 16
_REPORTED_LIMIT = 1e-3
_CHUNK = 2048


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on a result.

    Attributes:
        reason: Why the result is wrong; empty if it is right.
        regret: Largest label regret, relative to the spread of the centred data.
        tolerance: The largest regret that is allowed.
        inertia: The labels' cost over the returned centroids in float64, summed over the batch.
        rows: Rows whose labels were judged.
    """

    reason: str = ""
    regret: float = 0.0
    tolerance: float = 0.0
    inertia: float = float("nan")
    rows: int = 0

    @property
    def ok(self) -> bool:
        """Whether the result may show a time."""
        return not self.reason


def unit_rows(x: Array) -> Array:
    """Return the rows with norm 1. Zero rows stay zero."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def tolerance(dtype: str, d: int) -> float:
    """Return the regret that rounding ``d`` coordinates to ``dtype`` explains."""
    return _SLACK * _EPSILON[dtype] * float(np.sqrt(d))


def label_regret(x: Array, labels: Array, centroids: Array, metric: str = "euclidean") -> float:
    """Return by how much the chosen centroid is worse than the nearest one, at the worst row.

    It is computed in float64 and is relative to the size of the row and its centroid *after
    centring*, so that an offset common to all points can't hide wrong labels.

    Args:
        x: Points ``(N, D)``.
        labels: Chosen centroids ``(N,)``.
        centroids: ``(K, D)``.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
    """
    c = centroids.astype(np.float64)
    mean = np.zeros(x.shape[1])
    if metric == "euclidean":
        mean = x.mean(axis=0, dtype=np.float64)
        c = c - mean
        bias = -0.5 * np.einsum("kd,kd->k", c, c)
        spread = float(x.var(axis=0, dtype=np.float64).sum())
    else:
        bias = np.zeros(len(c))
        spread = 0.0
    sizes = np.linalg.norm(c, axis=1)
    worst = 0.0
    for begin in range(0, len(x), _CHUNK):
        rows = x[begin : begin + _CHUNK].astype(np.float64) - mean
        if metric == "cosine":
            rows = unit_rows(rows)
        chosen = labels[begin : begin + _CHUNK]
        scores = rows @ c.T + bias
        loss = scores.max(axis=1) - scores[np.arange(len(rows)), chosen]
        norm = np.linalg.norm(rows, axis=1)
        size = (
            norm**2 + sizes[chosen] ** 2 + spread if metric == "euclidean" else norm * sizes.max()
        )
        worst = max(worst, float((loss / np.where(size > 0, size, 1)).max()))
    return worst


def inertia(x: Array, labels: Array, centroids: Array, metric: str = "euclidean") -> float:
    """Return the summed cost of all points ``(N, D)``, in float64."""
    c = centroids.astype(np.float64)
    total = 0.0
    for begin in range(0, len(x), _CHUNK):
        rows = x[begin : begin + _CHUNK].astype(np.float64)
        chosen = c[labels[begin : begin + _CHUNK]]
        if metric == "euclidean":
            difference = rows - chosen
            total += float(np.einsum("nd,nd->", difference, difference))
        elif metric == "cosine":
            total += len(rows) - float(np.einsum("nd,nd->", unit_rows(rows), chosen))
        else:
            total -= float(np.einsum("nd,nd->", rows, chosen))
    return total


def spread(x: Array, metric: str = "euclidean") -> float:
    """Return the scale of an inertia of ``(B, N, D)``, for judging its absolute error."""
    if metric == "cosine":
        return float(x.shape[0] * x.shape[1])
    if metric == "dot":
        return float(np.linalg.norm(x, axis=-1).sum(dtype=np.float64))
    return float(sum(element.var(axis=0, dtype=np.float64).sum() * len(element) for element in x))


def judge(
    x: Array,
    labels: Array,
    centroids: Array,
    reported: float | None = None,
    metric: str = "euclidean",
    dtype: str = "float32",
    sample: int = SAMPLE,
) -> Verdict:
    """Judge a result by itself.

    Args:
        x: Points ``(B, N, D)``.
        labels: ``(B, N)``.
        centroids: ``(B, K, D)``.
        reported: The inertia that the contestant reports, summed over the batch, or None.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
        dtype: Type in which the points were given.
        sample: Rows whose labels are judged, spread over the batch. The inertia is over all rows.
    """
    b, n, d = x.shape
    if labels.shape != (b, n) or centroids.ndim != 3 or centroids.shape[::2] != (b, d):
        return Verdict(f"shapes {labels.shape} and {centroids.shape} for x {x.shape}")
    if not np.isfinite(centroids).all():
        return Verdict("centroids are not finite")
    if labels.min() < 0 or labels.max() >= centroids.shape[1]:
        return Verdict("labels out of range")
    each = min(n, max(1, sample // b))
    rng = np.random.default_rng(0)
    regret = 0.0
    total = 0.0
    for points, chosen, c in zip(x, labels, centroids, strict=True):
        rows = slice(None) if each == n else np.sort(rng.choice(n, each, replace=False))
        regret = max(regret, label_regret(points[rows], chosen[rows], c, metric))
        total += inertia(points, chosen, c, metric)
    verdict = Verdict(regret=regret, tolerance=tolerance(dtype, d), inertia=total, rows=b * each)
    if regret > verdict.tolerance:
        return replace(verdict, reason=f"label regret {regret:.1e} > {verdict.tolerance:.1e}")
    if reported is not None:
        error = abs(reported - total)
        if error > _REPORTED_LIMIT * abs(total) + verdict.tolerance * spread(x, metric):
            return replace(verdict, reason=f"reports inertia {reported:.6g}, has {total:.6g}")
    return verdict


def compare(verdict: Verdict, best: float, limit: float = INERTIA_LIMIT) -> Verdict:
    """Fail a result whose inertia exceeds the best one by more than ``limit``.

    Float32 implementations differ at ties and at empty clusters, so a small excess is no error.
    """
    excess = (verdict.inertia - best) / max(abs(best), float(np.finfo(np.float64).tiny))
    if verdict.ok and excess > limit:
        return replace(verdict, reason=f"inertia {excess:+.1%} of the best from this start")
    return verdict


def judge_neighbours(
    x: Array, queries: Array, indices: Array, distances: Array, metric: str, k: int
) -> Verdict:
    """Judge a search: it returns the nearest points in order, and their distances.

    Args:
        x: Points ``(1, N, D)``.
        queries: ``(1, Q, D)``, of which 1000 are judged.
        indices: ``(1, Q, k)``.
        distances: ``(1, Q, k)``: squared, ``1 - cos``, or for ``"dot"`` the product.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
        k: Number of neighbours.
    """
    shape = (1, queries.shape[1], k)
    if indices.shape != shape or distances.shape != shape:
        return Verdict(
            f"shapes {indices.shape} and {distances.shape} for {queries.shape[1]} queries and k={k}"
        )
    if indices.min() < 0 or indices.max() >= x.shape[1]:
        return Verdict("indices out of range")
    if (np.sort(indices, axis=-1)[..., 1:] == np.sort(indices, axis=-1)[..., :-1]).any():
        return Verdict("a point twice among the neighbours of a query")
    limit = tolerance("float32", x.shape[2])
    judged = np.random.default_rng(0).permutation(queries.shape[1])[:1000]
    regret = 0.0
    error = 0.0
    total = 0.0
    points = x[0].astype(np.float64)
    mean = points.mean(axis=0) if metric == "euclidean" else 0.0
    points = unit_rows(points) if metric == "cosine" else points - mean
    for part in np.array_split(judged, -(-len(judged) // 64)):
        rows = queries[0, part].astype(np.float64)
        rows = unit_rows(rows) if metric == "cosine" else rows - mean
        neighbours = points[indices[0, part]]
        cost = -(rows @ points.T)
        chosen = -np.einsum("qd,qkd->qk", rows, neighbours)
        size = np.ones((len(part), 1))
        if metric == "euclidean":
            cost = np.square(rows).sum(1)[:, None] + np.square(points).sum(1) + 2 * cost
            chosen = np.square(rows[:, None] - neighbours).sum(2)
            size = np.square(rows).sum(1)[:, None] + np.square(points).sum(1).mean()
        elif metric == "dot":
            size = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(points, axis=1).max()
        best = np.sort(np.partition(cost, k - 1, axis=1)[:, :k], axis=1)
        regret = max(regret, float(((chosen - best) / size).max()))
        reported = distances[0, part].astype(np.float64)
        reported = {"euclidean": reported, "cosine": reported - 1, "dot": -reported}[metric]
        error = max(error, float((np.abs(reported - chosen) / size).max()))
        total += float((chosen + 1.0 if metric == "cosine" else chosen).sum())
    verdict = Verdict(regret=regret, tolerance=limit, inertia=total, rows=len(judged))
    if regret > limit:
        return replace(verdict, reason=f"regret of a neighbour {regret:.1e} > {limit:.1e}")
    if error > limit:
        return replace(verdict, reason=f"a distance is off by {error:.1e} > {limit:.1e}")
    return verdict


def judge_seeds(x: Array, centroids: Array) -> Verdict:
    """Judge seeds ``(B, K, D)``: each must be a point of its problem ``(N, D)``.

    The verdict's inertia is the summed squared distance of the points to their nearest seeds.
    """
    total = 0.0
    for points, seeds in zip(x, centroids, strict=True):
        rows = {row.tobytes() for row in points + 0.0}  # -0.0 + 0.0 is 0.0
        wrong = sum(row.tobytes() not in rows for row in seeds.astype(points.dtype) + 0.0)
        if wrong:
            return Verdict(f"{wrong} of {len(seeds)} seeds are not points of the data")
        total += nearest_inertia(points, seeds)
    return Verdict(inertia=total, rows=x.shape[0] * x.shape[1])


def nearest_inertia(x: Array, centroids: Array) -> float:
    """Return the summed squared distance of points to the nearest of the centroids, in float64."""
    mean = x.mean(axis=0, dtype=np.float64)
    c = centroids.astype(np.float64) - mean
    squares = np.einsum("kd,kd->k", c, c)
    total = 0.0
    for begin in range(0, len(x), _CHUNK):
        rows = x[begin : begin + _CHUNK].astype(np.float64) - mean
        best = (squares - 2 * rows @ c.T).min(axis=1)
        total += float(np.maximum(best + np.einsum("nd,nd->n", rows, rows), 0).sum())
    return total
