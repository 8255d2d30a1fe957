"""For every query the nearest rows of the inverted lists that it names, in float64."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..neighbours import Found
from ..scan import Lists

__all__ = ["scan_lists"]


def scan_lists(
    lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """(Q, k) float64 distances and int64 ids, by distance, then by id; inf and -1 where there are fewer rows.

    Args:
        lists: they hold the rows.
        proximity: the distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: neighbours of every query.
    """
    distances, ids = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for i, query in enumerate(queries.astype(np.float64)):
        slots = np.concatenate([lists.slots(number) for number in probes[i].tolist()])
        rows, own = (
            lists.rows(slots)[:, : len(query)].astype(np.float64),
            lists.ids.reshape(-1)[slots],
        )
        value = proximity.distances(query, rows) if len(slots) else np.zeros(0)
        order = np.lexsort([own, value])[:k]
        distances[i, : len(order)], ids[i, : len(order)] = value[order], own[order]
    return distances, ids
