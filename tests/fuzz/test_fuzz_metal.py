"""A differential test of k-means on backend "metal": random fits, judged in float64.

Fits by bounds, by several launches and by a sort of two digits must have the bits of the plain fit. A
kernel that no problem launches fails the test.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import helpers
import mlx.core as mx
import numpy as np
import pytest
from engine import attack, random_numbers
from helpers import FITS, METRICS, bits
from hypothesis import strategies as st
from metal.emulator import emulation

from flash_kmeans_mlx import EmptyClusterWarning
from flash_kmeans_mlx.backends.metal import launch, sums_launch
from flash_kmeans_mlx.backends.metal.sources import DEFINITIONS
from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES

pytestmark = pytest.mark.usefixtures("metal")
KINDS = ("gaussian", "blobs", "offset", "grid", "duplicates")
OF_SEARCHES = {"top_rows", "top_of_rows"}


class Problem(NamedTuple):
    """One fit; everything else follows from it."""

    metric: str
    b: int
    n: int
    d: int
    k: int
    kind: str
    dtype: str
    empty: str
    weighted: bool
    max_iters: int
    tol: float
    seed: int

    def points(self) -> mx.array:
        rng = np.random.default_rng(self.seed)
        x = rng.standard_normal((self.b, self.n, self.d))
        if self.kind == "blobs":
            x += 6 * rng.standard_normal((self.b, 9, self.d))[:, rng.integers(9, size=self.n)]
        elif self.kind == "offset":
            x += 30 * rng.standard_normal(self.d)
        elif self.kind == "grid":
            x = np.rint(x)
        elif self.kind == "duplicates":
            x = x[:, rng.integers(max(1, self.n // 9), size=self.n)]
        return mx.array(x.astype(np.float32)).astype(getattr(mx, self.dtype))

    def weights(self) -> np.ndarray | None:
        rng = np.random.default_rng([self.seed, 1])
        weights = rng.integers(0, 4, (self.b, self.n)) * 0.75
        weights[:, 0] = 1
        return weights if self.weighted else None

    def fit(self, x: mx.array, weights: np.ndarray | None, strategy: str | None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyClusterWarning)
            return FITS[self.metric](
                x,
                self.k,
                self.max_iters,
                self.tol,
                sample_weight=weights,
                empty=self.empty,
                seed=self.seed % 97,
                strategy=strategy,
                backend="metal",
            )

    def check(self, seen: set[str]) -> None:
        """Judge the fit and compare bits; the kernels that were launched are added to `seen`."""
        x, weights = self.points(), self.weights()
        exact = helpers.to_float64(x)
        with emulation() as run:
            fused = self.fit(x, weights, "fused")
            for result in (fused, self.fit(x, weights, "addmm")):
                labels, c = np.array(result.labels), np.array(result.centroids)
                helpers.assert_labels_optimal(exact, c, labels, self.metric)
                size = helpers.inertia_scale(exact, c, labels, self.metric, weights)
                expected = helpers.inertia(exact, c, labels, self.metric, weights)
                error = np.abs(result.inertia - expected)
                assert (error <= helpers.tolerance(self.d) * size).all()
            self.compare("groups", fused, self.fit(x, weights, "groups"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(launch, "MAX_PRODUCTS", 1)
                self.compare("launches", fused, self.fit(x, weights, "fused"))
                self.compare("both", fused, self.fit(x, weights, "groups"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sums_launch, "TABLE", 256)
                self.compare("digits", fused, self.fit(x, weights, "fused"))
        seen |= {launched.name.removeprefix("flash_kmeans_") for launched in run.launches}

    @staticmethod
    def compare(name: str, expected: Any, result: Any) -> None:
        ours, theirs = bits(result), bits(expected)
        differ = [field for field in theirs if ours[field] != theirs[field]]
        assert not differ, f"{differ} differ with {name}"


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n = draw(st.one_of(st.integers(1, 80), st.integers(81, 700)))
    return Problem(
        metric=draw(st.sampled_from(METRICS)),
        b=draw(st.sampled_from([1, 1, 2, 3])),
        n=n,
        d=draw(st.sampled_from([1, 3, 9, 17, 33, 64, 130])),
        k=draw(st.one_of(st.integers(1, min(n, 64)), st.integers(1, min(n, 300)))),
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(["float32", "float32", "float16", "bfloat16"])),
        empty=draw(st.sampled_from(POLICIES)),
        weighted=draw(st.booleans()),
        max_iters=draw(st.sampled_from([0, 1, 5, 12])),
        tol=draw(st.sampled_from([0.0, 1e-2])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def repeat(problem: Problem) -> str:
    """Return what checks a problem again."""
    return f"repeat: {problem!r}.check(set()) in a test with the fixture `metal`"


LARGE = Problem("euclidean", 2, 600, 17, 300, "blobs", "float32", "keep", True, 5, 0.0, 0)


def test_every_kernel() -> None:
    seen: set[str] = set()
    LARGE.check(seen)
    attack(problems(), lambda problem: problem.check(seen), 14, repeat)
    if not mx.metal.is_available():  # on a GPU nobody counts launches
        assert seen == set(DEFINITIONS) - OF_SEARCHES


def test_random_problems(fuzz_minutes: float) -> None:
    for number in random_numbers(fuzz_minutes):
        attack(problems(), lambda problem: problem.check(set()), 20, repeat, number)
