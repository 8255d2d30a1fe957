"""How a problem is cut up, from its sizes alone: the same cuts, so the same bits, whatever the number of threads."""

from __future__ import annotations

from dataclasses import dataclass

from ...validation import check_cap

__all__ = ["Plan", "plan"]

CURE = "raise it, or fit fewer members at a time"

BLOCK = 512  # centroids per product: the scores of a tile stay in L2
SMALL = 10_000_000  # N * K * D below which one thread per member is enough
LOOPED = 300_000_000  # below which a member's whole loop is one kernel: Python costs 0.3 ms an iteration
LANE_DIMS = 16  # up to this D even the few products of seeding are our own
SHARD_ROWS, SHARDS = 4096, 64
LOOPED_SHARD_ROWS, LOOPED_SHARDS = 512, 16
SHARD_BYTES = 32 << 20  # for the accumulators of all shards
TILE = 256  # rows per product
LANES_TILE = 1 << 16  # values in a tile of lanes; its rows are a multiple of 64, 512 at most
PAD = 16  # between the lanes of one dimension and the next: powers of two apart, they would share few lines of the cache
RESIDENT_BYTES = 32 << 20  # for keeping points as lanes


@dataclass(frozen=True)
class Plan:
    """Sizes of one fit.

    Attributes:
        looped: one kernel per member runs all its iterations.
        team: all threads run that kernel together; otherwise each has members of its own.
        lanes: points are SIMD lanes; otherwise scores are products by BLAS.
        resident: those lanes are kept from one iteration to the next.
        tile: rows per tile.
        block: centroids per product.
        shards: parts of a member's rows with accumulators of their own.
        group: members whose shards are in flight together.
        threads: threads to use.
        spare: bytes that may be allocated beyond all this, for what only saves time.
    """

    looped: bool
    team: bool
    lanes: bool
    resident: bool
    tile: int
    block: int
    shards: int
    group: int
    threads: int
    spare: int


def plan(
    shape: tuple[int, int, int],
    given_shape: tuple[int, ...],
    n_clusters: int,
    point_arrays: int,
    tables: int,
    threads: int,
    max_bytes: int,
    held: int = 0,
    blas: bool = False,
    prune: bool = False,
) -> Plan:
    """Cut up a problem so that what is allocated beyond the input stays under `max_bytes` (0: no limit).

    Args:
        shape: (B, N, D).
        given_shape: x.shape for the message.
        n_clusters: K.
        point_arrays: 4-byte values per point that the fit holds: labels, weights, costs, ...
        tables: tables of K x D float64 that it holds besides the accumulators of shards.
        threads: threads that may be used.
        max_bytes: the cap, 0 for none.
        held: how much of it is in use already.
        prune: whether bounds are asked for: the loop in a kernel has none.
        blas: whether BLAS beats our own products where there are many.
    """
    b, n, d = shape
    products = n * n_clusters * d
    small, looped = products < SMALL, products < LOOPED and not prune
    lanes = looped or d <= LANE_DIMS or not blas
    tile = max(64, min(512, LANES_TILE // d // 64 * 64)) if lanes else max(64, min(TILE, (1 << 19) // d))
    block = 1 if lanes else min(BLOCK, n_clusters)
    table = n_clusters * d * 8
    per_thread = tile * (block + 3 * d + 4) * 4 + 4 * PAD * d + (2 * table if looped else 0)
    fixed = held + 4 * b * n * point_arrays + tables * b * table + (1 << 20)
    check_cap(max_bytes, fixed + per_thread + table, given_shape, n_clusters, "on the cpu backend", CURE)
    room = max_bytes - fixed if max_bytes else 1 << 62
    half = room // 2  # threads get one, and change nothing in the other
    rows, most = (LOOPED_SHARD_ROWS, LOOPED_SHARDS) if looped else (SHARD_ROWS, SHARDS)
    shards = 1 if small else max(1, min(most, -(-n // rows), SHARD_BYTES // table, half // 2 // table))
    shards = max(1, min(shards, (room - per_thread) // table))
    per_thread += shards * table if looped else 0
    threads = max(1, min(threads, half // per_thread))
    team = looped and shards > 1 and b < threads
    resident = looped and 9 * (n + tile) * d * (1 if team else threads) <= min(RESIDENT_BYTES, half // 2)
    group = max(1, min(b, min(SHARD_BYTES, half // 2) // (shards * table)))
    resident_bytes = 9 * (n + tile) * d * (1 if team else threads) if resident else 0
    spare = max(0, room - threads * per_thread - group * shards * table - resident_bytes)
    return Plan(looped, team, lanes, resident, tile, block, shards, group, threads, spare)
