"""The methods that indexes share which keep their vectors in inverted lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Index
from .lists import InvertedLists

__all__ = ["Listed"]


class Listed(Index):
    """An index whose snapshots have a field `lists`, with all vectors."""

    @property
    def lists(self) -> InvertedLists:
        return self._snapshot.lists

    def _count(self, snapshot: Any) -> int:
        return len(snapshot.lists)

    def _ids(self, snapshot: Any) -> np.ndarray:
        return snapshot.lists.sorted_ids()[0]

    def _places(self, snapshot: Any, ids: np.ndarray) -> np.ndarray:
        return snapshot.lists.find(ids)

    def _after_remove(self, snapshot: Any, places: np.ndarray) -> Any:
        return snapshot._replace(lists=snapshot.lists.removed(places))

    def _part(self, snapshot: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
        return snapshot.lists.part(snapshot.lists.find(ids))

    def _after_merge(self, snapshot: Any, part: dict[str, np.ndarray]) -> Any:
        return snapshot._replace(lists=snapshot.lists.merged(part))
