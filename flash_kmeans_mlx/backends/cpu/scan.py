"""Scans of inverted lists of vectors on the CPU: candidates and distances by the kernels of scan.py."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

from ...metrics import unit_rows
from ...proximity import Proximity
from ..neighbours import Found
from ..scan import Lists
from .topk import ALONE, BUFFER_BYTES
from .workers import Workers, thread_count

__all__ = ["scan_cpu"]

GROUP = 1024  # queries of a task at most
SORTED = 256  # candidates that are kept in order as they come: so that what a score must reach rises at once


@cache
def _kernels() -> ModuleType:
    return import_module("flash_kmeans_mlx.kernels.cpu.scan")


def scan_cpu(lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
    """As `scan_reference`. A task is some queries in all their lists or, where there are few queries, in some of them."""
    kernels = _kernels()
    op = {"euclidean": kernels.SQUARES, "cosine": kernels.COSINE, "dot": kernels.DOT}[proximity.name]
    (q, d), n_probes = queries.shape, probes.shape[1]
    rows = lists.counts[probes].sum(1)
    keep = min(int(rows.max()), k + 2 + k // 16) or 1
    capacity = keep if keep <= SORTED else 2 * keep
    threads = 1 if int(rows.sum()) * (d + 8) < ALONE else thread_count()
    group = max(1, min(GROUP, -(-q // threads), BUFFER_BYTES // (8 * capacity)))
    shards = min(n_probes, threads) if q < threads else 1
    order = np.argsort(probes[:, 0], kind="stable")  # queries that ask for the same lists go together
    asking = unit_rows(queries).astype(np.float32) if proximity.unit else queries
    ids = lists.ids.reshape(-1)
    distances, found = np.empty((q, k)), np.empty((q, k), np.int64)
    groups = -(-q // group)
    parts = np.zeros((groups, shards, group, keep), np.uint64)

    def search(_slot: int, i: int) -> None:
        g, s = divmod(i, shards)
        mine = order[g * group : (g + 1) * group]
        keys, filled = np.empty((len(mine), capacity), np.uint64), np.zeros(len(mine), np.int64)
        least = np.full(len(mine), -np.inf, np.float32)
        asked, lists_of = np.ascontiguousarray(asking[mine]), probes[mine, s::shards]
        for part in (lists_of[:, :1], lists_of[:, 1:]):  # the nearest lists first: few rows of the others are then looked at
            kernels.scan_lists(
                op, asked, np.ascontiguousarray(part), lists.payload, ids, lists.next, lists.first, lists.counts, keep,
                keys, filled, least,
            )  # fmt: skip
        kernels.settle_keys(keep, keys, filled, ids)
        parts[g, s, : len(mine)] = keys[:, :keep]

    def finish(_slot: int, g: int) -> None:
        mine = order[g * group : (g + 1) * group]
        keys = parts[g, 0, : len(mine)]
        if shards > 1:
            kernels.merge_keys(np.ascontiguousarray(parts[g, :, : len(mine)]), keys, ids)
        own = np.empty((len(mine), k)), np.empty((len(mine), k), np.int64)
        kernels.finish_keys(op, np.ascontiguousarray(queries[mine]), np.sort(keys, axis=1), lists.payload, ids, *own)
        distances[mine], found[mine] = own

    with closing(Workers(threads)) as workers:
        workers.run(search, groups * shards)
        workers.run(finish, groups)
    return distances, found
