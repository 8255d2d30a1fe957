"""A differential test of k-means: random problems on every way through the CPU backend, judged in float64 and bit by bit.

Sizes at which the backend changes its way are made small, so that every way is taken by problems of a few milliseconds; some
problems of real size follow. A way that no problem took fails the test, and so does a new field of the plan without a row in
`REGIMES`. One failure prints the line that repeats it; `--fuzz-minutes` goes on with random problems.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from flash_kmeans_mlx import EmptyClusterWarning, assign
from flash_kmeans_mlx.backends.cpu import looped, seeds, tuner
from flash_kmeans_mlx.backends.cpu.plan import Plan
from flash_kmeans_mlx.backends.cpu.points import CpuPoints
from flash_kmeans_mlx.backends.cpu.tuner import PruningTuner
from flash_kmeans_mlx.backends.points import Problem

PLAN = importlib.import_module("flash_kmeans_mlx.backends.cpu.plan")
SMALLER: list[
    tuple[Any, str, Any]
] = [  # where the backend changes its way, and from where in this test
    (PLAN, "SMALL", 60_000),
    (PLAN, "LOOPED", 2_000_000),
    (PLAN, "SHARD_ROWS", 600),
    (PLAN, "TILE_VALUES", 1 << 12),
    (PLAN, "RESIDENT_BYTES", 300_000),
    (PLAN, "LOOPED_BYTES", 200_000),
    (PLAN, "FLIGHT_BYTES", 20_000),
    (tuner, "RESIDENT_BYTES", 100_000),
    (tuner, "COPIED_BYTES", 50_000),
    (tuner, "MIN_POINT_PASSES", 0),
    (tuner, "MIN_PRODUCTS", 0),
    (tuner, "MIN_GROUPED", 8),
    (tuner, "MIN_POINTS", 1100),
    (tuner, "RUN", 16),
    (tuner, "WIDTHS", (15, 7, 3)),
    (looped, "ALONE", 100_000),
    (looped, "CALL", 1_000_000),
    (seeds, "ALONE", 20_000),
    (seeds, "CALL", 500_000),
]
WAYS = (
    "tiles",
    "head",
    "groups",
    "15",
    "7",
    "3",
    "later",
    "dropped",
)  # the last five: what "auto" is made to choose
DIMENSIONS = {
    512: (1, 8),
    256: (9, 16),
    128: (17, 32),
    64: (33, 70),
}  # tile: D, with a TILE_VALUES of 1 << 12
KINDS = (
    "gaussian",
    "blobs",
    "offset",
    "low rank",
    "grid",
    "heavy tails",
    "parallel",
    "duplicates",
    "tiny",
    "huge",
)
DTYPES = ("float32", "float64", "float16", "mlx", "bfloat16", "strided")
REGIMES = {  # what a problem can meet, by the field of the plan or by what was seen of the fit; all of it must be met
    "looped": {True, False},
    "team": {True, False},
    "resident": {True, False},
    "tile": set(DIMENSIONS),
    "shards": {"one", "some", "most"},
    "flight": {"all shards", "some shards"},
    "threads": {"one", "more"},
    "spare": {"enough", "short"},
    "strategy": {
        "loop",
        "tiles",
        "groups",
        "head 3",
        "head 3, groups",
        "head 7, groups",
        "head 15, groups",
    },
    "seeding": {(team, kind) for team in (False, True) for kind in ("rows", "columns", "head")},
    "read": {"in place", "converted"},
    "frame": {"as given", "shifted", "scaled", "centred"},
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem; everything else follows from it."""

    metric: str
    b: int
    n: int
    d: int
    k: int
    kind: str
    dtype: str
    way: str
    init: str
    empty: str
    weighted: bool
    n_init: int
    max_iters: int
    tol: float
    threads: int
    cap: float  # times the least that is accepted; 0 for none
    smaller: bool
    seed: int


