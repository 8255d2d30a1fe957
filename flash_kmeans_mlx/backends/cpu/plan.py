"""How a problem is cut up, from its sizes alone: the same cuts, so the same bits, whatever the number of threads."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Plan", "plan"]

BLOCK = 512  # centroids per product: the scores of a tile stay in L2
SMALL = 10_000_000  # N * K * D below which a member's fit is one kernel on one thread: a round trip to threads costs 0.1 ms
LANE_DIMS = 16  # up to this D points are SIMD lanes: measured 2 to 9 times faster than products
SHARD_ROWS = 4096
SHARD_BYTES = 32 << 20  # for the accumulators of all shards
SEED_BYTES = 32 << 20  # for keeping the distances of a round's candidates
TILE = 256  # rows per product


@dataclass(frozen=True)
class Plan:
    """Sizes of one fit.

    Attributes:
        small: one thread and one kernel per member.
        lanes: tiles of points held as SIMD lanes per thread; 0: scores come from products.
        tile: rows per tile.
        block: centroids per product.
        shards: parts of a member's rows with accumulators of their own.
        group: members whose shards are in flight together.
        threads: threads to use.
        keep_seeds: whether a round of k-means++ keeps its distances, or computes the winner's again.
    """

    small: bool
    lanes: int
    tile: int
    block: int
    shards: int
    group: int
    threads: int
    keep_seeds: bool


def plan(
    shape: tuple[int, int, int],
    given_shape: tuple[int, ...],
    n_clusters: int,
    point_arrays: int,
    tables: int,
    trials: int,
    threads: int,
    max_bytes: int,
) -> Plan:
    """Cut up a problem so that what is allocated beyond the input stays under `max_bytes` (0: no limit).

    Args:
        shape: (B, N, D).
        given_shape: x.shape for the message.
        n_clusters: K.
        point_arrays: 4-byte values per point that the fit holds: labels, weights, costs, ...
        tables: tables of K x D float64 that it holds besides the accumulators of shards.
        trials: candidates per round of k-means++.
        threads: threads that may be used.
        max_bytes: the cap, 0 for none.
    """
    b, n, d = shape
    small = n * n_clusters * d < SMALL
    tile = max(64, min(TILE, (1 << 19) // d))
    lanes = (-(-n // tile) if small else 1) if d <= LANE_DIMS else 0
    block = max(min(BLOCK, n_clusters), trials)
    table = n_clusters * d * 8
    per_thread = tile * (block + 2 * d + 4) * 4
    if small:
        per_thread += 2 * n * d * 4 + n_clusters * (d + 1) * 4
    shards = 1 if small else max(1, min(64, -(-n // SHARD_ROWS), SHARD_BYTES // table))
    fixed = 4 * b * n * point_arrays + tables * b * table + (1 << 20)
    room = max_bytes - fixed if max_bytes else 1 << 62
    if room < per_thread + (0 if small else table):
        need = fixed + per_thread + table
        raise ValueError(
            f"max_mem_gb={max_bytes / 1e9:g} must be >= {need * 1.005 / 1e9:.3g} GB, the least that x.shape={given_shape} with"
            f" n_clusters={n_clusters} needs on the cpu backend; raise it, or fit fewer members at a time"
        )
    half = room // 2  # threads get one, and change nothing in the other
    threads = max(1, min(threads, half // per_thread))
    if not small:
        shards = max(1, min(shards, half // 2 // table))
    group = max(1, min(b, min(SHARD_BYTES, half // 2) // (shards * table)))
    keep = 4 * b * n * trials <= min(SEED_BYTES, half // 2)
    return Plan(small, lanes, tile, block, shards, group, threads, keep)
