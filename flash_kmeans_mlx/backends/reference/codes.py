"""Scans of inverted lists of codes in float64."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..codes import Coding
from ..neighbours import Found
from ..scan import Lists

__all__ = ["nearest_of", "scan_codes"]


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """Return the nearest decoded rows of the lists of each query; see `backends.scan_codes`."""
    slots = [np.concatenate([lists.slots(number) for number in row]) for row in probes.tolist()]
    return nearest_of(lists, coding, proximity, queries, slots, k)


def nearest_of(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    slots: list[np.ndarray],
    k: int,
) -> Found:
    """Return the nearest of the decoded rows at slots[q] for each query q, as `scan_codes` does."""
    distances = np.full((len(queries), k), np.inf)
    ids = np.full((len(queries), k), -1)
    for q, query in enumerate(queries.astype(np.float64)):
        if len(slots[q]):
            numbers = lists.owner[slots[q] // lists.ids.shape[1]]
            rows = coding.decode(lists.rows(slots[q]), numbers).astype(np.float64)
            row_ids = lists.ids.reshape(-1)[slots[q]]
            values = proximity.distances(query, rows)
            order = np.lexsort([row_ids, values])[:k]
            distances[q, : len(order)] = values[order]
            ids[q, : len(order)] = row_ids[order]
    return distances, ids
