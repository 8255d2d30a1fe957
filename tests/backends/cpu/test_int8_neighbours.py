"""Searches by bytes: the bounds of scores, and the same results as in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from exact_neighbours import KINDS, cast, make
from helpers import Array
from memory import peak
from numba import njit

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import first_look, int8_look, kernels, tasks
from flash_kmeans_mlx.backends.cpu import neighbours as cpu_neighbours
from flash_kmeans_mlx.backends.cpu.store import Rows
from flash_kmeans_mlx.neighbours.search import Search

# The typing context of an intrinsic is not an argument.
# pyright: reportCallIssue=false

pytestmark = pytest.mark.skipif(not kernels.ir.INT8, reason="this CPU multiplies no bytes")
OPS = ("SQUARES", "DOT", "COSINE", "CHORD")
BOUND, UNIT_ROWS, ROWS = kernels.int8.bound_scores, kernels.topk.unit_rows, kernels.lanes.ROWS
GENTLE = tuple(kind for kind in KINDS if kind not in ("huge", "mixed", "spike", "beyond"))


@njit
def bound_all(lanes, quads, words, start, terms, limits, out, masks):
    """Set out (N + ROWS, POINTS) to the upper bounds of one block of queries."""
    for k in range(0, start.size, ROWS):
        BOUND(
            lanes.ctypes.data,
            quads,
            words.ctypes.data,
            start.ctypes.data,
            terms.ctypes.data,
            k,
            start.size,
            limits.ctypes.data,
            out[k:].ctypes.data,
            masks.ctypes.data,
        )


@njit
def to_unit(source, n, rows, centre, scratch):
    return UNIT_ROWS(source, 0, n, rows, centre, scratch)


def bounds(op: str, x: Array, queries: Array) -> tuple[Array, Array, Array, Array]:
    """Return lower and upper bounds (Q, N) of scores, these as they are read, and their margins."""
    number = getattr(kernels.scores, op)
    n, d = x.shape
    points = kernels.lanes.POINTS
    assert len(queries) <= points
    sizes = tasks.Int8Sizes(1, 64, points, 64, n, 1)
    space = int8_look._Space(sizes, d)
    space.take(len(queries))
    source, asked = Rows(x[None]).source(0), Rows(queries[None]).source(0)
    centre = np.zeros(d)
    middle = np.zeros(d, np.float32)
    kernels.int8_rows.mean_row(number, source, n, 3, centre, middle, space.scratch)
    quads = kernels.int8.words_of(d)
    rows = kernels.int8_rows.Int8Rows(
        np.zeros((n, 4 * quads), np.int8),
        np.zeros(n, np.int32),
        np.zeros((n, 3), np.float32),
        np.zeros(n, np.float32),
    )
    kernels.int8_rows.round_rows(
        number, source, 0, n, centre, middle, rows, space.part, space.scratch
    )
    ratio = np.float32(int8_look._usual_ratio(rows))
    largest = kernels.int8_rows.set_reach(rows, ratio)
    norms = np.zeros(len(queries))
    kernels.int8_rows.round_queries(
        number,
        asked,
        0,
        len(queries),
        centre,
        middle,
        largest,
        ratio,
        space.queries,
        norms,
        space.part,
        space.values,
        space.scratch,
    )
    least = np.full(len(queries), -np.inf, np.float32)
    kernels.int8_rows.start_queries(number, len(queries), least, space.queries)
    limits = space.queries.limits[0]
    limits[2] = -np.inf  # all bounds are stored
    upper = np.zeros((n + ROWS, points), np.float32)
    bound_all(
        space.queries.points.words[0],
        quads,
        rows.values,
        rows.start,
        rows.terms,
        limits,
        upper,
        np.zeros(ROWS, np.int64),
    )
    q = len(queries)
    high = upper[:n, :q].T.astype(np.longdouble)
    width = 2 * limits[1, :q, None].astype(np.longdouble) * rows.terms[:, 2]
    read, asked_read = x, queries
    if op in ("COSINE", "CHORD"):
        read = to_unit(source, n, x, centre, space.scratch).copy()
        asked_read = to_unit(asked, q, queries, centre, space.scratch).copy()
    one, other = asked_read.astype(np.longdouble), read.astype(np.longdouble)
    scores = one @ other.T
    if op in ("SQUARES", "CHORD"):
        scores = -np.square(one[:, None] - other).sum(-1)
    unit = limits[0, :q].astype(np.longdouble) / (2 if op in ("SQUARES", "CHORD") else 1)
    base = space.queries.base[:q, None]
    scores = (scores - base) * unit[:, None]
    rounding = 1e-14 * np.abs(base) * unit[:, None]  # of the base, which is float64
    fine = ~space.queries.failed[:q]
    return (high - width - rounding)[fine], (high + rounding)[fine], scores[fine], width[fine]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", GENTLE)
def test_scores_are_between_their_bounds(kind: str, op: str) -> None:
    for seed, d in enumerate((1, 3, 32, 33, 70, 257)):
        rng = np.random.default_rng([seed, len(kind)])
        x = make(kind, 90, d, rng).astype(np.float32)
        queries = np.concatenate([x[:5], x[5:10] * (1 + 1e-5), make(kind, 5, d, rng)])
        low, high, scores, width = bounds(op, x, queries.astype(np.float32)[: kernels.lanes.POINTS])
        # The lower bound and, where it is computed again, the upper one round once more.
        slack = 1e-3 * width
        assert (scores <= high).all() and (scores >= low).all(), (seed, d)
        assert (scores <= high - slack).all() and (scores >= low + slack).all(), (seed, d)


@pytest.mark.parametrize("op", OPS)
def test_bounds_are_narrow(op: str) -> None:
    x = np.random.default_rng(0).standard_normal((500, 96)).astype(np.float32)
    _, _, scores, width = bounds(op, x, 5 + x[:16])
    assert width.mean() < 0.5 * scores.std()


@pytest.mark.parametrize("op", ["SQUARES", "DOT"])
def test_outliers_spoil_only_themselves(op: str) -> None:
    """A row with one large coordinate has wide bounds; those of other rows stay as they are."""
    x = np.random.default_rng(1).standard_normal((300, 64)).astype(np.float32)
    queries = x[:16].copy()
    usual = bounds(op, x, queries)[3]
    x[7::51, 3] = 1000  # not among the rows that the middle is taken from
    low, high, scores, width = bounds(op, x, queries)
    assert (scores <= high).all() and (scores >= low).all()
    others = np.abs(x).max(1) < 100
    assert width[:, others].mean() < 2 * usual.mean()


@contextmanager
def searching(monkeypatch: pytest.MonkeyPatch, *, by_bytes: bool) -> Iterator[list[Any]]:
    """Search by bytes, however small the problem is, or never; yields what is left to float32."""
    left = []
    original, run = cpu_neighbours.int8_sizes, int8_look.Int8Look.run

    def sizes(q: int, *others: Any, **options: Any) -> Any:
        return original(max(q, 4096), *others, **options) if by_bytes else None

    def watched(self: Any, *arguments: Any) -> Any:
        left.append(run(self, *arguments))
        return left[-1]

    with monkeypatch.context() as patch:
        for name in ("INT8_QUERIES", "INT8_ROWS", "INT8_DIMS", "INT8_PRODUCTS"):
            patch.setattr(tasks, name, 1)
        patch.setattr(tasks, "ROWS_PER_CANDIDATE", 1)
        patch.setattr(cpu_neighbours, "int8_sizes", sizes)
        patch.setattr(int8_look.Int8Look, "run", watched)
        yield left


def check(
    monkeypatch: pytest.MonkeyPatch, queries: Any, data: Any, k: int, metric: str, **options: Any
) -> list[Any]:
    """Assert that bytes find what float32 does, in chunks too; returns what was left."""
    with searching(monkeypatch, by_bytes=False):
        expected = fk.knn(queries, data, k, metric, backend="cpu", **options)
    with searching(monkeypatch, by_bytes=True) as left:
        found = fk.knn(queries, data, k, metric, backend="cpu", **options)
    assert left
    with (
        searching(monkeypatch, by_bytes=True),
        Search(queries, k, metric, backend="cpu", **options) as search,
    ):
        for lo, hi in ((0, len(data) // 3), (len(data) // 3, len(data))):
            search.add(data[lo:hi], lo)
        in_chunks = search.result()
    for one, two, three in zip(expected, found, in_chunks, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(two))
        np.testing.assert_array_equal(np.array(one), np.array(three))
    return left


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("kind", tuple(KINDS))
def test_the_same_neighbours_as_in_float32(
    kind: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(len(kind))
    for dtype, (q, n, d), k in (
        ("float32", (150, 1100, 33), 7),
        ("float64", (70, 900, 50), 1),
        ("float16", (20, 1300, 130), 40),
        ("mlx-bfloat16", (90, 600, 9), 3),
    ):
        x = make(kind, n, d, rng)
        queries = np.concatenate([x[: q // 3], make(kind, q - q // 3, d, rng)])
        check(monkeypatch, cast(queries, dtype), cast(x, dtype), k, metric)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_no_query_finds_itself(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(3).standard_normal((700, 40)).astype(np.float32)
    x[300:] = x[:400]  # equal rows, of which the first comes first
    check(monkeypatch, x, x, 5, metric, exclude_self=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The queries that each second look is about."""
    asked: list[set[int]] = []
    original = cpu_neighbours.look_again

    def watched(scoring: Any, which: Array, *others: Any, **options: Any) -> None:
        asked.append(set(which.tolist()))
        original(scoring, which, *others, **options)

    monkeypatch.setattr(cpu_neighbours, "look_again", watched)
    return asked


