"""Sizes of the tasks that searches on the CPU are split into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = [
    "BUFFER_BYTES",
    "KEPT_SORTED",
    "ONE_THREAD_PRODUCTS",
    "ONE_THREAD_SCANNED",
    "Int8Sizes",
    "ScanSizes",
    "SearchSizes",
    "candidates",
    "int8_sizes",
    "scan_sizes",
    "search_sizes",
    "tile_rows",
]

# Fewer products than this are not worth waking other threads for.
ONE_THREAD_PRODUCTS = 4_000_000
# The same of values that a scan of lists reads and multiplies: 2 ms of one thread.
ONE_THREAD_SCANNED = 20_000_000
# Candidates of a query that are kept in order as they come; more are collected, and the best
# selected now and then.
KEPT_SORTED = 32
BUFFER_BYTES = 8 << 20  # for the candidates of a task
LANE_VALUES = 1 << 17  # of the queries of a task: they stay in L2 while tiles of rows pass by
# Queries of a task: fewer read the data too often, more leave no cache to the rows.
MIN_GROUP, MAX_GROUP = 256, 1024
SHARD_ROWS = 2048
TILE_VALUES = 1 << 15  # of the rows that are read at a time
# From these on, bytes are faster than float32: it takes time to round the rows.
INT8_QUERIES, INT8_ROWS, INT8_DIMS, INT8_PRODUCTS = 192, 2048, 32, 1 << 27
ROWS_PER_CANDIDATE = 40  # with fewer rows, too many are candidates
INT8_BLOCK = 64  # queries of a task are a multiple of it
INT8_TILE = 1 << 17  # bytes of the rows that all queries of a task meet before they meet the next
INT8_BYTES = 1 << 30  # for rows as bytes, at most


def candidates(k: int) -> int:
    """Return how many candidates to keep for k neighbours, so that rounding seldom hides one."""
    return k + 2 + k // 16


def tile_rows(n: int, d: int) -> int:
    """Return how many of n rows are read at a time."""
    return min(n, max(24, TILE_VALUES // d))


@dataclass(frozen=True)
class SearchSizes:
    """Sizes of one search: they change its speed and its memory, not its result.

    Attributes:
        keep: Candidates of a query.
        capacity: Places for them before the best are kept; with as many, they are kept in order.
        group: Queries of a task.
        shards: Parts of the rows, each a task.
        tile: Rows that are read at a time.
        threads: Threads to use.
    """

    keep: int
    capacity: int
    group: int
    shards: int
    tile: int
    threads: int

    def thread_bytes(self, d: int) -> int:
        """Return the memory that a thread needs."""
        lanes = (self.group + 64) * (4 * d + 4)
        keys = self.group * (8 * self.capacity + 8 * self.keep + 16)
        return lanes + keys + 4 * d * (self.tile + 28) + 48 * self.keep + 8192


def search_sizes(b: int, q: int, n: int, d: int, k: int, threads: int, room: int) -> SearchSizes:
    """Return the sizes of a search for k of n rows, within `room` bytes if that is possible.

    Args:
        b: Batch elements.
        q: Queries of each.
        n: Rows of each.
        d: Dimensions.
        k: Neighbours of a query.
        threads: Threads that may be used.
        room: Bytes for all threads.
    """
    keep = min(n, candidates(k))
    capacity = keep if keep <= KEPT_SORTED else max(keep + 1, min(n, 2 * keep))
    if b * q * n * (d + 8) < ONE_THREAD_PRODUCTS:  # 8: to look for the best among them
        threads = 1
    group = min(
        MAX_GROUP,
        max(MIN_GROUP, LANE_VALUES // d),
        max(MIN_GROUP, -(-q // (2 * threads))),
        max(1, BUFFER_BYTES // (8 * capacity)),
    )
    group = min(q, group if group < 64 else group // 64 * 64)
    sizes = SearchSizes(keep, capacity, group, 1, tile_rows(n, d), threads)
    while sizes.threads * sizes.thread_bytes(d) > room and (sizes.threads > 1 or sizes.group > 1):
        if sizes.threads > 1:
            sizes = replace(sizes, threads=sizes.threads - 1)
        else:
            sizes = replace(sizes, group=-(-sizes.group // 2))
    tasks = b * -(-q // sizes.group)
    if tasks < 2 * sizes.threads and sizes.threads > 1:
        shards = min(-(-2 * sizes.threads // tasks), -(-n // SHARD_ROWS))
        part_bytes = 8 * tasks * shards * sizes.group * keep
        if sizes.threads * sizes.thread_bytes(d) + 2 * part_bytes <= room:
            sizes = replace(sizes, shards=shards)
    return sizes


@dataclass(frozen=True)
class Int8Sizes:
    """Sizes of a search by bytes: they change its speed and its memory, not its result.

    Attributes:
        keep: Candidates of a query that its limit comes from.
        capacity: Places for candidates before their limit is raised.
        group: Queries of a task.
        tile: Rows that all of them meet before they meet the next.
        read: Rows that are read at a time.
        threads: Threads to use.
    """

    keep: int
    capacity: int
    group: int
    tile: int
    read: int
    threads: int

    def thread_bytes(self, d: int) -> int:
        """Return the memory that a thread needs."""
        queries = (self.group + INT8_BLOCK) * (5 * d + 64)
        keys = self.group * (8 * self.capacity + 24)
        return queries + keys + 4 * d * (self.read + 100) + 24 * self.capacity + 16384

    @staticmethod
    def row_bytes(n: int, d: int) -> int:
        """Return the memory of n rows as bytes."""
        return n * (d + 24) + 8 * d


def int8_sizes(
    q: int, n: int, d: int, k: int, threads: int, room: int, *, max_dims: int
) -> Int8Sizes | None:
    """Return the sizes of a search by bytes, or None where it is not faster or does not fit.

    Args:
        q: Queries of a batch element.
        n: Rows of it.
        d: Dimensions.
        k: Neighbours of a query.
        threads: Threads that may be used.
        room: Bytes for all threads.
        max_dims: Dimensions at most.
    """
    keep = candidates(k)
    if q < max(INT8_QUERIES, INT8_BLOCK * threads) or n < max(INT8_ROWS, ROWS_PER_CANDIDATE * keep):
        return None
    if not INT8_DIMS <= d <= max_dims or q * n * d < INT8_PRODUCTS:
        return None
    if Int8Sizes.row_bytes(n, d) > INT8_BYTES:
        return None
    capacity = 12 * keep + 192
    group = min(MAX_GROUP // 2, -(-q // (4 * threads)), BUFFER_BYTES // (8 * capacity))
    group = max(1, group // INT8_BLOCK) * INT8_BLOCK
    tile = max(64, INT8_TILE // d // 64 * 64)
    sizes = Int8Sizes(keep, capacity, group, tile, tile_rows(n, d), threads)
    room -= Int8Sizes.row_bytes(n, d)
    while sizes.threads * sizes.thread_bytes(d) > room:
        if sizes.group == INT8_BLOCK:
            return None
        sizes = replace(sizes, group=max(1, sizes.group // INT8_BLOCK // 2) * INT8_BLOCK)
    return sizes


class ScanSizes(NamedTuple):
    """Sizes of one scan of inverted lists: they change its speed and its memory, not its result.

    Attributes:
        capacity: Places for the candidates of a query, as in `SearchSizes`.
        group: Queries of a task.
        shards: Parts of the lists that a query probes, each a task.
        threads: Threads to use.
    """

    capacity: int
    group: int
    shards: int
    threads: int


def scan_sizes(
    n_queries: int, n_probes: int, keep: int, threads: int, *, max_group: int, kept_sorted: int
) -> ScanSizes:
    """Return the sizes of a scan.

    A task is some queries in all their lists or, where there are fewer queries than threads, in
    some of them.

    Args:
        n_queries: Queries.
        n_probes: Lists that each probes.
        keep: Candidates of a query.
        threads: Threads to use.
        max_group: Queries of a task at most.
        kept_sorted: Candidates up to which they are kept in order.
    """
    capacity = keep if keep <= kept_sorted else 2 * keep
    group = max(1, min(max_group, -(-n_queries // threads), BUFFER_BYTES // (8 * capacity)))
    shards = min(n_probes, threads) if n_queries < threads else 1
    return ScanSizes(capacity, group, shards, threads)
