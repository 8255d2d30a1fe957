"""Problems of k-means for the differential test: `Case` is one of them, its points follow from it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from typing import Any

import helpers
import mlx.core as mx
import numpy as np
from hypothesis import strategies as st

from flash_kmeans_mlx.kmeans.empty_clusters import POLICIES

NAMES = ("tiles", "int8", "head")  # strategies of the backend
LOOPS = ("loop", "dropped loop")  # in one kernel, by bytes: always, or until one does not decide
# And what its tuner is made to choose: a head of that width, bytes, either until it does not pay.
WAYS = (*NAMES, *LOOPS, "15", "7", "3", "bytes", "dropped", "dropped head")
# D by the tile that it leads to, with a TILE_VALUES of 1 << 12.
DIMENSIONS = {512: (1, 8), 256: (9, 16), 128: (17, 32), 64: (33, 70)}
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
    smaller: bool  # whether the backend's sizes are made small
    seed: int

    @classmethod
    def parsed(cls, text: str) -> Case:
        """Return a case from its fields, as `repeat` prints them."""
        return cls(*ast.literal_eval(text))

    def repeat(self) -> str:
        """Return the command that checks this case again."""
        fields = dataclasses.astuple(self)
        return f'repeat: python -m pytest tests/fuzz/test_fuzz_kmeans.py --fuzz-case "{fields}"'


def points(case: Case) -> Any:
    """Return (B, N, D) of the kind and dtype."""
    rng = np.random.default_rng(case.seed)
    b, n, d = case.b, case.n, case.d
    groups = max(1, case.k // 2)
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
        x = x / (np.abs(x).max() or 1)
    if case.dtype in ("float16", "float64"):
        return x.astype(case.dtype)
    x = x.astype(np.float32)
    if case.dtype == "strided":
        return np.concatenate([x, x], axis=2)[:, ::1, :d]
    if case.dtype == "float32":
        return x
    return mx.array(x).astype(mx.bfloat16) if case.dtype == "bfloat16" else mx.array(x)


def options(case: Case) -> dict[str, Any]:
    """Return the arguments of a fit besides points, start and backend."""
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
    """Return `init`: a name, or rows some of which are far from all points."""
    if case.init != "far":
        return case.init
    rows = helpers.to_float64(x)[:, : case.k].astype(np.float32)
    return rows * np.where(np.arange(case.k) % 3 == 1, np.float32(50), np.float32(1))[:, None]


@st.composite
def small_cases(draw: st.DrawFn, metric: str) -> Case:
    """Problems of a few milliseconds, which meet every regime once sizes are made small."""
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
        metric=metric,
        b=b,
        n=n,
        d=d,
        k=min(k, max(1, 6_000_000 // (b * n * d))),
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(DTYPES)),
        way=way,
        init=draw(st.sampled_from(["random", "k-means++", "k-means++", "k-means||", "far"])),
        empty=draw(st.sampled_from(POLICIES)),
        weighted=draw(st.booleans()),
        n_init=draw(st.sampled_from([1, 1, 2])),
        max_iters=draw(st.sampled_from([5, 12] if heads else [5, 0, 1, 12, 40])),
        tol=draw(st.sampled_from([0.0, 0.0, 1e-3])),
        threads=draw(st.integers(1, 4)),
        cap=draw(st.sampled_from([0.0, 0.0, 0.0, 1.0, 4.0])),
        smaller=True,
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@st.composite
def real_cases(draw: st.DrawFn, metric: str) -> Case:
    """Problems at the backend's own sizes: 1e6 to 2e8 products of a pass."""
    d = draw(st.one_of(st.integers(1, 40), st.integers(100, 350), st.sampled_from([512, 768])))
    n = draw(st.integers(600, max(700, min(12_000, 2_000_000 // d))))
    k = draw(st.integers(2, max(2, min(n, 400, 200_000_000 // (n * d)))))
    return dataclasses.replace(
        draw(small_cases(metric)),
        way=draw(st.sampled_from((*NAMES, *LOOPS, "bytes"))),
        b=1,
        n=n,
        d=d,
        k=k,
        n_init=1,
        max_iters=draw(st.sampled_from([1, 3, 6])),
        smaller=False,
    )


# B, N, D, K, threads, init of regimes that random problems may miss.
SELDOM = (
    (1, 1100, 50, 4, 4, "k-means++"),
    (1, 2047, 5, 9, 4, "k-means++"),
    (5, 700, 5, 9, 2, "k-means++"),
)
HEADS = (("head", 40), ("3", 40), ("7", 40), ("15", 40))  # way, K


def seldom_cases(metric: str) -> list[Case]:
    """Return problems that see to the regimes, whatever this version of Hypothesis draws."""
    plain = Case(
        metric=metric,
        b=1,
        n=4100,
        d=40,
        k=30,
        kind="blobs",
        dtype="float32",
        way="7",
        init="k-means++",
        empty="farthest",
        weighted=True,
        n_init=1,
        max_iters=5,
        tol=0.0,
        threads=2,
        cap=0.0,
        smaller=True,
        seed=0,
    )
    heads = [dataclasses.replace(plain, way=way, k=k) for way, k in HEADS]
    by_bytes = dataclasses.replace(plain, way="int8")
    loops = [
        dataclasses.replace(plain, b=b, n=1100, d=20, k=10, way=way, kind="gaussian")
        for b in (1, 3)  # by a team, and each thread by itself
        for way in LOOPS
    ]
    return [by_bytes, *heads, *loops] + [
        dataclasses.replace(
            plain, b=b, n=n, d=d, k=k, threads=threads, init=init, way=way, kind=kind
        )
        for b, n, d, k, threads, init in SELDOM
        for way, kind in (("tiles", "tiny"), ("3", "blobs"))
    ]