def points(case: Case) -> Any:
    """(B, N, D) of the kind and dtype."""
    rng = np.random.default_rng(case.seed)
    b, n, d, groups = case.b, case.n, case.d, max(1, case.k // 2)
    x = rng.standard_normal((b, n, d))
    shapes: dict[str, Callable[[], np.ndarray]] = {
        "blobs": lambda: (
            x + 6 * rng.standard_normal((b, groups, d))[:, rng.integers(groups, size=n)]
        ),
        "offset": lambda: x + 10.0 ** rng.uniform(0, 3) * rng.standard_normal(d),
        "low rank": lambda: x[:, :, :3] @ rng.standard_normal((min(d, 3), d)) + 1e-3 * x,
        "grid": lambda: np.rint(x),
        "heavy tails": lambda: np.clip(x * np.exp(3 * rng.standard_normal((b, n, 1))), -1e4, 1e4),
        "parallel": lambda: rng.standard_normal(d) + 10.0 ** rng.uniform(-3, -1) * x,
        "duplicates": lambda: x[:, rng.integers(max(1, n // 9), size=n)],
        "tiny": lambda: 1e-33 * x,
        "huge": lambda: 1e17 * x,
    }
    x = shapes[case.kind]() if case.kind in shapes else x
    if case.dtype in ("float16", "bfloat16"):
        x = x / np.abs(x).max()
    if case.dtype in ("float16", "float64"):
        return x.astype(case.dtype)
    x = x.astype(np.float32)
    if case.dtype == "strided":
        return np.concatenate([x, x], axis=2)[:, ::1, :d]
    if case.dtype == "float32":
        return x
    return mx.array(x).astype(mx.bfloat16) if case.dtype == "bfloat16" else mx.array(x)


def options(case: Case) -> dict[str, Any]:
    rng = np.random.default_rng([case.seed, 1])
    weights = rng.integers(0, 4, (case.b, case.n)) * rng.random() if case.weighted else None
    if weights is not None:
        weights[:, 0] = 1
    return {
        "max_iters": case.max_iters,
        "tol": case.tol,
        "seed": case.seed % 97,
        "empty": case.empty,
        "n_init": case.n_init,
        "sample_weight": weights,
    }


def start(case: Case, x: Any) -> Any:
    """What `init` is: a name, or rows some of which are far from all points."""
    if case.init != "far":
        return case.init
    rows = helpers.to_float64(x)[:, : case.k].astype(np.float32)
    return rows * np.where(np.arange(case.k) % 3 == 1, np.float32(50), np.float32(1))[:, None]


@contextmanager
def prepared(
    case: Case, seen: dict[str, set[Any]] | None = None, **changes: Any
) -> Iterator[str | None]:
    """The backend as the case wants it, giving the name to pass as `strategy`; what is met is added to `seen`."""
    case = dataclasses.replace(case, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_KMEANS_THREADS", str(case.threads))
        for module, name, value in SMALLER if case.smaller else ():
            patch.setattr(module, name, value)
        if case.way not in ("tiles", "head", "groups"):
            patch.setattr(PLAN, "plan", without_loop)
        if case.way.isdecimal():
            patch.setattr(PruningTuner, "_fastest", lambda self, *_: chosen(self, int(case.way)))
        elif case.way in ("later", "dropped"):
            patch.setattr(PruningTuner, "_fastest", lambda *_: None)
            patch.setattr(PruningTuner, "_groups_pay", lambda *_: True)
            patch.setattr(tuner, "STOP_SHARE", -1.0 if case.way == "dropped" else 2.0)
        if seen is not None:
            watch(patch, seen)
        yield (
            case.way if case.way in ("head", "groups") else "tiles" if case.way == "tiles" else None
        )


def without_loop(problem: Problem, threads: int, make_plan: Any = PLAN.plan) -> Plan:
    """A plan as for bounds: no loop in a kernel."""
    return make_plan(dataclasses.replace(problem, strategy="groups"), threads)


def chosen(self: PruningTuner, width: int) -> np.ndarray | None:
    """Directions, as if `width` of them had been found fastest."""
    width = min(width, self.points.shape[2] - 1, self.points.shape[1])
    return self._directions(width) if width > 0 and self._fits(width) else None


def watch(patch: pytest.MonkeyPatch, seen: dict[str, set[Any]]) -> None:
    """Have the backend add to `seen` what it does."""
    make_plan, begin, make_run, run = (
        PLAN.plan,
        CpuPoints.__enter__,
        seeds._Run.__init__,
        seeds._Run.__call__,
    )

    def plan(problem: Problem, threads: int) -> Plan:
        found = make_plan(problem, threads)
        full = problem.x.shape[0] * found.shards
        short = {"shards": "one" if found.shards == 1 else "most" if found.shards >= 4 else "some"}
        short["flight"] = "all shards" if found.flight == full else "some shards"
        short["threads"] = "one" if found.threads == 1 else "more"
        short["spare"] = "enough" if found.spare > 1 << 30 else "short"
        for field in dataclasses.fields(found):
            seen[field.name].add(short.get(field.name, getattr(found, field.name)))
        return found

    def enter(self: CpuPoints) -> CpuPoints:
        result = begin(self)
        for b, frame in ((b, self.frame) for b in range(self.shape[0])):
            seen["read"].add("in place" if self.sources.direct[b] else "converted")
            same = frame.identity[b]
            if frame.centre[b].any():
                seen["frame"].add("centred")
            seen["frame"].add(
                "as given" if same else "shifted" if frame.shift[b].any() else "scaled"
            )
        return result

    def make(self: Any, points: Any, b: int, square: Any, features: Any) -> None:
        make_run(self, points, b, square, features)
        self.kind = "rows" if features is None else "head" if features.basis.shape[1] else "columns"

    def call(self: Any, team: Any, *rest: Any) -> None:
        seen["seeding"].add((team.size > 1, self.kind))
        run(self, team, *rest)

    patch.setattr(PLAN, "plan", plan)
    patch.setattr(CpuPoints, "__enter__", enter)
    patch.setattr(seeds._Run, "__init__", make)
    patch.setattr(seeds._Run, "__call__", call)


def least(call: Callable[[float], Any]) -> float:
    """The smallest cap that is accepted, in GB."""
    with pytest.raises(ValueError, match="max_mem_gb=1e-09 must be >= ") as caught:
        call(1e-9)
    return float(str(caught.value).split(">= ")[1].split(" ")[0])


def bits(result: Any) -> dict[str, bytes]:
    fields = ("labels", "centroids", "inertia", "n_iter_per_batch", "converged")
    return {name: np.asarray(getattr(result, name)).tobytes() for name in fields}


def judge(case: Case, x: Any, result: Any, weights: Any) -> None:
    """Labels are the nearest centroids, centroids the means of their labels, and the inertia is theirs, all in float64."""
    exact, labels, c = helpers.to_float64(x), np.array(result.labels), np.array(result.centroids)
    helpers.assert_labels_optimal(exact, c, labels, case.metric)
    if case.metric != "euclidean" and case.kind == "parallel":
        for b in range(case.b):
            lost, limit = (
                helpers.parallel_regret(exact[b], c[b], labels[b], case.metric),
                helpers.parallel_limit(exact[b]),
            )
            assert (lost <= limit).all(), (
                f"labels miss the best by {lost.max():.2e} > {limit:.2e} of the spread"
            )
    limit = helpers.tolerance(case.d) * helpers.inertia_scale(
        exact, c, labels, case.metric, weights
    )
    error = np.abs(result.inertia - helpers.inertia(exact, c, labels, case.metric, weights))
    assert (error <= limit).all(), f"inertia {result.inertia} off by {error} > {limit}"
    for b in np.flatnonzero(np.atleast_1d(result.converged)) if case.tol == 0 else ():
        w = None if weights is None else weights[b]
        helpers.assert_centroids_optimal(exact[b], c[b], labels[b], case.metric, w)
    assert np.array_equal(assign(x, c, case.metric, backend="cpu"), result.labels), (
        "assign differs from the fit"
    )


def check(case: Case, seen: dict[str, set[Any]] | None = None) -> None:
    """Fit, judge, and compare bits with other threads, caps, ways and batches."""
    x, given = points(case), options(case)

    def fit(seen: dict[str, set[Any]] | None = None, **changes: Any) -> Any:
        with prepared(case, seen, **changes) as strategy, warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyClusterWarning)
            call = lambda cap: FITS[case.metric](  # noqa: E731
                x,
                case.k,
                init=start(case, x),
                strategy=strategy,
                max_mem_gb=cap,
                backend="cpu",
                **given,
            )
            cap = changes.get("cap", case.cap)
            result = call(cap * least(call) if cap else 0.0)
        if seen is not None:
            seen["strategy"].add(result.strategy)
        return result

    result = fit(seen)
    with prepared(case):
        judge(case, x, result, given["sample_weight"])
    others: list[dict[str, Any]] = [{"way": w} for w in WAYS if w != case.way] + [{"way": "tiles"}]
    pick = np.random.default_rng([case.seed, 2])
    chosen = [{}, {"threads": int(pick.integers(1, 5))}, {"cap": 0.0 if case.cap else 1.0}]
    for changes in [
        *chosen,
        *pick.choice(np.array(others, object), 2 if case.smaller else 1, replace=False),
    ]:
        again = bits(fit(**changes))
        differ = [name for name, value in bits(result).items() if again[name] != value]
        assert not differ, f"{differ} differ with {changes or 'the same call'}"
    if case.b > 1:
        b = int(pick.integers(case.b))
        first = start(case, x)
        one = {
            **given,
            "sample_weight": None if given["sample_weight"] is None else given["sample_weight"][b],
        }
        with prepared(case) as strategy, warnings.catch_warnings():
            warnings.simplefilter("ignore", EmptyClusterWarning)
            alone = FITS[case.metric](
                x[b],
                case.k,
                init=first if isinstance(first, str) else first[b],
                strategy=strategy,
                backend="cpu",
                **one,
            )
        assert np.array_equal(np.asarray(alone.labels), np.asarray(result.labels)[b]), (
            "a stack is not the fits of the stack"
        )
        assert np.array_equal(np.asarray(alone.centroids), np.asarray(result.centroids)[b])


@st.composite
def small_cases(draw: st.DrawFn, metric: str) -> Case:
    way = draw(st.sampled_from(("tiles", "tiles", *WAYS)))
    heads = way.isdecimal()  # which small problems never choose
    d = draw(
        st.integers(*DIMENSIONS[draw(st.sampled_from([128, 64] if heads else list(DIMENSIONS)))])
    )
    sizes = st.sampled_from([1100, 1536, 2047, 2048, 4100])
    n = draw(sizes if heads else st.one_of(st.integers(1, 300), st.integers(301, 2600), sizes))
    k = draw(st.integers(1, min(n, 160)))
    b = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    return Case(
        metric,
        b,
        n,
        d,
        min(k, max(1, 6_000_000 // (b * n * d))),
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from(DTYPES)),
        way,
        draw(st.sampled_from(["random", "k-means++", "k-means++", "k-means||", "far"])),
        draw(st.sampled_from(["farthest", "split", "keep"])),
        draw(st.booleans()),
        draw(st.sampled_from([1, 1, 2])),
        draw(st.sampled_from([5, 12] if heads else [5, 0, 1, 12, 40])),
        draw(st.sampled_from([0.0, 0.0, 1e-3])),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([0.0, 0.0, 0.0, 1.0, 4.0])),
        True,
        draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def real_cases(draw: st.DrawFn, metric: str) -> Case:
    """Problems at the backend's own sizes: 1e6 to 2e8 products of a pass."""
    d = draw(st.one_of(st.integers(1, 40), st.integers(100, 350), st.sampled_from([512, 768])))
    n = draw(st.integers(600, max(700, min(12_000, 2_000_000 // d))))
    k = draw(st.integers(2, max(2, min(n, 400, 200_000_000 // (n * d)))))
    return dataclasses.replace(
        draw(small_cases(metric)),
        way=draw(st.sampled_from(WAYS[:3])),
        b=1,
        n=n,
        d=d,
        k=k,
        n_init=1,
        max_iters=draw(st.sampled_from([1, 3, 6])),
        smaller=False,
    )


def attack(
    cases: st.SearchStrategy[Case],
    examples: int,
    seen: dict[str, set[Any]] | None = None,
    number: int | None = None,
) -> None:
    """Check that many cases: always the same ones, or those of a random seed."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=number is None,
        database=None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(cases)
    def run(case: Case) -> None:
        note(
            f'repeat: python -m pytest tests/fuzz/test_fuzz_kmeans.py --fuzz-case "{dataclasses.astuple(case)}"'
        )
        check(case, seen)

    (run if number is None else seed(number)(run))()


SELDOM = (  # (B, N, D, K, threads, init) of regimes that random problems may miss
    (1, 1100, 50, 4, 4, "k-means++"),
    (1, 2047, 5, 9, 4, "k-means++"),
    (5, 700, 5, 9, 2, "k-means++"),
)


@pytest.mark.parametrize("metric", FITS)
def test_every_regime(metric: str, fuzz_case: str) -> None:
    if fuzz_case:
        check(Case(*ast.literal_eval(fuzz_case)))
        return
    assert {field.name for field in dataclasses.fields(Plan)} <= REGIMES.keys(), (
        "a field of the plan that no row is about"
    )
    seen: dict[str, set[Any]] = defaultdict(set)
    for (b, n, d, k, threads, init), (way, kind) in itertools.product(
        SELDOM, (("tiles", "tiny"), ("3", "blobs"))
    ):
        case = Case(
            metric,
            b,
            n,
            d,
            k,
            kind,
            "float32",
            way,
            init,
            "farthest",
            True,
            1,
            5,
            0.0,
            threads,
            0.0,
            True,
            0,
        )
        check(case, seen)
    attack(small_cases(metric), 150, seen)
    missed = {name: wanted - seen[name] for name, wanted in REGIMES.items() if wanted - seen[name]}
    if metric == "euclidean":
        missed.get("frame", set()).discard("centred")
    assert not any(missed.values()), f"no problem met {missed}"


@pytest.mark.parametrize("metric", FITS)
def test_real_sizes(metric: str) -> None:
    attack(real_cases(metric), 10)


def test_random_problems(fuzz_minutes: float) -> None:
    end = time.monotonic() + 60 * fuzz_minutes
    number = time.time_ns() % 2**32
    rng = np.random.default_rng(number)
    while time.monotonic() < end:
        metric = str(rng.choice(list(FITS)))
        number += 1
        attack(small_cases(metric), 50, number=number)
        attack(real_cases(metric), 5, number=number)
