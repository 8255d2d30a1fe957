"""Sizes of a fit: shards, tiles and threads.

The bits of a result depend on numbers that come from N, K and D alone; a memory cap changes others.

Each of these makes a fit faster, by the factor given (2 threads of an AMD EPYC, medians of 10 runs
of the benchmark's problems): the loop in a kernel by 1.9 (gauss-5k) to 8.2 (batch-256), a team of
threads by 1.6 (gauss-5k), points kept as lanes by 1.2 (gauss-5k) to 1.5 (batch-256). The way of
larger problems is chosen by tuner.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...validation import check_cap
from ..draws import OVERSAMPLING, ROUNDS, SEED_ROWS
from ..points import Problem
from ..stream import RowStream
from .kernels import sizes

__all__ = ["PAD", "RESIDENT_BYTES", "Plan", "plan", "sizes"]

PAD = sizes.LANE_PADDING

ADVICE = "raise it, or fit fewer batch elements at a time"
STREAM_ADVICE = "raise it"
LABELS_ADVICE = "raise it, or keep the labels in a .npy file (labels_path)"

SMALL = 10_000_000  # N * K * D below which one thread per batch element is enough
# N * K * D below which the whole loop is one kernel: Python takes 0.3 ms an iteration.
LOOPED = 300_000_000
# Shards of a batch element: this many, so that threads end at about the same time, or as many as
# have this many rows, up to the last number; more only if they would have more than that.
SHARDS, SHARD_ROWS, MOST_SHARDS, MOST_SHARD_ROWS = 16, 1024, 64, 1 << 20
LOOPED_BYTES = 8 << 20  # for the sums of all shards, which every thread may have
# For the sums of the shards in flight: so many bytes, or so many shards.
FLIGHT_BYTES, FLIGHT = 32 << 20, 4
TILE_VALUES = 1 << 16
PIECE_BYTES = 4 << 20  # of a stream: fewer take longer in Python than in kernels
STREAM_BYTES = 1 << 30  # at most, for memory that only saves time beside a stream
RESIDENT_BYTES = 32 << 20  # for keeping points as lanes


@dataclass(frozen=True)
class Plan:
    """Sizes of one fit.

    Attributes:
        looped: Whether one kernel runs all iterations of a batch element.
        team: Whether all threads run that kernel together; otherwise each has batch elements of
            its own.
        resident: Whether points are kept as lanes from one iteration to the next.
        tile: Rows per tile.
        cuts: First rows of the parts of a batch element that have sums of their own, and N.
        flight: Shards, of one or more batch elements, whose sums exist at a time.
        threads: Threads to use.
        spare: Bytes that may be allocated beyond all this, for memory that only saves time.
        piece: Rows of a stream that are read at a time; 0 for points in memory.
        held: Bytes that a stream's points take at any time.
    """

    looped: bool
    team: bool
    resident: bool
    tile: int
    cuts: tuple[int, ...]
    flight: int
    threads: int
    spare: int
    piece: int = 0
    held: int = 0

    @property
    def shards(self) -> int:
        """Parts of a batch element with sums of their own."""
        return len(self.cuts) - 1


def plan(problem: Problem, threads: int) -> Plan:
    """Return the plan of a problem for at most so many threads.

    What is allocated beyond the input stays under `problem.max_bytes`.

    Raises:
        ValueError: If the cap is too small for any plan.
    """
    b, n, d = problem.x.shape
    k = problem.n_clusters
    table = 8 * k * d
    tile = tile_rows(d)
    cuts = cut_rows(n, k, d)
    shards = len(cuts) - 1
    stream = problem.x if isinstance(problem.x, RowStream) else None
    looped = _is_looped(problem)
    fixed, per_thread = _fixed_bytes(problem), _thread_bytes(problem, tile, shards, looped)
    least = fixed + per_thread + table
    piece = 0
    if stream:
        threads = 1 if stream.rows.one_cursor else threads + 1  # one reads while the others compute
        piece = tile
        least += _piece_bytes(stream, piece)
        if problem.init == "k-means++":
            least = max(least, fixed + per_thread + _seeding_bytes(problem, stream))
        per_thread += _piece_bytes(stream, piece)
    advice = STREAM_ADVICE if problem.labels is not None else LABELS_ADVICE
    advice = advice if stream else ADVICE
    if problem.max_bytes:
        check_cap(problem.max_bytes, least, problem.given_shape, k, "on the cpu backend", advice)
    spare = problem.max_bytes - least if problem.max_bytes else 1 << 62
    threads = 1 + min(threads - 1, spare // 2 // per_thread)
    spare -= (threads - 1) * per_thread
    held = fixed + threads * per_thread
    flight = max(FLIGHT_BYTES // table, min(FLIGHT, threads))
    flight = 1 + min(b * shards - 1, flight - 1, spare // 2 // table)
    if threads < flight < b * shards:
        flight -= flight % threads  # so that all threads end together
    spare -= (flight - 1) * table
    if stream:
        spare = min(spare, STREAM_BYTES)
        most = min(max(np.diff(cuts)), PIECE_BYTES // (4 * d))
        more = threads * (_piece_bytes(stream, 2 * piece) - _piece_bytes(stream, piece))
        while piece < most and more <= spare:
            spare -= more
            piece *= 2
            more *= 2
    team = looped and shards > 1 and b < threads
    resident_bytes = 9 * (n + tile) * d * (1 if team else threads)
    resident = looped and resident_bytes <= min(RESIDENT_BYTES, spare // 2)
    spare -= resident * resident_bytes
    return Plan(looped, team, resident, tile, cuts, flight, threads, spare, piece, held)


def tile_rows(d: int) -> int:
    """Return the rows of D values in a tile: a power of two, as many as stay in cache."""
    rows = sizes.MOST_TILE_ROWS
    while rows > sizes.TILE_ROWS and rows * d > TILE_VALUES:
        rows //= 2
    return rows


def cut_rows(n: int, n_clusters: int, d: int) -> tuple[int, ...]:
    """Return the first rows of N rows' parts with sums of their own, and N.

    They fix the order of additions, and are the same for every way of assigning. They are about as
    long, so that threads end at about the same time.
    """
    products = n * n_clusters * d
    unit = sizes.SHARD_ROWS
    if products < SMALL:
        return 0, n
    if products < LOOPED:
        unit = sizes.MOST_TILE_ROWS  # tiles are kept
        shards = max(1, min(SHARDS, LOOPED_BYTES // (8 * n_clusters * d)))
    else:
        shards = min(MOST_SHARDS, max(SHARDS, n // SHARD_ROWS))
        shards = max(shards, n // MOST_SHARD_ROWS)
    units = -(-n // unit)
    shards = min(shards, units)
    return (*(units * s // shards * unit for s in range(shards)), n)


def _is_looped(problem: Problem) -> bool:
    """Return whether one kernel runs all iterations of a batch element."""
    _, n, d = problem.x.shape
    small = n * problem.n_clusters * d < LOOPED
    in_memory = not isinstance(problem.x, RowStream)
    return small and in_memory and problem.strategy not in ("int8", "head")


def _fixed_bytes(problem: Problem) -> int:
    """Return the bytes that are in use whatever the number of threads."""
    b, n, d = problem.x.shape
    is_streamed = isinstance(problem.x, RowStream)
    table = 8 * problem.n_clusters * d
    by_point = 4 * b * n * _point_arrays(problem, is_streamed)
    tables = _tables(problem, is_streamed) * b * table
    return problem.bytes_in_use + by_point + tables + (1 << 20)


def _thread_bytes(problem: Problem, tile: int, shards: int, looped: bool) -> int:
    """Return the bytes that each thread needs."""
    d = problem.x.shape[2]
    k = problem.n_clusters
    tables = 2 + shards if looped else 0
    return 4 * tile * (3 * d + 4) + 4 * PAD * d + 8 * tables * k * d


def _seeding_bytes(problem: Problem, stream: RowStream) -> int:
    """Return the bytes that k-means++ on a sample of a stream needs."""
    _, n, d = stream.shape
    rows = min(n, SEED_ROWS * problem.n_clusters)
    weights = None if problem.weights is None else problem.weights[:, :rows]
    x = np.broadcast_to(np.float32(0), (1, rows, d))  # its shape is all that counts
    sample = replace(problem, x=x, weights=weights, bytes_in_use=0, runs=1, labels=None)
    k = problem.n_clusters
    table = 8 * k * d
    tile = tile_rows(d)
    held = rows * (d * stream.rows.dtype.itemsize + 32) + _piece_bytes(stream, tile)
    shards = len(cut_rows(rows, k, d)) - 1
    per_thread = _thread_bytes(sample, tile, shards, _is_looped(sample))
    return held + _fixed_bytes(sample) + per_thread + table


def _point_arrays(problem: Problem, is_streamed: bool) -> int:
    """Return the 4-byte values per point at the peak of a fit."""
    weighted = problem.weights is not None
    # Labels, weights, the best run's labels.
    arrays = (problem.labels is None) + weighted + (problem.runs > 1)
    # 1 / norm, and that times the weight.
    arrays += problem.metric.spherical + (weighted and problem.metric.unit_points)
    if is_streamed:
        return arrays + (10 if problem.init == "k-means||" else 4 * weighted)
    seeding = {"random": 4, "k-means||": 10}.get(problem.init, 5 + 3 * problem.metric.spherical)
    # 5: costs and their order while empty clusters are filled.
    return arrays + max(5, seeding)


def _piece_bytes(stream: RowStream, rows: int) -> int:
    """Return the bytes that a thread needs to read so many rows, and to look at their costs."""
    return stream.rows.reading_bytes(rows) + 48 * rows


def _tables(problem: Problem, is_streamed: bool) -> int:
    """Return the K x D float64 tables per batch element at the peak of a fit."""
    tables = 6 + 4 * is_streamed  # 4: rows that may fill empty clusters
    return tables + (int(4 * OVERSAMPLING * (ROUNDS + 1)) if problem.init == "k-means||" else 0)
