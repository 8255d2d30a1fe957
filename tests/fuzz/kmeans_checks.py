"""Judge a fit of the CPU backend in float64, and compare its bits with those of the same problem computed otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helpers
import in_process
import numpy as np
from helpers import FITS, bits
from kmeans_cases import WAYS, Case, options, points, start
from kmeans_regimes import Seen, prepared
from memory import stated_need

from flash_kmeans_mlx import EmptyClusterWarning, assign
from flash_kmeans_mlx.backends.draws import SEED_ROWS
from flash_kmeans_mlx.validation import to_numpy


def fit(case: Case, x: Any, given: dict[str, Any], seen: Seen | None = None, **changes: Any) -> Any:
    """Return the fit of a case, some of whose fields may be other ones, and add the regimes that it meets to `seen`."""
    metric, k, cap = case.metric, case.k, changes.get("cap", case.cap)
    first = start(case, x)
    chunk_rows, stop = changes.pop("chunk_rows", 0), changes.pop("stop", 0)
    by_shards = in_process.client(case.seed) if changes.pop("shards", False) else nullcontext({})
    rows = Chunks(to_numpy(x)[0], chunk_rows) if chunk_rows else x

    def call(max_mem_gb: float) -> Any:
        options = {"strategy": strategy, "max_mem_gb": max_mem_gb, "backend": "cpu", **given}
        if stop:
            return resumed(
                lambda **more: FITS[metric](rows, k, init=first, **options, **more), stop
            )
        return FITS[metric](rows, k, init=first, **options)

    with prepared(case, seen, **changes) as strategy, by_shards as more, warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        given = given | more
        result = call(cap * stated_need(call) if cap else 0.0)
    if seen is not None:
        seen.add(("strategy", result.strategy))
    return result


class Chunks:
    """An iterable of some rows at a time."""

    def __init__(self, x: np.ndarray, rows: int) -> None:
        self.x, self.rows = x, rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for lo in range(0, len(self.x), self.rows):
            yield self.x[lo : lo + self.rows]


def resumed(call: Callable[..., Any], stop: int) -> Any:
    """Return the fit of a call that is stopped by an error in iteration `stop`, and then resumed."""

    def callback(iteration: Any) -> None:
        if iteration.n_iter == stop:
            raise InterruptedError

    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        with suppress(InterruptedError):
            call(checkpoint=path, callback=callback)
        return call(checkpoint=path, resume=True)


def check(case: Case, seen: Seen | None = None) -> None:
    """Fit, judge, and compare bits with other threads, caps, ways and batches."""
    x = points(case)
    given = options(case)
    result = fit(case, x, given, seen)
    with prepared(case):
        judge(case, x, result, given["sample_weight"])
    for changes in other_ways(case):
        again = bits(fit(case, x, given, seen if "chunk_rows" in changes else None, **changes))
        differ = [name for name, value in bits(result).items() if again[name] != value]
        assert not differ, f"{differ} differ with {changes or 'the same call'}"
    if case.b > 1:
        check_element(case, x, given, result)


def other_ways(case: Case) -> list[dict[str, Any]]:
    """Return changes that must not change a bit.

    None, the cap, one or two ways of assigning, and other threads in a fit that is stopped and resumed, or of points
    that are read in each pass.
    """
    pick = np.random.default_rng([case.seed, 2])
    stopped: dict[str, Any] = {"stop": int(pick.integers(1, 5))}
    samples = (
        case.init == "k-means++" and case.n > SEED_ROWS * case.k
    )  # a stream's seeds are others
    if case.b == 1 and not samples and pick.random() < 0.7:
        stopped = {"chunk_rows": int(pick.integers(1, case.n + 1))}
        if not case.cap:  # which holds for each shard
            stopped["shards"] = bool(pick.random() < 0.3)
    ways = [{"way": w} for w in WAYS if w != case.way] + [{"way": "tiles"}]
    some = pick.choice(np.array(ways, object), 2 if case.smaller else 1, replace=False)
    cap = {"cap": 0.0 if case.cap else 1.0}
    return [{}, cap, {"threads": int(pick.integers(1, 5)), **stopped}, *some]


def check_element(case: Case, x: Any, given: dict[str, Any], result: Any) -> None:
    """Assert that the fit of one batch element alone has the bits that it has in the batch."""
    b = int(np.random.default_rng([case.seed, 3]).integers(case.b))
    first = start(case, x)
    weights = given["sample_weight"]
    own = {**given, "sample_weight": None if weights is None else weights[b]}
    own["init"] = first if isinstance(first, str) else first[b]
    with prepared(case) as strategy, warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        alone = FITS[case.metric](x[b], case.k, strategy=strategy, backend="cpu", **own)
    labels = np.asarray(result.labels)[b]
    assert np.array_equal(np.asarray(alone.labels), labels), "a stack is not the fits of the stack"
    assert np.array_equal(np.asarray(alone.centroids), np.asarray(result.centroids)[b])


def judge(case: Case, x: Any, result: Any, weights: Any) -> None:
    """Assert in float64 that labels, centroids and inertia are right.

    Labels are the nearest centroids, centroids the means of their labels, and the inertia is theirs.
    """
    exact = helpers.to_float64(x)
    labels, c = np.array(result.labels), np.array(result.centroids)
    helpers.assert_labels_optimal(exact, c, labels, case.metric)
    if case.metric != "euclidean" and case.kind == "parallel":
        for b in range(case.b):
            excess = helpers.parallel_regret(exact[b], c[b], labels[b], case.metric)
            limit = helpers.parallel_limit(exact[b])
            assert (excess <= limit).all(), (
                f"labels miss the best by {excess.max():.2e} > {limit:.2e} of the spread"
            )
    size = helpers.inertia_scale(exact, c, labels, case.metric, weights)
    limit = helpers.tolerance(case.d) * size
    error = np.abs(result.inertia - helpers.inertia(exact, c, labels, case.metric, weights))
    assert (error <= limit).all(), f"inertia {result.inertia} off by {error} > {limit}"
    for b in np.flatnonzero(np.atleast_1d(result.converged)) if case.tol == 0 else ():
        w = None if weights is None else weights[b]
        helpers.assert_centroids_optimal(exact[b], c[b], labels[b], case.metric, w)
    again = assign(x, c, case.metric, backend="cpu")
    assert np.array_equal(again, result.labels), "assign differs from the fit"
