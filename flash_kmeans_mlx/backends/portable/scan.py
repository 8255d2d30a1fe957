"""Scans of inverted lists of vectors by MLX operations.

Candidates are found in float32 on the device, list by list, and ranked on the host in float64.
Where rounding could hide a neighbour, because a row that was left out scores too close to the k-th,
the query is searched again by the reference backend.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ...frame import EPS
from ...metrics import Proximity, unit_rows
from ..bounds import EPS64, TINY, product_rounding
from ..neighbours import Found
from ..reference.scan import scan_lists as scan_reference
from ..scan import Lists

__all__ = ["scan_lists"]

PLACES = 1 << 22  # places for candidates of the queries that are searched together
RANKED = 1 << 20  # values of candidates' rows that are in float64 together


class _DeviceList(NamedTuple):
    """A list on the device.

    Attributes:
        rows: (n, d) float32 rows less their mean; of norm 1 before that for "cosine".
        bias: (n,) float32, subtracted from products with queries.
        mean: (d,) float64.
        reach: The largest norm of `rows`.
    """

    rows: mx.array
    bias: mx.array
    mean: np.ndarray
    reach: float


class _ListScores(NamedTuple):
    """The best rows of one list for the queries that look at it.

    Attributes:
        number: The list.
        places: (n,) the places in the probes, flattened, that name it.
        base: (n,) float64; a row's value is this less its score, or less twice its score.
        best: (n, m) rows of the list, on the device.
        scores: (n, m) their scores, on the device.
    """

    number: int
    places: np.ndarray
    base: np.ndarray
    best: mx.array
    scores: mx.array


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows of the lists that each query names; see `backends.scan_lists`."""
    width = max(1, int(min(k + 8 + k // 8, lists.counts[np.unique(probes)].max())))
    step = max(1, PLACES // (width * probes.shape[1]))
    parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
    found = [_scan_some(lists, proximity, queries[part], probes[part], k, width) for part in parts]
    distances, ids = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(ids)


def _scan_some(
    lists: Lists,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
    width: int,
) -> Found:
    """Search for some queries; `width` rows of each list become candidates."""
    n_queries, n_probes = probes.shape
    wide = queries.astype(np.float64)
    scored, error = _score(lists, proximity, wide, probes, width)
    values = np.full((probes.size, width), np.inf)
    slots = np.zeros((probes.size, width), np.int64)
    dropped = np.full(n_queries, np.inf)  # the least value of the rows that are left out
    for part in scored:
        factor = 1 if proximity.similarity else 2
        part_values = part.base[:, None] - factor * np.array(part.scores, np.float64)
        m = part_values.shape[1]
        values[part.places, :m] = part_values
        slots[part.places, :m] = lists.slots(part.number)[np.array(part.best)]
        if m < lists.counts[part.number]:
            np.minimum.at(dropped, part.places // n_probes, part_values.max(1))
    values = values.reshape(n_queries, -1)
    slots = slots.reshape(n_queries, -1)
    keep = min(k + 8 + k // 8, values.shape[1])
    if keep < values.shape[1]:
        order = np.argpartition(values, keep, axis=1)[:, : keep + 1]
        values = np.take_along_axis(values, order, 1)
        slots = np.take_along_axis(slots, order, 1)
        dropped = np.minimum(dropped, values[:, keep])
        values = values[:, :keep]
        slots = slots[:, :keep]
    distances, ids = _rank(lists, proximity, wide, np.isfinite(values), slots, k)
    # Squares of differences of unit rows are twice 1 - cos, or less where a row is zero.
    last = distances[:, -1] * (2.0 if proximity.unit else 1.0)
    doubtful = np.flatnonzero(np.isfinite(dropped) & (last >= dropped - error))
    if len(doubtful):
        again = scan_reference(lists, proximity, queries[doubtful], probes[doubtful], k)
        distances[doubtful], ids[doubtful] = again
    return distances, ids


def _score(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, width: int
) -> tuple[list[_ListScores], np.ndarray]:
    """Return the best rows of every list for its queries (Q, D), and bounds (Q,) of rounding."""
    d = queries.shape[1]
    targets = unit_rows(queries) if proximity.unit else queries
    error = np.zeros(len(queries))
    scored = []
    order = np.argsort(probes, axis=None, kind="stable")
    numbers, starts = np.unique(probes.reshape(-1)[order], return_index=True)
    for number, places in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        if not lists.counts[number]:
            continue
        asking = places // probes.shape[1]
        part = _device_list(lists, proximity, number, d)
        near = targets[asking] if proximity.similarity else targets[asking] - part.mean
        norm = np.sqrt(np.square(near).sum(1))
        base = -near @ part.mean if proximity.similarity else np.square(norm)
        scores = mx.array(near.astype(np.float32)) @ part.rows.T - part.bias
        m = min(width, int(lists.counts[number]))
        index = mx.argpartition(-scores, m - 1, axis=1)[:, :m]
        best = mx.take_along_axis(scores, index, axis=1)
        scored.append(_ListScores(number, places, base, index, best))
        size = norm * part.reach if proximity.similarity else np.square(norm + part.reach)
        off = ((d + 12) * EPS + product_rounding()) * size
        off += d * TINY * (1.0 + norm + part.reach)
        if proximity.similarity:
            off += 4 * (d + 8) * EPS64 * norm * float(np.linalg.norm(part.mean))
        unit_rounding = (d + 8) * EPS64 * (norm + part.reach + EPS64) * proximity.unit
        np.maximum.at(error, asking, 2.0 * off + unit_rounding)
    mx.eval([(part.best, part.scores) for part in scored])
    return scored, error


def _device_list(lists: Lists, proximity: Proximity, number: int, d: int) -> _DeviceList:
    """Return a list on the device; it is kept there until it changes."""
    if number not in lists.cache:
        rows = lists.rows(lists.slots(number))[:, :d].astype(np.float64)
        rows = unit_rows(rows) if proximity.unit else rows
        mean = rows.mean(0)
        rows = rows - mean
        square = np.square(rows).sum(1)
        bias = np.zeros_like(square) if proximity.similarity else square / 2
        lists.cache[number] = _DeviceList(
            rows=mx.array(rows.astype(np.float32)),
            bias=mx.array(bias.astype(np.float32)),
            mean=mean,
            reach=float(np.sqrt(square.max())),
        )
    return lists.cache[number]


def _rank(
    lists: Lists,
    proximity: Proximity,
    queries: np.ndarray,
    is_row: np.ndarray,
    slots: np.ndarray,
    k: int,
) -> Found:
    """Return the first k of the rows at `slots` (Q, M), where `is_row`, by float64 distances."""
    n_queries, d = queries.shape
    m = slots.shape[1]
    distances = np.full((n_queries, k), np.inf)
    ids = np.full((n_queries, k), -1)
    step = max(1, RANKED // (m * d))
    for lo in range(0, n_queries, step):
        part = slice(lo, lo + step)
        rows = lists.rows(slots[part].reshape(-1))[:, :d].astype(np.float64).reshape(-1, m, d)
        row_ids = np.where(is_row[part], lists.ids.reshape(-1)[slots[part]], -1)
        values = np.where(is_row[part], proximity.distances(queries[part], rows), np.inf)
        order = np.lexsort([row_ids, values])[:, :k]
        distances[part, : order.shape[1]] = np.take_along_axis(values, order, 1)
        ids[part, : order.shape[1]] = np.take_along_axis(row_ids, order, 1)
    return distances, ids
