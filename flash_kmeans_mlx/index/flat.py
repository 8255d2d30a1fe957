"""IndexFlat: all vectors as they are, all of them searched."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import backends
from ..nearest import knn
from .base import Found, Index
from .lists import grow

__all__ = ["IndexFlat"]


class IndexFlat(Index):
    """Exact search: `knn` with vectors that come and go.

    Args:
        d, backend: as in `Index`.
        metric: "euclidean", "cosine", "dot", "l1" or "linf".

    Example:
        >>> import numpy as np
        >>> index = IndexFlat(2)
        >>> index.add(np.array([[0.0, 0.0], [3.0, 4.0]]), ids=[10, 20])
        >>> distances, ids = index.search(np.array([[3.0, 3.0]]), 3)
        >>> distances.tolist(), ids.tolist()
        ([[1.0, 18.0, inf]], [[20, 10, -1]])
    """

    metrics = ("euclidean", "cosine", "dot", "l1", "linf")

    def __init__(self, d: int, metric: str = "euclidean", *, backend: str | None = None) -> None:
        super().__init__(d, metric, backend=backend)
        # In the order of their ids: so those of equal distance, which knn ranks by place, are ranked by id.
        self._rows = np.zeros((0, self.d), np.float32)
        self._ids = np.zeros(0, np.int64)
        self._n = 0
        self._device: mx.array | None = None  # the rows where MLX computes

    @property
    def ntotal(self) -> int:
        """Vectors in the index."""
        return self._n

    @property
    def is_trained(self) -> bool:
        """Always: there is nothing to learn."""
        return True

    def train(self, x: Any) -> None:
        """Check x (N, D); there is nothing to learn."""
        self._vectors(x, "x")

    def _train(self, rows: np.ndarray) -> None:
        pass

    def _add(self, rows: np.ndarray, ids: np.ndarray) -> None:
        n, m = self._n, self._n + len(ids)
        grow(self._rows, m)
        grow(self._ids, m)
        self._rows[n:m], self._ids[n:m] = rows, ids
        self._n, self._device = m, None
        if (np.diff(self._ids[max(0, n - 1) : m]) < 0).any():
            order = np.argsort(self._ids[:m])
            self._rows[:m], self._ids[:m] = self._rows[order], self._ids[order]

    def _search(self, queries: np.ndarray, k: int, **how: Any) -> Found:
        rows: Any = self._rows[: self._n]
        if backends.resolve(self.backend) in ("metal", "portable"):
            if self._device is None:
                self._device = mx.array(rows)
            rows = self._device
        distances, places = map(np.asarray, knn(queries, rows, k, self.metric, backend=self.backend))
        return distances, self._ids[places]

    def _places(self, ids: np.ndarray) -> np.ndarray:
        place = np.minimum(np.searchsorted(self._ids[: self._n], ids), self._n - 1)
        return np.where(self._ids[place] == ids, place, -1)

    def _rows_at(self, places: np.ndarray) -> np.ndarray:
        return self._rows[places]

    def _remove(self, places: np.ndarray) -> None:
        left = np.delete(np.arange(self._n), places)
        self._rows[: len(left)], self._ids[: len(left)] = self._rows[left], self._ids[left]
        self._n, self._device = len(left), None

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = {"d": self.d, "metric": self.metric, "next_id": self._next_id}
        return parameters, {"rows": self._rows[: self._n], "ids": self._ids[: self._n]}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexFlat:
        index = cls(parameters["d"], parameters["metric"])
        if len(arrays["ids"]):
            index.add(arrays["rows"], arrays["ids"])
        index._restore_next_id(parameters["next_id"], arrays["ids"])
        return index
