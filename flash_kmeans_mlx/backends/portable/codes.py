"""Scans of inverted lists of codes by MLX operations: candidates by tables and look-ups, ranked on the host."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...metrics import Proximity, unit_rows
from ..codes import Coding, unpack
from ..neighbours import Found
from ..reference.codes import ranked
from ..reference.codes import scan_codes as scan_reference
from ..scan import Lists

__all__ = ["scan_codes"]

TILE = 1 << 22  # scores on the device at a time


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """As `reference/codes.py`: candidates by tables and look-ups in MLX, list by list, then ranked on the host."""
    largest = max(int(lists.counts[np.unique(probes)].max()), coding.codebooks.size)
    step = max(1, TILE // largest)
    parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
    found = [_scan_some(lists, coding, proximity, queries[some], probes[some], k) for some in parts]
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _scan_some(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    keep = k + 2 + k // 16
    asking = unit_rows(queries) if proximity.unit else queries.astype(np.float64)
    tables = _tables(coding, proximity, asking)
    best: list[list[tuple[np.ndarray, np.ndarray]]] = [
        [(np.zeros(0, np.float32), np.zeros(0, np.int64))] for _ in queries
    ]
    tied = np.zeros(len(queries), bool)
    for number in np.unique(probes).tolist():
        slots = lists.slots(number)
        if not len(slots):
            continue
        own = np.flatnonzero((probes == number).any(1))
        scores = _scores(
            lists, coding, proximity, number, slots, tables[mx.array(own)], asking[own]
        )
        order = np.arange(len(slots))[None].repeat(len(own), 0)
        if len(slots) > keep + 1:
            order = np.array(mx.argpartition(-scores, keep, axis=1)[:, : keep + 1])
        value = np.take_along_axis(np.array(scores), order, 1)
        if len(slots) > keep + 1:
            lowest = np.partition(value, 1, axis=1)
            tied[own] |= lowest[:, 0] == lowest[:, 1]
        for i, query in enumerate(own):
            best[query].append((value[i], slots[order[i]]))
    distances, ids = ranked(
        lists, coding, proximity, queries, [_best(parts, keep) for parts in best], k
    )
    if tied.any():  # rows that were left out may score as well: the ids decide
        distances[tied], ids[tied] = scan_reference(
            lists, coding, proximity, queries[tied], probes[tied], k
        )
    return distances, ids


def _tables(coding: Coding, proximity: Proximity, asking: np.ndarray) -> mx.array:
    """(Q, m, 2**nbits): what the codewords add to the scores of queries (Q, d); see kernels/cpu/codes.py."""
    m, books = len(coding.codebooks), mx.array(coding.codebooks)
    if not proximity.product and not coding.residual:
        parts = mx.array(asking.astype(np.float32)).reshape(len(asking), m, 1, -1)
        return -0.5 * mx.square(parts - books).sum(-1)
    origin = np.zeros(asking.shape[1]) if proximity.product else coding.mean
    parts = mx.array((asking - origin).astype(np.float32)).reshape(len(asking), m, 1, -1)
    return (parts * books).sum(-1)


def _scores(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    number: int,
    slots: np.ndarray,
    tables: mx.array,
    asking: np.ndarray,
) -> mx.array:
    """(Q, rows) scores of a list's rows for some queries, by their tables; its labels stay on the device until it changes."""
    m = len(coding.codebooks)
    if number not in lists.cache:
        payload = lists.rows(slots)
        tail = np.ascontiguousarray(payload[:, coding.code_size :]).view("<f4").reshape(-1)
        lists.cache[number] = (
            mx.array(unpack(payload[:, : coding.code_size], m, coding.nbits)),
            mx.array(tail),
        )
    labels, tail = lists.cache[number]
    centroid = coding.centroids[number].astype(np.float64)
    if proximity.product:
        start = asking @ centroid
    else:
        start = (
            -0.5 * np.square(asking - centroid).sum(1) if coding.residual else np.zeros(len(asking))
        )
    scores = mx.array(start.astype(np.float32))[:, None]
    for j in range(m):
        scores = scores + mx.take(tables[:, j], labels[:, j], axis=1)
    if proximity.unit:
        return scores * tail
    return scores - tail if tail.size else scores


def _best(parts: list[tuple[np.ndarray, np.ndarray]], keep: int) -> np.ndarray:
    """The slots of the `keep` best (scores, slots) of some lists, and of all that score as the last of them."""
    scores, slots = (np.concatenate(some) for some in zip(*parts, strict=True))
    return slots if len(scores) <= keep else slots[scores >= np.partition(scores, -keep)[-keep]]
