"""For every query the nearest of the vectors that the codes of some inverted lists stand for, in float64."""

from __future__ import annotations

import numpy as np

from ...metrics import Proximity
from ..codes import Coding
from ..neighbours import Found
from ..scan import Lists

__all__ = ["ranked", "scan_codes"]


def scan_codes(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    probes: np.ndarray,
    k: int,
) -> Found:
    """(Q, k) float64 distances and int64 ids, by distance, then by id; inf and -1 where there are fewer rows.

    Distances are those to the vectors that the codes stand for.

    Args:
        lists: they hold the codes.
        coding: what the codes mean.
        proximity: the distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: neighbours of every query.
    """
    slots = [np.concatenate([lists.slots(number) for number in row]) for row in probes.tolist()]
    return ranked(lists, coding, proximity, queries, slots, k)


def ranked(
    lists: Lists,
    coding: Coding,
    proximity: Proximity,
    queries: np.ndarray,
    slots: list[np.ndarray],
    k: int,
) -> Found:
    """As `scan_codes`, among the rows at slots[i] for query i."""
    distances, ids = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for i, (query, places) in enumerate(zip(queries.astype(np.float64), slots, strict=True)):
        if len(places):
            rows = coding.decode(
                lists.rows(places), lists.owner[places // lists.ids.shape[1]]
            ).astype(np.float64)
            value, own = proximity.distances(query, rows), lists.ids.reshape(-1)[places]
            order = np.lexsort([own, value])[:k]
            distances[i, : len(order)], ids[i, : len(order)] = value[order], own[order]
    return distances, ids
