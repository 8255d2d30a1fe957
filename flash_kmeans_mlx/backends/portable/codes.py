"""Scans of inverted lists of codes by MLX operations.

Candidates are found by tables and look-ups on the device, list by list, and ranked on the host.
Lists of scalar-quantized codes are decoded when they are searched first, and kept as vectors.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ...metrics import Proximity, unit_rows
from ..codes import Coding, DecodedLists, ProductCoding, unpack
from ..neighbours import Found
from ..reference.codes import nearest_of
from ..reference.codes import scan_codes as scan_reference
from ..scan import Lists
from .scan import scan_lists

__all__ = ["scan_codes"]

TILE = 1 << 22  # scores that are on the device together


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest decoded rows of the lists of each query; see `backends.scan_codes`."""
    if not isinstance(coding, ProductCoding) or coding.is_scalar:
        return scan_lists(DecodedLists(lists, coding), proximity, queries, probes, k)
    largest = max(int(lists.counts[np.unique(probes)].max()), coding.codebooks.size)
    step = max(1, TILE // largest)
    parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
    found = [_scan_some(lists, coding, proximity, queries[part], probes[part], k) for part in parts]
    distances, ids = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(ids)


def _scan_some(
    lists: Lists,
    coding: ProductCoding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Search for some queries."""
    keep = k + 2 + k // 16
    targets = unit_rows(queries) if proximity.unit else queries.astype(np.float64)
    tables = _tables(coding, proximity, targets)
    nothing = np.zeros(0, np.float32), np.zeros(0, np.int64)
    candidates: list[list[tuple[np.ndarray, np.ndarray]]] = [[nothing] for _ in queries]
    tied = np.zeros(len(queries), bool)
    for number in np.unique(probes).tolist():
        slots = lists.slots(number)
        if not len(slots):
            continue
        asking = np.flatnonzero((probes == number).any(1))
        list_tables = tables[mx.array(asking)]
        scores = _scores(lists, coding, proximity, number, slots, list_tables, targets[asking])
        order = np.arange(len(slots))[None].repeat(len(asking), 0)
        if len(slots) > keep + 1:
            order = np.array(mx.argpartition(-scores, keep, axis=1)[:, : keep + 1])
        values = np.take_along_axis(np.array(scores), order, 1)
        if len(slots) > keep + 1:
            lowest = np.partition(values, 1, axis=1)
            tied[asking] |= lowest[:, 0] == lowest[:, 1]
        for i, query in enumerate(asking):
            candidates[query].append((values[i], slots[order[i]]))
    best = [_best(parts, keep) for parts in candidates]
    distances, ids = nearest_of(lists, coding, proximity, queries, best, k)
    if tied.any():  # rows that were left out may score as well: the ids decide
        again = scan_reference(lists, coding, proximity, queries[tied], probes[tied], k)
        distances[tied], ids[tied] = again
    return distances, ids


def _tables(coding: ProductCoding, proximity: Proximity, targets: np.ndarray) -> mx.array:
    """Return (Q, m, 2**nbits), the addend of each codeword to the scores of targets (Q, d)."""
    m = len(coding.codebooks)
    books = mx.array(coding.codebooks)
    if not proximity.product and not coding.residual:
        parts = mx.array(targets.astype(np.float32)).reshape(len(targets), m, 1, -1)
        return -0.5 * mx.square(parts - books).sum(-1)
    origin = np.zeros(targets.shape[1]) if proximity.product else coding.mean
    parts = mx.array((targets - origin).astype(np.float32)).reshape(len(targets), m, 1, -1)
    return (parts * books).sum(-1)


def _scores(
    lists: Lists,
    coding: ProductCoding,
    proximity: Proximity,
    number: int,
    slots: np.ndarray,
    tables: mx.array,
    targets: np.ndarray,
) -> mx.array:
    """Return the scores (Q, rows) of a list's rows; labels stay on the device until it changes."""
    m = len(coding.codebooks)
    if number not in lists.cache:
        payload = lists.rows(slots)
        tail = np.ascontiguousarray(payload[:, coding.code_size :]).view("<f4").reshape(-1)
        labels = unpack(payload[:, : coding.code_size], m, coding.nbits)
        lists.cache[number] = mx.array(labels), mx.array(tail)
    labels, terms = lists.cache[number]
    centroid = coding.centroids[number].astype(np.float64)
    if proximity.product:
        start = targets @ centroid
    elif coding.residual:
        start = -0.5 * np.square(targets - centroid).sum(1)
    else:
        start = np.zeros(len(targets))
    scores = mx.array(start.astype(np.float32))[:, None]
    for j in range(m):
        scores = scores + mx.take(tables[:, j], labels[:, j], axis=1)
    if proximity.unit:
        return scores * terms
    return scores - terms if terms.size else scores


def _best(parts: list[tuple[np.ndarray, np.ndarray]], keep: int) -> np.ndarray:
    """Return the slots of the `keep` best of (scores, slots), and of all that tie with the last."""
    scores, slots = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(scores) <= keep:
        return slots
    return slots[scores >= np.partition(scores, -keep)[-keep]]
