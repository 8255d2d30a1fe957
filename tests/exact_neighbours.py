"""An oracle of neighbours in extended precision, and data on which searches in float32 go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from helpers import to_float64, tolerance
from scipy.spatial.distance import cdist

from flash_kmeans_mlx.metrics import PROXIMITIES

Array = npt.NDArray[Any]

METRICS = tuple(PROXIMITIES)
DTYPES = ("float32", "float64", "float16", "mlx-float32", "mlx-bfloat16")
SCIPY: dict[str, Any] = {"euclidean": "sqeuclidean", "l1": "cityblock", "linf": "chebyshev"}
JUDGED = 40  # queries of a search, at most


def _blobs(x: Array, size: float, rng: np.random.Generator) -> Array:
    centres = rng.uniform(1, 100) * rng.standard_normal((1 + int(rng.integers(6)), x.shape[1]))
    return centres[rng.integers(len(centres), size=len(x))] + 1e-6 * size * x


def _zeros(x: Array, size: float, rng: np.random.Generator) -> Array:
    return np.where(rng.random((len(x), 1)) < 0.3, 0.0, x)


def _spike(x: Array, size: float, rng: np.random.Generator) -> Array:
    x[len(x) // 3 + 1 :: max(2, len(x) // 2)] *= 1e20
    return x


def _low_rank(x: Array, size: float, rng: np.random.Generator) -> Array:
    return x[:, :2] @ rng.standard_normal((min(2, x.shape[1]), x.shape[1])) + 1e-3 * x


# From rows (N, D) of normal numbers, a power of ten between 1e-6 and 100, and a generator.
KINDS: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "gaussian": lambda x, size, rng: x,
    "blobs": _blobs,
    "offset": lambda x, size, rng: 300 + x,
    "far": lambda x, size, rng: 1e6 + x,
    "low rank": _low_rank,
    "grid": lambda x, size, rng: rng.integers(-3, 4, x.shape) * 1.0,
    "binary": lambda x, size, rng: rng.integers(0, 2, x.shape) * 1.0,
    "heavy": lambda x, size, rng: x**3 / rng.standard_normal((len(x), 1)) ** 3,
    "parallel": lambda x, size, rng: (
        (rng.standard_normal(x.shape[1]) + 0.01 * size * x) * rng.uniform(0.1, 10, (len(x), 1))
    ),
    "duplicates": lambda x, size, rng: x[rng.integers(max(1, len(x) // 20), size=len(x))],
    "tiny": lambda x, size, rng: 1e-30 * x,
    "denormal": lambda x, size, rng: 1e-41 * x,
    "huge": lambda x, size, rng: 1e30 * x,
    "mixed": lambda x, size, rng: x * 10.0 ** rng.uniform(-30, 30, (len(x), 1)),
    "zeros": _zeros,
    "spike": _spike,
    "beyond": lambda x, size, rng: 1e4 + 1e-5 * size * x,
}


def make(kind: str, n: int, d: int, rng: np.random.Generator) -> Array:
    """Return (N, D) float64 rows of a kind."""
    return KINDS[kind](rng.standard_normal((n, d)), 10.0 ** rng.integers(-6, 3), rng)


def cast(x: Array, dtype: str) -> Any:
    """Return x as a caller would pass it; made smaller where float16 would overflow."""
    largest = np.abs(x).max()
    if dtype == "float16" and largest > 6e4:
        x = x * (6e4 / largest)
    if dtype.startswith("mlx"):
        return mx.array(np.clip(x, -3e38, 3e38).astype(np.float32)).astype(getattr(mx, dtype[4:]))
    return np.clip(x, -3e38, 3e38).astype(dtype)


def distances(queries: Array, data: Array, metric: str) -> tuple[Array, Array]:
    """Return (Q, N) distances from queries (Q, D) to data (N, D), the smaller the nearer, and their errors in float64."""
    d = data.shape[1]
    out, slack = (np.empty((len(queries), len(data)), np.longdouble) for _ in range(2))
    eps = 2.0**-52 * (d + 8)
    q, x = queries.astype(np.longdouble), data.astype(np.longdouble)
    if metric == "cosine":
        q, x = _unit(q), _unit(x)
    zero = ~x.any(1)
    for i in range(len(q)):
        if metric == "dot":
            product = q[i] * x
            out[i], slack[i] = -product.sum(1), eps * np.abs(product).sum(1)
            continue
        gap = np.abs(q[i] - x)
        if metric == "linf":
            out[i] = gap.max(1)
        elif metric == "l1":
            out[i] = gap.sum(1)
        else:
            out[i] = np.square(gap).sum(1)
        slack[i] = eps * out[i]
        if metric == "cosine":
            out[i] = np.where(zero | ~q[i].any(), 1, out[i] / 2)
            slack[i] = np.where(
                out[i] < 1.01 * 2.0**-20, 2 * eps * np.sqrt(2 * out[i]) + eps**2, 2 * eps
            )
    return out, slack + 1e-300


def _unit(x: Array) -> Array:
    largest = np.abs(x).max(1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)
    norm = np.sqrt(np.square(x).sum(1, keepdims=True))
    return x / np.where(norm > 0, norm, 1)


def judge(
    queries: Any,
    data: Any,
    k: int,
    metric: str,
    found: tuple[Any, Any],
    banned: Array | None = None,
    ids: Array | None = None,
) -> None:
    """Assert that `found` are the k nearest rows (N, D) of queries (Q, D), up to the rounding of float64.

    Equal rows must come in order and be the first of their kind; small whole numbers leave no room for rounding.

    Args:
        queries: (Q, D) of the search.
        data: (N, D) of the search.
        k: Of the search.
        metric: Of the search.
        found: Distances and indices (Q, k).
        banned: (Q,) The row that a query must not get.
        ids: (N,) Names of the rows, ascending; found are names then.
    """
    q, x = to_float64(queries), to_float64(data)
    reported, index = np.array(found[0], np.longdouble), np.array(found[1])
    assert (
        np.array(found[0]).dtype == np.float32
        and index.dtype == np.int64
        and reported.shape == index.shape == (len(q), k)
    )
    index = index if ids is None else np.searchsorted(ids, index)
    assert index.min() >= 0 and index.max() < len(x)
    which = np.unique(np.linspace(0, len(q) - 1, JUDGED).astype(int))
    every, slack = distances(q[which], x, metric)
    if banned is not None:
        assert not (index == banned[:, None]).any(), "a query got itself"
        every[np.arange(len(which)), banned[which]] = np.inf
    whole = (
        metric != "cosine"
        and bool((x == np.rint(x)).all() and (q == np.rint(q)).all())
        and np.abs(x).max() < 1e6
    )
    group = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    for i, query in enumerate(which):
        mine = index[query]
        assert len(set(mine.tolist())) == k, f"query {query} got a row twice"
        order = np.argsort(every[i], kind="stable")[:k]
        if whole:
            np.testing.assert_array_equal(mine, order, f"query {query}")
        own, best = every[i, mine], every[i, order]
        room = slack[i, mine].max() + slack[i, order].max()
        worse = own - best
        assert (worse <= room).all(), (
            f"query {query}: worse than the nearest by {worse.max()}, float64 explains {room}"
        )
        for one in np.unique(group[mine]).tolist():
            kept = mine[group[mine] == one]
            same = np.flatnonzero(group == one)
            same = same if banned is None else same[same != banned[query]]
            np.testing.assert_array_equal(kept, same[: len(kept)], f"query {query}: equal rows")
        value = -reported[query] if metric == "dot" else reported[query]
        assert (value[1:] >= value[:-1]).all(), f"query {query}: not sorted"
        huge = np.abs(own) > np.finfo(np.float32).max * 0.999999
        off = np.abs(np.where(huge, 0, value) - np.where(huge, 0, own))
        assert (
            off <= 2.0**-23 * np.where(huge, 1, np.abs(own)) + 2 * slack[i, mine] + 2.0**-149
        ).all(), f"query {query}: {off}"


def truth(queries: Array, data: Array, metric: str) -> Array:
    """Return (Q, N) float64 distances, the smaller the nearer."""
    if metric == "dot":
        return -(queries @ data.T)
    if metric != "cosine":
        return cdist(queries, data, SCIPY[metric])
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(data, axis=1)
    return 1.0 - np.divide(queries @ data.T, norms, out=np.zeros_like(norms), where=norms > 0)


def check(
    queries: Any,
    data: Any,
    k: int,
    metric: str,
    found: tuple[Any, Any],
    banned: Array | None = None,
    every: Array | None = None,
) -> None:
    """The k nearest up to rounding of the float32 search, sorted, with distances rounded to float32.

    `banned` are rows that each query may not get, `every` the true distances if they are known.
    """
    if len(queries.shape) == 3:
        for b in range(queries.shape[0]):
            check(queries[b], data[b], k, metric, (found[0][b], found[1][b]))
        return
    q, x = (
        np.array(a.astype(mx.float32) if isinstance(a, mx.array) else a, np.float64)
        for a in (queries, data)
    )
    distances, indices = np.array(found[0], np.float64), np.array(found[1])
    assert np.asarray(found[0]).dtype == np.float32 and indices.dtype == np.int64
    assert distances.shape == indices.shape == (len(q), k)
    assert indices.min() >= 0 and indices.max() < len(x)
    assert all(len(set(row)) == k for row in indices.tolist())
    if every is None:
        every = truth(q, x, metric)
    if banned is not None:
        assert not (indices == banned[:, None]).any()
        every[np.arange(len(q)), banned] = np.inf
    own = np.take_along_axis(every, indices, 1)
    best = np.sort(every, axis=1)[:, :k]
    size = {
        "cosine": 1.0,
        "dot": np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1).max(),
    }.get(metric, best)
    assert (own - best <= tolerance(q.shape[1]) * size + 1e-300).all()
    reported = -distances if metric == "dot" else distances
    assert (np.diff(reported, axis=1) >= 0).all()
    np.testing.assert_allclose(
        reported, own, rtol=1e-6, atol=1e-13 * np.abs(every[np.isfinite(every)]).max()
    )


def points(n: int, d: int, seed: int = 0, b: int = 0) -> Array:
    return (
        np.random.default_rng([seed, n, d])
        .standard_normal((b, n, d) if b else (n, d))
        .astype(np.float32)
    )
