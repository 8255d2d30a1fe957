"""Scans of inverted lists of vectors in float64."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..neighbours import Found
from ..scan import Lists

__all__ = ["scan_lists"]


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """Return the nearest rows of the lists that each query names; see `backends.scan_lists`."""
    distances = np.full((len(queries), k), np.inf)
    ids = np.full((len(queries), k), -1)
    for q, query in enumerate(queries.astype(np.float64)):
        slots = np.concatenate([lists.slots(number) for number in probes[q].tolist()])
        if len(slots):
            rows = lists.rows(slots)[:, : len(query)].astype(np.float64)
            row_ids = lists.ids.reshape(-1)[slots]
            values = proximity.distances(query, rows)
            order = np.lexsort([row_ids, values])[:k]
            distances[q, : len(order)] = values[order]
            ids[q, : len(order)] = row_ids[order]
    return distances, ids
