"""How a problem is cut up. What the bits of a result depend on comes from N, K and D alone, what a cap allows only from it.

What each way gains, as the time without it (2 threads of an AMD EPYC, medians of 10 runs of the benchmark's problems):
the loop in a kernel 1.9 (gauss-5k) to 8.2 (batch-256), a team of threads 1.6 (gauss-5k), points kept as lanes 1.2 (gauss-5k)
to 1.5 (batch-256). Bounds ("head", "groups") are chosen by measuring: see engine.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from ...validation import check_cap
from ..draws import OVERSAMPLING, ROUNDS
from ..points import Problem

__all__ = ["PAD", "RESIDENT_BYTES", "Plan", "plan", "plan_for"]

sizes = import_module(
    "flash_kmeans_mlx.kernels.cpu.sizes"
)  # by name, as it is part of this package only once installed
PAD = sizes.LANE_PADDING

CURE = "raise it, or fit fewer batch elements at a time"

SMALL = 10_000_000  # N * K * D below which one thread per batch element is enough
LOOPED = 300_000_000  # below which a batch element's whole loop is one kernel: Python costs 0.3 ms an iteration
SHARD_ROWS, SHARDS = 4096, 64
LOOPED_SHARD_ROWS, LOOPED_SHARDS, LOOPED_BYTES = (
    512,
    16,
    8 << 20,
)  # bytes of their sums: every thread may have them
FLIGHT_BYTES, FLIGHT = (
    32 << 20,
    4,
)  # for sums of the shards in flight: that many bytes, or that many shards
TILE_VALUES = 1 << 16
RESIDENT_BYTES = 32 << 20  # for keeping points as lanes


@dataclass(frozen=True)
class Plan:
    """Sizes of one fit.

    Attributes:
        looped: one kernel per batch element runs all its iterations.
        team: all threads run that kernel together; otherwise each has batch elements of its own.
        resident: points are kept as lanes from one iteration to the next.
        tile: rows per tile, a divisor of `sizes.SHARD_ROWS`, at whose multiples shards begin.
        shards: parts of a batch element's rows with sums of their own.
        flight: shards, of one or more batch elements, whose sums exist at a time.
        threads: threads to use.
        spare: bytes that may be allocated beyond all this, for what only saves time.
    """

    looped: bool
    team: bool
    resident: bool
    tile: int
    shards: int
    flight: int
    threads: int
    spare: int


def plan_for(problem: Problem, threads: int) -> Plan:
    """Return the plan of a problem for at most so many threads."""
    return plan(
        problem.x.shape,
        problem.given_shape,
        problem.n_clusters,
        _point_arrays(problem),
        _tables(problem),
        threads,
        problem.max_bytes,
        problem.bytes_in_use,
        problem.strategy in ("head", "groups"),
    )


def plan(
    shape: tuple[int, int, int],
    given_shape: tuple[int, ...],
    n_clusters: int,
    point_arrays: int,
    tables: int,
    threads: int,
    max_bytes: int,
    bytes_in_use: int = 0,
    bounded: bool = False,
) -> Plan:
    """Cut up a problem so that what is allocated beyond the input stays under `max_bytes` (0: no limit).

    Args:
        shape: (B, N, D).
        given_shape: x.shape for the message.
        n_clusters: K.
        point_arrays: 4-byte values per point that the fit holds: labels, weights, costs, ...
        tables: tables of K x D float64 that it holds besides the sums of shards.
        threads: threads that may be used.
        max_bytes: the cap, 0 for none.
        bytes_in_use: how much of it is in use already.
        bounded: whether bounds are asked for: the loop in a kernel has none.
    """
    b, n, d = shape
    products = n * n_clusters * d
    table = n_clusters * d * 8
    tile = tile_rows(d)
    shards = shard_count(n, n_clusters, d)
    looped = products < LOOPED and not bounded
    per_thread = 4 * tile * (3 * d + 4) + 4 * PAD * d + (looped * (2 + shards) * table)
    fixed = bytes_in_use + 4 * b * n * point_arrays + tables * b * table + (1 << 20)
    check_cap(
        max_bytes, fixed + per_thread + table, given_shape, n_clusters, "on the cpu backend", CURE
    )
    spare = max_bytes - fixed - per_thread - table if max_bytes else 1 << 62
    threads = 1 + min(threads - 1, spare // 2 // per_thread)
    spare -= (threads - 1) * per_thread
    flight = max(FLIGHT_BYTES // table, min(FLIGHT, threads))
    flight = 1 + min(b * shards - 1, flight - 1, spare // 2 // table)
    spare -= (flight - 1) * table
    team = looped and shards > 1 and b < threads
    resident_bytes = 9 * (n + tile) * d * (1 if team else threads)
    resident = looped and resident_bytes <= min(RESIDENT_BYTES, spare // 2)
    return Plan(
        looped, team, resident, tile, shards, flight, threads, spare - resident * resident_bytes
    )


def tile_rows(d: int) -> int:
    """Rows of D values in a tile: as many as stay in cache, a power of two."""
    rows = sizes.SHARD_ROWS
    while rows > sizes.TILE_ROWS and rows * d > TILE_VALUES:
        rows //= 2
    return rows


def shard_count(n: int, n_clusters: int, d: int) -> int:
    """Parts of N rows with sums of their own, the same for every way of assigning: they fix the order of additions."""
    products = n * n_clusters * d
    if products < SMALL:
        return 1
    if products < LOOPED:
        return max(
            1, min(LOOPED_SHARDS, -(-n // LOOPED_SHARD_ROWS), LOOPED_BYTES // (8 * n_clusters * d))
        )
    return min(SHARDS, -(-n // SHARD_ROWS))


def _point_arrays(problem: Problem) -> int:
    """4-byte values per point at the peak of a fit."""
    weighted = problem.weights is not None
    arrays = 1 + weighted + (problem.runs > 1)  # labels, weights, the best run's labels
    arrays += problem.metric.spherical + (
        weighted and problem.metric.unit_points
    )  # 1 / norm, times the weight
    seeding = {"random": 4, "k-means||": 10}.get(problem.init, 5 + 3 * problem.metric.spherical)
    return arrays + max(5, seeding)  # 5: costs and their order while clusters are repaired


def _tables(problem: Problem) -> int:
    """Tables of K x D float64 at the peak of a fit."""
    return 6 + (int(4 * OVERSAMPLING * (ROUNDS + 1)) if problem.init == "k-means||" else 0)