def many_equal_rows() -> tuple[Array, Array]:
    """Return queries (400, D) and rows (4000, D), of which those from 999 to 1899 are equal."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4000, 48)).astype(np.float32)
    x[1000:1900] = x[999]
    return rng.standard_normal((400, 48)).astype(np.float32), x


def test_queries_with_too_many_candidates_are_asked_again(
    monkeypatch: pytest.MonkeyPatch, asked: list[set[int]]
) -> None:
    """Hundreds of rows are as near as the k-th, which no bound tells apart."""
    queries, x = many_equal_rows()
    queries[77:80] = x[999] + np.random.default_rng(5).standard_normal((3, 48)) / 100
    with searching(monkeypatch, by_bytes=True) as left:
        fk.knn(queries, x, 10, backend="cpu")
    assert left == [[]] and len(asked) == 1 and asked[0] >= {77, 78, 79}
    check(monkeypatch, queries, x, 10, "euclidean")


def test_rows_that_equal_the_query(monkeypatch: pytest.MonkeyPatch, asked: list[set[int]]) -> None:
    """The first of them are found without a second look."""
    queries, x = many_equal_rows()
    queries[77:80] = x[999]
    with searching(monkeypatch, by_bytes=True) as left:
        _, indices = fk.knn(queries, x, 10, backend="cpu")
    assert left == [[]] and not set().union(*asked) & {77, 78, 79}
    np.testing.assert_array_equal(np.array(indices)[77:80], [np.arange(999, 1009)] * 3)
    check(monkeypatch, queries, x, 10, "euclidean")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_copies_of_few_rows(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of float64 differ by less than float32 holds."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((30, 40))[rng.integers(30, size=4000)].astype(dtype)
    if dtype == "float64":
        x *= 1 + 1e-12 * rng.integers(-2, 3, x.shape)
    check(monkeypatch, x[:300], x, 10, "euclidean")


def test_float32_where_bounds_rule_out_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    centres = 10 * rng.standard_normal((4, 40))
    x = (centres[rng.integers(4, size=3000)] + 1e-3 * rng.standard_normal((3000, 40))).astype("f4")
    assert check(monkeypatch, x[:500], x, 10, "euclidean")[0] == [(0, 500)]


def test_float32_for_some_of_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first queries promise more than the others can hold."""
    rng = np.random.default_rng(7)
    centres = 10 * rng.standard_normal((4, 40))
    near = centres[rng.integers(4, size=2500)] + 1e-3 * rng.standard_normal((2500, 40))
    far = 10 * rng.standard_normal((2500, 40))
    x = np.concatenate([far, near]).astype(np.float32)
    queries = np.concatenate([far[:2000], near[:500], far[2000:]]).astype(np.float32)
    (left, *_) = check(monkeypatch, queries, x, 10, "euclidean")
    assert left and left != [(0, len(queries))]


