"""How an exact search on the CPU is cut up into tasks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALONE", "BUFFER_BYTES", "SORTED", "TILE_VALUES", "Cut", "cut"]

LANE_VALUES = 1 << 17  # of the queries of a task: they stay in L2 while tiles of rows pass by
GROUP = (
    256,
    1024,
)  # queries of a task: fewer read the data too often, more leave no cache to the rows
SHARD_ROWS = 2048
BUFFER_BYTES = 8 << 20  # for the candidates of a task
ALONE = 4_000_000  # products that are not worth waking other threads for
SORTED = 32  # candidates that are kept in order as they come; more are collected, and the best selected now and then
TILE_VALUES = 1 << 15  # of the rows that pass by


@dataclass(frozen=True)
class Cut:
    """Sizes of one search: they change its speed and its memory, not its result.

    Attributes:
        keep: candidates of a query; more than k, as distances are computed again before they are compared.
        capacity: places for them before the best are kept; where it is no more, they are kept in order.
        group: queries of a task.
        shards: parts of the rows, each a task.
        tile: rows that are read at a time.
        threads: threads to use.
    """

    keep: int
    capacity: int
    group: int
    shards: int
    tile: int
    threads: int

    def slot_bytes(self, d: int) -> int:
        """Memory of a thread."""
        lanes = (self.group + 64) * (4 * d + 4)
        keys = self.group * (8 * self.capacity + 8 * self.keep + 16)
        return lanes + keys + 4 * d * (self.tile + 28) + 48 * self.keep + 8192


def cut(b: int, q: int, n: int, d: int, k: int, threads: int, room: int) -> Cut:
    """Cut up a search of k of n rows for b times q queries, within `room` bytes if that is possible."""
    keep = min(n, k + 2 + k // 16)
    capacity = keep if keep <= SORTED else max(keep + 1, min(n, 2 * keep))
    if b * q * n * (d + 8) < ALONE:  # 8: to look for the best among them
        threads = 1
    low, high = GROUP
    group = min(
        high,
        max(low, LANE_VALUES // d),
        max(low, -(-q // (2 * threads))),
        max(1, BUFFER_BYTES // (8 * capacity)),
    )
    group = min(q, group if group < 64 else group // 64 * 64)
    tile = min(n, max(24, TILE_VALUES // d))
    found = Cut(keep, capacity, group, 1, tile, threads)
    while found.threads * found.slot_bytes(d) > room and (found.threads > 1 or found.group > 1):
        t, g = (found.threads - 1, found.group) if found.threads > 1 else (1, -(-found.group // 2))
        found = Cut(keep, capacity, g, 1, tile, t)
    tasks = b * -(-q // found.group)
    if tasks < 2 * found.threads and found.threads > 1:
        shards = min(-(-2 * found.threads // tasks), -(-n // SHARD_ROWS))
        parts = 8 * tasks * shards * found.group * keep
        if found.threads * found.slot_bytes(d) + 2 * parts <= room:
            found = Cut(keep, capacity, found.group, shards, tile, found.threads)
    return found
