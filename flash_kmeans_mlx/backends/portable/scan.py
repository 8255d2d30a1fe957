"""Scans of inverted lists of vectors by MLX operations: candidates on the device, ranked on the host."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ...frame import EPS
from ...metrics import Proximity, unit_rows
from ..bounds import TINY, WIDE, product_rounding
from ..neighbours import Found
from ..reference.scan import scan_lists as scan_reference
from ..scan import Lists

__all__ = ["scan_lists"]

PLACES = 1 << 22  # for candidates of the queries that are scanned for at a time
RANKED = 1 << 20  # values of candidates' rows that are in float64 at a time


class _Part(NamedTuple):
    """A list on the device: its rows, of norm 1 for "cosine", less their mean; what is taken off products with queries."""

    rows: mx.array
    bias: mx.array
    mean: np.ndarray
    reach: float  # the largest norm of the rows


def _part(lists: Lists, proximity: Proximity, number: int, d: int) -> _Part:
    """A list, kept on the device until it changes."""
    if number not in lists.cache:
        rows = lists.rows(lists.slots(number))[:, :d].astype(np.float64)
        rows = unit_rows(rows) if proximity.unit else rows
        mean = rows.mean(0)
        rows = rows - mean
        square = np.square(rows).sum(1)
        bias = np.zeros_like(square) if proximity.similarity else square / 2
        rows, bias = mx.array(rows.astype(np.float32)), mx.array(bias.astype(np.float32))
        lists.cache[number] = _Part(rows, bias, mean, float(np.sqrt(square.max())))
    return lists.cache[number]


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """As `reference/scan.py`: candidates in float32 on the device, list by list, ranked on the host in float64.

    Where rounding could hide a neighbour, because a row that was left out scores too close to the k-th, the query is
    searched again by `reference/scan.py`.
    """
    width = max(1, int(min(k + 8 + k // 8, lists.counts[np.unique(probes)].max())))
    step = max(1, PLACES // (width * probes.shape[1]))
    parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
    found = [_scan_some(lists, proximity, queries[part], probes[part], k, width) for part in parts]
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _scan_some(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int, width: int
) -> Found:
    (q, d), wide = queries.shape, queries.astype(np.float64)
    asking = unit_rows(wide) if proximity.unit else wide
    value, slots = np.full((probes.size, width), np.inf), np.zeros((probes.size, width), np.int64)
    dropped, error = (
        np.full(q, np.inf),
        np.zeros(q),
    )  # the least value of the rows that are left out, and what is off in it
    scored = []
    order = np.argsort(probes, axis=None, kind="stable")
    numbers, starts = np.unique(probes.reshape(-1)[order], return_index=True)
    for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        if not lists.counts[number]:
            continue
        who, part = places // probes.shape[1], _part(lists, proximity, number, d)
        near = asking[who] if proximity.similarity else asking[who] - part.mean
        norm = np.sqrt(np.square(near).sum(1))
        base = -near @ part.mean if proximity.similarity else np.square(norm)
        scores = mx.array(near.astype(np.float32)) @ part.rows.T - part.bias
        m = min(width, int(lists.counts[number]))
        index = mx.argpartition(-scores, m - 1, axis=1)[:, :m]
        scored.append((number, places, base, index, mx.take_along_axis(scores, index, axis=1)))
        size = norm * part.reach if proximity.similarity else np.square(norm + part.reach)
        off = ((d + 12) * EPS + product_rounding()) * size + d * TINY * (1.0 + norm + part.reach)
        off += (
            4 * (d + 8) * WIDE * norm * float(np.linalg.norm(part.mean))
            if proximity.similarity
            else 0.0
        )
        np.maximum.at(
            error, who, 2.0 * off + (d + 8) * WIDE * (norm + part.reach + WIDE) * proximity.unit
        )
    mx.eval([part[3:] for part in scored])
    for number, places, base, index, scores in scored:
        own = base[:, None] - (1 if proximity.similarity else 2) * np.array(scores, np.float64)
        m = own.shape[1]
        value[places, :m], slots[places, :m] = own, lists.slots(number)[np.array(index)]
        if m < lists.counts[number]:
            np.minimum.at(dropped, places // probes.shape[1], own.max(1))
    value, slots = value.reshape(q, -1), slots.reshape(q, -1)
    keep = min(k + 8 + k // 8, value.shape[1])
    if keep < value.shape[1]:
        order = np.argpartition(value, keep, axis=1)[:, : keep + 1]
        value, slots = np.take_along_axis(value, order, 1), np.take_along_axis(slots, order, 1)
        dropped = np.minimum(dropped, value[:, keep])
        value, slots = value[:, :keep], slots[:, :keep]
    distances, ids = _ranked(lists, proximity, wide, np.isfinite(value), slots, k)
    last = distances[:, -1] * (
        2.0 if proximity.unit else 1.0
    )  # squares of differences are twice 1 - cos, or less for zeros
    doubtful = np.flatnonzero(np.isfinite(dropped) & (last >= dropped - error))
    if len(doubtful):
        distances[doubtful], ids[doubtful] = scan_reference(
            lists, proximity, queries[doubtful], probes[doubtful], k
        )
    return distances, ids


def _ranked(
    lists: Lists,
    proximity: Proximity,
    queries: np.ndarray,
    real: np.ndarray,
    slots: np.ndarray,
    k: int,
) -> Found:
    """The first k of the rows at `slots` (Q, M), of those that are real, by distances from queries (Q, D) in float64."""
    (q, d), m = queries.shape, slots.shape[1]
    distances, ids = np.full((q, k), np.inf), np.full((q, k), -1)
    step = max(1, RANKED // (m * d))
    for lo in range(0, q, step):
        some = slice(lo, lo + step)
        rows = lists.rows(slots[some].reshape(-1))[:, :d].astype(np.float64).reshape(-1, m, d)
        own = np.where(real[some], lists.ids.reshape(-1)[slots[some]], -1)
        value = np.where(real[some], proximity.distances(queries[some], rows), np.inf)
        order = np.lexsort([own, value])[:, :k]
        distances[some, : order.shape[1]] = np.take_along_axis(value, order, 1)
        ids[some, : order.shape[1]] = np.take_along_axis(own, order, 1)
    return distances, ids
