"""IndexFlat: all vectors as they are, all of them searched."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import backends
from ..neighbours.api import knn
from .base import Found, Index
from .lists import Growing

__all__ = ["IndexFlat"]


class _Flat(NamedTuple):
    """The first n of `rows` (capacity, D) and `ids`.

    In the order of their ids: so those of equal distance, which knn ranks by place, are ranked by id.
    """

    next_id: int
    rows: Growing
    ids: Growing
    n: int
    device: list[mx.array]  # the rows where MLX computes, once they were needed


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
        rows, ids = np.zeros((0, self.d), np.float32), np.zeros(0, np.int64)
        self._content = _Flat(0, Growing(rows), Growing(ids), 0, [])

    def _count(self, content: _Flat) -> int:
        return content.n

    def _ready(self, content: _Flat) -> bool:
        return True

    def train(self, x: Any) -> None:
        """Check x (N, D); there is nothing to learn."""
        self._vectors(x, "x")

    def _trained(self, content: _Flat, rows: np.ndarray) -> _Flat:
        return content

    def _added(self, content: _Flat, rows: np.ndarray, ids: np.ndarray) -> _Flat:
        n, m = content.n, content.n + len(ids)
        for array, new in ((content.rows, rows), (content.ids, ids)):
            array.reserve(m)
            array.array[n:m] = new  # nobody reads beyond n
        all_ids = content.ids.array[:m]
        if (np.diff(all_ids[max(0, n - 1) :]) < 0).any():
            return self._chosen(content, np.argsort(all_ids))
        return content._replace(n=m, device=[])

    def _chosen(self, content: _Flat, places: np.ndarray) -> _Flat:
        """Return the vectors at `places`, in this order."""
        rows, ids = Growing(content.rows.array[places]), Growing(content.ids.array[places])
        return _Flat(content.next_id, rows, ids, len(places), [])

    def _search(self, content: _Flat, queries: np.ndarray, k: int, **how: Any) -> Found:
        rows: Any = content.rows.array[: content.n]
        if backends.resolve(self.backend) in ("metal", "portable"):
            if not content.device:
                content.device.append(mx.array(rows))
            rows = content.device[0]
        distances, places = map(
            np.asarray, knn(queries, rows, k, self.metric, backend=self.backend)
        )
        return distances, content.ids.array[places]

    def _places(self, content: _Flat, ids: np.ndarray) -> np.ndarray:
        held = content.ids.array[: content.n]
        place = np.minimum(np.searchsorted(held, ids), content.n - 1)
        return np.where(held[place] == ids, place, -1)

    def _rows_at(self, content: _Flat, places: np.ndarray) -> np.ndarray:
        return content.rows.array[places]

    def _removed(self, content: _Flat, places: np.ndarray) -> _Flat:
        return self._chosen(content, np.delete(np.arange(content.n), places))

    def _state(self, content: _Flat) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = {"d": self.d, "metric": self.metric, "next_id": content.next_id}
        rows, ids = (array.array[: content.n] for array in (content.rows, content.ids))
        return parameters, {"rows": rows, "ids": ids}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexFlat:
        index = cls(parameters["d"], parameters["metric"])
        if len(arrays["ids"]):
            index.add(arrays["rows"], arrays["ids"])
        index._restore_next_id(parameters["next_id"], arrays["ids"])
        return index