def test_sizes() -> None:
    def sizes(q: int, n: int, d: int, k: int, threads: int = 2, room: int = 1 << 62) -> Any:
        return tasks.int8_sizes(q, n, d, k, threads, room, max_dims=1 << 15)

    many = sizes(10_000, 50_000, 96, 10)
    assert many.keep < many.capacity and many.group % kernels.lanes.POINTS == 0
    assert tasks.INT8_BLOCK % kernels.lanes.POINTS == 0
    for none in ((100, 50_000, 96, 10), (10_000, 50_000, 16, 10), (10_000, 50_000, 96, 5000)):
        assert sizes(*none) is None
    assert sizes(1000, 5000, 40_000, 10) is None  # sums of that many products may not fit
    assert sizes(1000, 50_000, 96, 10, threads=32) is None  # not enough queries for all
    assert sizes(10_000, 50_000, 96, 10, room=4_000_000) is None
    tight = sizes(10_000, 50_000, 96, 10, room=9_000_000)
    need = tight.row_bytes(50_000, 96) + tight.threads * tight.thread_bytes(96)
    assert tight.group < many.group and need <= 9_000_000


@pytest.mark.parametrize("shape", [(2000, 30_000, 64, 10), (700, 9000, 300, 70)], ids=str)
def test_a_cap_that_leaves_room_for_bytes(
    shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, n, d, k = shape
    rng = np.random.default_rng(0)
    queries, x = (rng.standard_normal((m, d)).astype(np.float32) for m in (q, n))
    uses = []
    original = first_look.FirstLook._run_int8
    monkeypatch.setattr(
        first_look.FirstLook,
        "_run_int8",
        lambda *arguments: uses.append(arguments[0].int8) or original(*arguments),
    )
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "2")
    whole = fk.knn(queries, x, k, backend="cpu")
    need = uses[0].row_bytes(n, d) + 2 * uses[0].thread_bytes(d) + (28 * k + 40) * q + (1 << 21)
    found: list[Any] = []
    assert peak(lambda: found.append(fk.knn(queries, x, k, max_mem_gb=need / 1e9))) <= need
    assert uses[-1] == uses[0]
    np.testing.assert_array_equal(np.array(whole[1]), np.array(found[-1][1]))
