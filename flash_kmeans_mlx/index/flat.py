"""IndexFlat: exact search among all vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import backends, validation
from ..files.mapped import is_mapped
from ..metrics import PROXIMITIES
from ..neighbours.search import Search, nearest_rows
from .base import Index
from .growing import Growing
from .results import Found, as_float32
from .sources import TrainingRows, rows_to_train

__all__ = ["IndexFlat"]

PIECE = 1 << 25  # bytes of rows that a search with a filter copies at a time


class _FlatSnapshot(NamedTuple):
    """Vectors in the order of their ids: `knn` ranks equal distances by place, and so by id.

    Attributes:
        next_id: The id of the next vector without an id.
        rows: (capacity, D) float32, of which the first n count.
        ids: (capacity,) int64, likewise.
        n: Number of vectors.
        device: The rows as an `mx.array`, for backends that compute with MLX; empty until needed.
    """

    next_id: int
    rows: Growing
    ids: Growing
    n: int
    device: list[mx.array]


class IndexFlat(Index):
    """Exact search, as by `knn`, among vectors that are added and removed.

    Args:
        d, backend: As in `Index`.
        metric: "euclidean", "cosine", "dot", "l1" or "linf".

    Example:
        >>> import numpy as np
        >>> index = IndexFlat(2)
        >>> index.add(np.array([[0.0, 0.0], [3.0, 4.0]]), ids=[10, 20])
        >>> distances, ids = index.search(np.array([[3.0, 3.0]]), 3)
        >>> distances.tolist(), ids.tolist()
        ([[1.0, 18.0, inf]], [[20, 10, -1]])
    """

    metrics = tuple(PROXIMITIES)

    def __init__(
        self, d: int, metric: str | int = "euclidean", *, backend: str | None = None
    ) -> None:
        super().__init__(d, metric, backend=backend)
        rows = Growing(np.zeros((0, self.d), np.float32))
        ids = Growing(np.zeros(0, np.int64))
        self._snapshot = _FlatSnapshot(next_id=0, rows=rows, ids=ids, n=0, device=[])

    def _count(self, snapshot: _FlatSnapshot) -> int:
        return snapshot.n

    def _is_ready(self, snapshot: _FlatSnapshot) -> bool:
        return True

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Check x (N, D); there is nothing to learn."""
        validation.check_flag("verbose", verbose)
        rows_to_train(x, self.d)

    def _after_train(
        self, snapshot: _FlatSnapshot, rows: TrainingRows, verbose: bool
    ) -> _FlatSnapshot:
        return snapshot

    def _reserve(self, snapshot: _FlatSnapshot, n: int) -> None:
        for array in (snapshot.rows, snapshot.ids):
            array.reserve(snapshot.n + n)

    def _after_add(
        self, snapshot: _FlatSnapshot, rows: np.ndarray, ids: np.ndarray
    ) -> _FlatSnapshot:
        n = snapshot.n
        n_after = n + len(ids)
        for array, new in ((snapshot.rows, rows), (snapshot.ids, ids)):
            array.reserve(n_after)
            array.array[n:n_after] = new  # no search looks beyond n
        all_ids = snapshot.ids.array[:n_after]
        if (np.diff(all_ids[max(0, n - 1) :]) < 0).any():
            return self._selected(snapshot, np.argsort(all_ids))
        return snapshot._replace(n=n_after, device=[])

    def _selected(self, snapshot: _FlatSnapshot, places: np.ndarray) -> _FlatSnapshot:
        """Return a snapshot of the vectors at places (M,), in this order."""
        rows = Growing(snapshot.rows.array[places])
        ids = Growing(snapshot.ids.array[places])
        return _FlatSnapshot(snapshot.next_id, rows, ids, len(places), device=[])

    def _search(
        self,
        snapshot: _FlatSnapshot,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        **options: Any,
    ) -> Found:
        if places is not None:
            return self._search_places(snapshot, queries, k, places)
        rows: Any = snapshot.rows.array[: snapshot.n]
        backend = backends.resolve(self.backend)
        if backends.BACKENDS[backend].USES_MLX:
            if not snapshot.device:
                snapshot.device.append(mx.array(rows))
            rows = snapshot.device[0]
        distances, nearest = nearest_rows(queries, rows, k, PROXIMITIES[self.metric], backend)
        return as_float32(distances, self.metric), snapshot.ids.array[nearest]

    def _search_places(
        self, snapshot: _FlatSnapshot, queries: np.ndarray, k: int, places: np.ndarray
    ) -> Found:
        """Search among copies of the vectors at places (M,), some at a time."""
        step = max(1, PIECE // (4 * self.d))
        with Search(queries, k, self.metric, backend=self.backend) as search:
            for lo in range(0, len(places), step):
                search.add(snapshot.rows.array[places[lo : lo + step]], lo)
            distances, nearest = search.result()
        return distances, snapshot.ids.array[places[nearest]]

    def _ids(self, snapshot: _FlatSnapshot) -> np.ndarray:
        return snapshot.ids.array[: snapshot.n]

    def _places(self, snapshot: _FlatSnapshot, ids: np.ndarray) -> np.ndarray:
        own_ids = snapshot.ids.array[: snapshot.n]
        if snapshot.n and own_ids[-1] - own_ids[0] == snapshot.n - 1:  # consecutive
            is_own = (ids >= own_ids[0]) & (ids <= own_ids[-1])
            return np.where(is_own, ids - own_ids[0], -1)
        place = np.minimum(np.searchsorted(own_ids, ids), snapshot.n - 1)
        return np.where(own_ids[place] == ids, place, -1)

    def _rows_at(self, snapshot: _FlatSnapshot, places: np.ndarray) -> np.ndarray:
        return snapshot.rows.array[places]

    def _after_remove(self, snapshot: _FlatSnapshot, places: np.ndarray) -> _FlatSnapshot:
        return self._selected(snapshot, np.delete(np.arange(snapshot.n), places))

    def _mapped(self, rows: np.ndarray, ids: np.ndarray) -> _FlatSnapshot:
        """Return a snapshot of vectors (N, D) and ids (N,) that are mapped, and not read."""
        fit = rows.shape == (*ids.shape, self.d) and rows.dtype == np.float32
        if ids.ndim != 1 or ids.dtype != np.int64 or not fit:
            raise ValueError(f"rows of shape {rows.shape} do not fit d={self.d}, {ids.shape} ids")
        return _FlatSnapshot(0, Growing(rows), Growing(ids), len(ids), device=[])

    def _state(self, snapshot: _FlatSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = {"d": self.d, "metric": self.metric, "next_id": snapshot.next_id}
        rows = snapshot.rows.array[: snapshot.n]
        ids = snapshot.ids.array[: snapshot.n]
        return parameters, {"rows": rows, "ids": ids}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexFlat:
        index = cls(parameters["d"], parameters["metric"])
        # There are no arrays behind a transformation that is not trained.
        ids = arrays["ids"] if arrays else np.zeros(0, np.int64)
        if is_mapped(ids):
            index._snapshot = index._mapped(arrays["rows"], ids)
        elif len(ids):
            index.add(arrays["rows"], ids)
        index._restore_next_id(parameters["next_id"], ids)
        return index
