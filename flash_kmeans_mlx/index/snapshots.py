"""Functions of a snapshot of an index: the next snapshot, or results of a search.

Nothing here changes an index: `base.Index` puts snapshots in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .. import validation
from ..errors import NotFittedError
from .arguments import distinct_ids, next_ids, vectors
from .results import Found
from .sources import TrainingRows

__all__ = ["Snapshots"]


class Snapshots(ABC):
    """An index as functions of its snapshots, which are NamedTuples with a field `next_id`.

    Attributes:
        d, metric, backend: As in `Index`.
    """

    metrics: ClassVar[tuple[str, ...]] = ("euclidean", "cosine", "dot")
    _limit: float = np.inf  # the largest magnitude of a vector, a power of two
    d: int
    metric: str
    backend: str | None

    # Subclasses define the following. Arguments are checked, and arrays are NumPy's.

    @abstractmethod
    def _count(self, snapshot: Any) -> int:
        """Return the number of vectors."""

    @abstractmethod
    def _is_ready(self, snapshot: Any) -> bool:
        """Return whether vectors can be added."""

    @abstractmethod
    def _after_train(self, snapshot: Any, rows: TrainingRows, verbose: bool) -> Any:
        """Return the next snapshot, which has learned from rows (N, D) float32; see `train`."""

    @abstractmethod
    def _after_add(self, snapshot: Any, rows: np.ndarray, ids: np.ndarray) -> Any:
        """Return the next snapshot, with rows (N, D) float32 and their new ids (N,) int64."""

    @abstractmethod
    def _after_remove(self, snapshot: Any, places: np.ndarray) -> Any:
        """Return the next snapshot, without the vectors at places (M,), M >= 1."""

    @abstractmethod
    def _search(
        self,
        snapshot: Any,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        **options: Any,
    ) -> Found:
        """Return the k nearest of queries (Q, D) float32, in order; id -1 for none.

        k is at most the number of vectors; with `places` (M,), only those there count.
        """

    @abstractmethod
    def _ids(self, snapshot: Any) -> np.ndarray:
        """Return all ids (N,) int64 in ascending order."""

    @abstractmethod
    def _places(self, snapshot: Any, ids: np.ndarray) -> np.ndarray:
        """Return where the index stores each of ids (M,): (M,) int64, -1 for nowhere."""

    @abstractmethod
    def _rows_at(self, snapshot: Any, places: np.ndarray) -> np.ndarray:
        """Return the vectors (M, D) float32 at places (M,)."""

    @abstractmethod
    def _state(self, snapshot: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restore` makes the index from: (parameters for JSON, arrays)."""

    # Subclasses share the following.

    def _reserve(self, snapshot: Any, n: int) -> None:  # noqa: B027
        """Make room for n more vectors, where it is known how much they take."""

    def _parameters(self, snapshot: Any) -> dict[str, Any]:
        """Return the parameters of `_state`."""
        return self._state(snapshot)[0]

    def _part(self, snapshot: Any, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return what `_after_merge` takes of the vectors with ids (M,): arrays of M rows."""
        return {"rows": self._rows_at(snapshot, self._places(snapshot, ids)), "ids": ids}

    def _after_merge(self, snapshot: Any, part: dict[str, np.ndarray]) -> Any:
        """Return the next snapshot, with vectors that `_part` returned, whose ids are new.

        Raises:
            KeyError, TypeError, ValueError: The part is damaged.
        """
        rows, _ = vectors(validation.data(part["rows"], name="rows"), self.d, self._limit)
        return self._after_add(snapshot, rows, distinct_ids(part["ids"], len(rows)))

    def _with_rows(
        self, snapshot: Any, pieces: Iterable[tuple[int, np.ndarray]], ids: np.ndarray
    ) -> Any:
        """Return the next snapshot, with vectors and their new ids (N,).

        Args:
            snapshot: The present one.
            pieces: The first row and the rows (n, D) float32 of each piece, in order.
            ids: (N,) int64, that `_new_ids` returned.
        """
        next_id = max(snapshot.next_id, int(ids.max()) + 1)
        self._reserve(snapshot, len(ids))
        for lo, rows in pieces:  # snapshots in between are never put in place
            snapshot = self._after_add(snapshot, rows, ids[lo : lo + len(rows)])
        return snapshot._replace(next_id=next_id)

    def _held_places(self, snapshot: Any, ids: np.ndarray) -> np.ndarray:
        """Return the places (n <= M,) of those of ids (M,) that the index holds."""
        places = self._places(snapshot, ids) if self._count(snapshot) else ids[:0]
        return places[places >= 0]

    def _without(self, snapshot: Any, ids: np.ndarray) -> tuple[Any, int]:
        """Return the next snapshot, without distinct ids (M,), and how many there were."""
        places = self._held_places(snapshot, ids)
        return self._after_remove(snapshot, places) if len(places) else snapshot, len(places)

    def _check_trained(self, verb: str, snapshot: Any) -> None:
        if not self._is_ready(snapshot):
            raise NotFittedError(f"{verb} needs a trained index: call train first")

    def _new_ids(self, snapshot: Any, ids: Any, n: int) -> np.ndarray:
        """Return the ids (n,) int64 of n new vectors: `ids` if they are new, or the next ones."""
        if ids is None:
            return next_ids(snapshot.next_id, n)
        ids = distinct_ids(ids, n)
        may_hold = ids.min() < snapshot.next_id and self._count(snapshot)
        taken = ids[self._places(snapshot, ids) >= 0] if may_hold else ids[:0]
        if len(taken):
            raise ValueError(f"ids must be new, got {taken[0]}, which the index holds")
        return ids
