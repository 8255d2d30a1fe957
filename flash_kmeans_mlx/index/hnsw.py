"""IndexHNSW: approximate search along a graph of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import validation
from ..metrics import unit_rows
from ..neighbours.api import knn
from .base import Index
from .candidates import nearest_of
from .centroids import LARGEST
from .graph import Graph
from .growing import Growing
from .results import Found
from .sources import TrainingRows, rows_to_train

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IndexHNSW"]

# The newest rows wait outside the graph, as a change of the graph begins with a copy of it.
MOST_WAITING = 1024
WAITING_SHARE = 8  # at most one for so many rows in the graph
# A graph is no faster than exact search for more than one of so many rows.
EXACT_SHARE = 4
SEARCHED = 512  # queries at a time, so that an interrupt ends a search
RANKED = 1 << 21  # candidates that are ranked at a time, beside those that wait


class _HNSWSnapshot(NamedTuple):
    """Vectors in the order of their addition.

    Attributes:
        next_id: The id of the next vector without an id.
        rows: (capacity, D) float32, of which the first n count.
        ids: (capacity,) int64, likewise; -1 for vectors that were removed.
        n: Number of rows, with those of removed vectors.
        n_removed: Number of those.
        graph: The first rows.
        by_id: The ids in order and their rows, without removed ones; empty until needed.
    """

    next_id: int
    rows: Growing
    ids: Growing
    n: int
    n_removed: int
    graph: Graph
    by_id: list[tuple[np.ndarray, np.ndarray]]


class IndexHNSW(Index):
    """Vectors in a graph of neighbours (Malkov and Yashunin, 2016), searched along its links.

    A search takes time that grows with the logarithm of the number of vectors, and may miss some
    of the nearest. Distances are computed in float64 from the vectors that it finds. Searches are
    exact for k of more than a quarter of the vectors.

    Vectors are of magnitudes up to 2**40. They are in memory twice, with 8 m bytes of links. One
    thread adds them, so that the same calls give the same graph. Add many at a time: a change of
    the graph begins with a copy of it, so that searches go on in the old one. Removed vectors stay
    in the graph until they are half of it, then a new one is made. A graph of many equal vectors
    may not lead to others.

    Needs voyager: ``pip install 'flash-kmeans-mlx[hnsw]'``.

    Args:
        d, metric, backend: As in `Index`.
        m: Links of a vector, 2 to 1024.
        ef_construction: Candidates among which the links of a new vector are chosen.
        ef: Candidates that a search keeps; an attribute too, and an argument of `search`. More find
            more of the nearest vectors, and take longer.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> index = IndexHNSW(8)
        >>> index.add(x)
        >>> index.search(x[:3], 1)[1].tolist()
        [[0], [1], [2]]
    """

    _limit = LARGEST

    def __init__(
        self,
        d: int,
        m: int = 16,
        ef_construction: int = 200,
        metric: str | int = "euclidean",
        ef: int = 64,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__(d, metric, backend=backend)
        self.ef = ef
        graph = Graph(self.d, self.metric, m, ef_construction)
        self.m = graph.m
        self.ef_construction = graph.ef_construction
        self._snapshot = _HNSWSnapshot(
            next_id=0,
            rows=Growing(np.zeros((0, self.d), np.float32)),
            ids=Growing(np.zeros(0, np.int64)),
            n=0,
            n_removed=0,
            graph=graph,
            by_id=[],
        )

    @property
    def ef(self) -> int:
        """Number of candidates that a search keeps by default."""
        return self._ef

    @ef.setter
    def ef(self, value: int) -> None:
        self._ef = validation.check_count("ef", value, 1)

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Check x (N, D); there is nothing to learn."""
        validation.check_flag("verbose", verbose)
        rows_to_train(x, self.d, self._limit)

    def _count(self, snapshot: _HNSWSnapshot) -> int:
        return snapshot.n - snapshot.n_removed

    def _is_ready(self, snapshot: _HNSWSnapshot) -> bool:
        return True

    def _after_train(
        self, snapshot: _HNSWSnapshot, rows: TrainingRows, verbose: bool
    ) -> _HNSWSnapshot:
        return snapshot

    def _reserve(self, snapshot: _HNSWSnapshot, n: int) -> None:
        for array in (snapshot.rows, snapshot.ids):
            array.reserve(snapshot.n + n)

    def _after_add(
        self, snapshot: _HNSWSnapshot, rows: np.ndarray, ids: np.ndarray
    ) -> _HNSWSnapshot:
        n = snapshot.n
        n_after = n + len(ids)
        for array, new in ((snapshot.rows, rows), (snapshot.ids, ids)):
            array.reserve(n_after)
            array.array[n:n_after] = new  # no search looks beyond n
        graph = snapshot.graph
        waiting = n_after - len(graph)
        # Within one call of `add`, the pieces of a file share one copy.
        is_known = graph is self._snapshot.graph
        if not is_known or waiting > min(MOST_WAITING, len(graph) // WAITING_SHARE):
            graph = graph.copy() if is_known else graph
            graph.add(snapshot.rows.array[len(graph) : n_after])
        return snapshot._replace(n=n_after, graph=graph, by_id=[])

    def _after_remove(self, snapshot: _HNSWSnapshot, places: np.ndarray) -> _HNSWSnapshot:
        ids = snapshot.ids.array[: snapshot.n].copy()
        ids[places] = -1
        n_removed = snapshot.n_removed + len(places)
        after = snapshot._replace(ids=Growing(ids), n_removed=n_removed, by_id=[])
        if 2 * n_removed < snapshot.n:
            return after
        kept = np.flatnonzero(ids >= 0)
        rows = snapshot.rows.array[kept]
        graph = Graph(self.d, self.metric, self.m, self.ef_construction)
        if len(rows):
            graph.add(rows)
        return after._replace(
            rows=Growing(rows), ids=Growing(ids[kept]), n=len(kept), n_removed=0, graph=graph
        )

    def _search(
        self,
        snapshot: _HNSWSnapshot,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        ef: int | None = None,
        **options: Any,
    ) -> Found:
        ef = self.ef if ef is None else validation.check_count("ef", ef, 1)
        if places is not None:
            return self._search_at(snapshot, queries, k, places)
        # More candidates for those that were removed, as if they were removed everywhere alike.
        left = self._count(snapshot)
        wanted = -(-k * snapshot.n // left)
        if EXACT_SHARE * wanted > len(snapshot.graph):
            return self._search_at(snapshot, queries, k, self._by_id(snapshot)[1])
        ef = min(-(-ef * snapshot.n // left), len(snapshot.graph))
        step = max(1, min(SEARCHED, RANKED // wanted))
        parts = [
            self._search_few(snapshot, queries[lo : lo + step], k, wanted, ef)
            for lo in range(0, len(queries), step)
        ]
        distances, ids = zip(*parts, strict=True)
        return np.concatenate(distances), np.concatenate(ids)

    def _search_few(
        self, snapshot: _HNSWSnapshot, queries: np.ndarray, k: int, wanted: int, ef: int
    ) -> Found:
        """Search along the graph for `wanted` candidates, or among all if it leads to fewer."""
        places = snapshot.graph.search(queries, wanted, ef)
        if places is not None:
            waiting = self._nearest_waiting(snapshot, queries, k)
            places = np.concatenate([places, waiting], axis=1)
            ids = snapshot.ids.array[places]
            rows = snapshot.rows.array
            distances, ids = nearest_of(queries, rows, places, ids, k, self.metric, self.backend)
            if (ids >= 0).all():  # otherwise removed vectors hide others
                return distances, ids
        return self._search_at(snapshot, queries, k, self._by_id(snapshot)[1])

    def _search_at(
        self, snapshot: _HNSWSnapshot, queries: np.ndarray, k: int, places: np.ndarray
    ) -> Found:
        """Search as `_search` does, among all vectors at places (M,)."""
        ids = snapshot.ids.array[places]
        order = np.argsort(ids)  # `knn` ranks equal distances by place
        rows = snapshot.rows.array[places[order]]
        distances, found = knn(queries, rows, k, self.metric, backend=self.backend)
        return np.asarray(distances), ids[order][np.asarray(found)]

    def _nearest_waiting(self, snapshot: _HNSWSnapshot, queries: np.ndarray, k: int) -> np.ndarray:
        """Return those outside the graph that are the k nearest, or all: (Q, up to k) int64."""
        n_graph = len(snapshot.graph)
        places = n_graph + np.flatnonzero(snapshot.ids.array[n_graph : snapshot.n] >= 0)
        if len(places) <= k:
            return np.broadcast_to(places, (len(queries), len(places)))
        # In float64, products tell all float32 rows apart that distances do.
        rows = snapshot.rows.array[places].astype(np.float64)
        scores: np.ndarray
        if self.metric == "euclidean":
            origin = rows.mean(0)
            rows -= origin
            scores = (queries - origin) @ rows.T - np.square(rows).sum(1) / 2
        else:
            scores = queries @ (unit_rows(rows) if self.metric == "cosine" else rows).T
        return places[np.argpartition(-scores, k - 1, axis=1)[:, :k]]

    def _by_id(self, snapshot: _HNSWSnapshot) -> tuple[np.ndarray, np.ndarray]:
        """Return all ids (N,) in order, and their rows (N,)."""
        if not snapshot.by_id:
            ids = snapshot.ids.array[: snapshot.n]
            places = np.argsort(ids, kind="stable")[snapshot.n_removed :]
            snapshot.by_id.append((ids[places], places))
        return snapshot.by_id[0]

    def _ids(self, snapshot: _HNSWSnapshot) -> np.ndarray:
        return self._by_id(snapshot)[0]

    def _places(self, snapshot: _HNSWSnapshot, ids: np.ndarray) -> np.ndarray:
        own_ids, places = self._by_id(snapshot)
        place = np.minimum(np.searchsorted(own_ids, ids), len(own_ids) - 1)
        return np.where(own_ids[place] == ids, places[place], -1)

    def _rows_at(self, snapshot: _HNSWSnapshot, places: np.ndarray) -> np.ndarray:
        return snapshot.rows.array[places]

    def _parameters(self, snapshot: _HNSWSnapshot) -> dict[str, Any]:
        names = ("d", "m", "ef_construction", "metric", "ef")
        return {name: getattr(self, name) for name in names} | {"next_id": snapshot.next_id}

    def _state(self, snapshot: _HNSWSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        rows = snapshot.rows.array[: snapshot.n]
        ids = snapshot.ids.array[: snapshot.n]
        arrays = {"rows": rows, "ids": ids, "graph": snapshot.graph.state()}
        return self._parameters(snapshot), arrays

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        arguments = dict(parameters)
        next_id = arguments.pop("next_id")
        index = cls(**arguments)
        if not arrays:  # behind a transformation that is not trained
            index._restore_next_id(next_id, np.zeros(0, np.int64))
            return index
        rows = arrays["rows"]
        ids = arrays["ids"]
        if rows.shape != (len(ids), index.d) or rows.dtype != np.float32:
            raise ValueError(f"rows of shape {rows.shape} do not fit d={index.d}")
        if not np.isfinite(rows).all():
            raise ValueError("rows are not finite")
        left = ids[ids != -1]
        ids_fit = ids.ndim == 1 and ids.dtype == np.int64
        if not ids_fit or len(np.unique(left)) < len(left) or left.min(initial=0) < 0:
            raise ValueError("ids must be distinct and >= 0, or -1")
        graph = index._snapshot.graph
        graph.restore(arrays["graph"], rows)
        index._snapshot = index._snapshot._replace(
            rows=Growing(rows), ids=Growing(ids), n=len(ids), n_removed=len(ids) - len(left)
        )
        index._restore_next_id(next_id, ids)
        return index
