"""Sizes of a fit: shards, tiles and threads.

The bits of a result depend on numbers that come from N, K and D alone; a memory cap changes others.

Each of these makes a fit faster, by the factor given (2 threads of an AMD EPYC, medians of 10 runs
of the benchmark's problems): the loop in a kernel by 1.9 (gauss-5k) to 8.2 (batch-256), a team of
threads by 1.6 (gauss-5k), points kept as lanes by 1.2 (gauss-5k) to 1.5 (batch-256). Whether bounds
("head", "groups") are used is chosen by measuring: see tuner.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...validation import check_cap
from ..draws import OVERSAMPLING, ROUNDS
from ..points import Problem
from .kernels import sizes

__all__ = ["PAD", "RESIDENT_BYTES", "Plan", "cut_rows", "plan", "sizes"]

PAD = sizes.LANE_PADDING

ADVICE = "raise it, or fit fewer batch elements at a time"

SMALL = 10_000_000  # N * K * D below which one thread per batch element is enough
# N * K * D below which the whole loop is one kernel: Python takes 0.3 ms an iteration.
LOOPED = 300_000_000
SHARD_ROWS, SHARDS = 4096, 64
LOOPED_SHARD_ROWS, LOOPED_SHARDS = 512, 16
LOOPED_BYTES = 8 << 20  # for the sums of all shards, which every thread may have
# For the sums of the shards in flight: so many bytes, or so many shards.
FLIGHT_BYTES, FLIGHT = 32 << 20, 4
TILE_VALUES = 1 << 16
RESIDENT_BYTES = 32 << 20  # for keeping points as lanes


@dataclass(frozen=True)
class Plan:
    """Sizes of one fit.

    Attributes:
        looped: Whether one kernel runs all iterations of a batch element.
        team: Whether all threads run that kernel together; otherwise each has batch elements of
            its own.
        resident: Whether points are kept as lanes from one iteration to the next.
        tile: Rows per tile, a divisor of `sizes.SHARD_ROWS`, at whose multiples shards begin.
        shards: Parts of a batch element's rows with sums of their own.
        flight: Shards, of one or more batch elements, whose sums exist at a time.
        threads: Threads to use.
        spare: Bytes that may be allocated beyond all this, for memory that only saves time.
    """

    looped: bool
    team: bool
    resident: bool
    tile: int
    shards: int
    flight: int
    threads: int
    spare: int


def plan(problem: Problem, threads: int) -> Plan:
    """Return the plan of a problem for at most so many threads.

    What is allocated beyond the input stays under `problem.max_bytes`.

    Raises:
        ValueError: If the cap is too small for any plan.
    """
    b, n, d = problem.x.shape
    k = problem.n_clusters
    products = n * k * d
    table = 8 * k * d
    tile = tile_rows(d)
    shards = shard_count(n, k, d)
    looped = products < LOOPED and problem.strategy not in ("int8", "head")
    per_thread = 4 * tile * (3 * d + 4) + 4 * PAD * d + looped * (2 + shards) * table
    fixed = problem.bytes_in_use + 4 * b * n * _point_arrays(problem) + (1 << 20)
    fixed += _tables(problem) * b * table
    least = fixed + per_thread + table
    check_cap(problem.max_bytes, least, problem.given_shape, k, "on the cpu backend", ADVICE)
    spare = problem.max_bytes - least if problem.max_bytes else 1 << 62
    threads = 1 + min(threads - 1, spare // 2 // per_thread)
    spare -= (threads - 1) * per_thread
    flight = max(FLIGHT_BYTES // table, min(FLIGHT, threads))
    flight = 1 + min(b * shards - 1, flight - 1, spare // 2 // table)
    spare -= (flight - 1) * table
    team = looped and shards > 1 and b < threads
    resident_bytes = 9 * (n + tile) * d * (1 if team else threads)
    resident = looped and resident_bytes <= min(RESIDENT_BYTES, spare // 2)
    spare -= resident * resident_bytes
    return Plan(looped, team, resident, tile, shards, flight, threads, spare)


def tile_rows(d: int) -> int:
    """Return the rows of D values in a tile: a power of two, as many as stay in cache."""
    rows = sizes.SHARD_ROWS
    while rows > sizes.TILE_ROWS and rows * d > TILE_VALUES:
        rows //= 2
    return rows


def shard_count(n: int, n_clusters: int, d: int) -> int:
    """Return the parts of N rows with sums of their own, which fix the order of additions.

    It is the same for every way of assigning.
    """
    products = n * n_clusters * d
    if products < SMALL:
        return 1
    if products < LOOPED:
        most = min(LOOPED_SHARDS, -(-n // LOOPED_SHARD_ROWS), LOOPED_BYTES // (8 * n_clusters * d))
        return max(1, most)
    return min(SHARDS, -(-n // SHARD_ROWS))


def cut_rows(n: int, shards: int) -> list[tuple[int, int]]:
    """Return the row ranges (first, last + 1) of at most so many shards."""
    size = -(-n // shards)
    size = -(-size // sizes.SHARD_ROWS) * sizes.SHARD_ROWS
    return [(lo, min(lo + size, n)) for lo in range(0, n, size)]


def _point_arrays(problem: Problem) -> int:
    """Return the 4-byte values per point at the peak of a fit."""
    weighted = problem.weights is not None
    # Labels, weights, the best run's labels.
    arrays = 1 + weighted + (problem.runs > 1)
    # 1 / norm, and that times the weight.
    arrays += problem.metric.spherical + (weighted and problem.metric.unit_points)
    seeding = {"random": 4, "k-means||": 10}.get(problem.init, 5 + 3 * problem.metric.spherical)
    # 5: costs and their order while empty clusters are filled.
    return arrays + max(5, seeding)


def _tables(problem: Problem) -> int:
    """Return the K x D float64 tables per batch element at the peak of a fit."""
    return 6 + (int(4 * OVERSAMPLING * (ROUNDS + 1)) if problem.init == "k-means||" else 0)
