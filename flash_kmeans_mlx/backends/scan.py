"""Scans of inverted lists: for every query the nearest rows of the lists that it names."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..proximity import Proximity
from .neighbours import Found

__all__ = ["Lists", "ranked", "scan_reference"]


class Lists(Protocol):
    """What a scan reads of inverted lists; see index/lists.py. Rows begin with the vectors as they are."""

    payload: np.ndarray
    ids: np.ndarray
    next: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    cache: dict[int, Any]

    def slots(self, number: int) -> np.ndarray: ...
    def rows(self, slots: np.ndarray) -> np.ndarray: ...


def scan_reference(lists: Lists, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
    """(Q, k) float64 distances and int64 ids, by distance, then by id; inf and -1 where there are fewer rows.

    Args:
        lists: they hold the rows.
        proximity: the distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: neighbours of every query.
    """
    slots = [np.concatenate([lists.slots(number) for number in row]) for row in probes.tolist()]
    return ranked(lists, proximity, queries, slots, k)


def ranked(lists: Lists, proximity: Proximity, queries: np.ndarray, slots: list[np.ndarray], k: int) -> Found:
    """As `scan_reference`, among the rows at slots[i] for query i, by the definition of the distance in float64."""
    distances, ids = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for i, (query, places) in enumerate(zip(queries.astype(np.float64), slots, strict=True)):
        if len(places):
            rows = lists.rows(places)[:, : len(query)].astype(np.float64)
            value, own = proximity.distances(query, rows), lists.ids.reshape(-1)[places]
            order = np.lexsort([own, value])[:k]
            distances[i, : len(order)], ids[i, : len(order)] = value[order], own[order]
    return distances, ids
