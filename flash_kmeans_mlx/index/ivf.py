"""Inverted files: each vector is in the list of its nearest centroid.

A search looks at the lists of the few centroids that are nearest to the query.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .. import backends, validation
from ..metrics import PROXIMITIES
from .centroids import LARGEST, Centroids, with_inverse_norms
from .coarse import empty_graph, graph_of, list_of, lists_near, trained
from .faiss_words import metric_name
from .flat import IndexFlat
from .graph import Graph
from .listed import Listed
from .lists import BLOCK, InvertedLists
from .results import Found, as_float32
from .sources import TrainingRows
from .training import sample

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IVF", "IndexIVFFlat"]


class IVFSnapshot(NamedTuple):
    """The vectors in lists, and what training learned.

    Attributes:
        next_id: The id of the next vector without an id.
        lists: The vectors, as they are or as codes.
        centroids: (nlist, d) float32; None before training.
        quantizer: Of the codes; None where vectors are kept as they are.
        graph: Of the centroids, where a coarse quantizer was asked for.
    """

    next_id: int
    lists: InvertedLists
    centroids: np.ndarray | None
    quantizer: Any
    graph: Graph | None = None


class IVF(Listed):
    """An index of vectors in lists (Jegou et al., 2011).

    Subclasses define what a list holds of a vector, and scan lists.

    Args:
        d, metric, backend: As in `Index`.
        nlist: Number of lists, one for each centroid.
        nprobe: Lists that a search looks at, those of the nearest centroids; with nprobe = nlist,
            or more, it looks at all vectors.
        width: Values that a list holds of a vector.
        dtype: Of these values.
        seed: Of the training; the same seed gives the same index on the same backend.
        niter: Most iterations of the k-means that finds the centroids.
        max_points_per_centroid: Training on more vectors than this takes a sample.
        coarse_quantizer: How lists are found: None for exact search among the centroids; like
            "HNSW32" for a graph of 32 links a centroid, where fewer than 64 vectors are added or
            searched at a time. For tens of thousands of lists; needs voyager, as `IndexHNSW`.

    Attributes:
        centroids: (nlist, d) float32; None before training.
        lists: The vectors.
    """

    # Names of the parameters in a saved state.
    saved: ClassVar[tuple[str, ...]] = (
        "d",
        "nlist",
        "metric",
        "nprobe",
        "seed",
        "niter",
        "max_points_per_centroid",
        "coarse_quantizer",
    )
    _limit = LARGEST

    def __init__(
        self,
        d: int,
        nlist: int,
        metric: str | int = "euclidean",
        nprobe: int = 1,
        *,
        width: int,
        dtype: Any,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        coarse_quantizer: str | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(d, metric, backend=backend)
        self.nlist = validation.check_count("nlist", nlist, 1, (1 << 31) - 1, "2**31 - 1")
        self.nprobe = nprobe
        self.seed = validation.check_count("seed", seed, 0)
        self.niter = validation.check_count("niter", niter, 0)
        self.max_points_per_centroid = validation.check_count(
            "max_points_per_centroid", max_points_per_centroid, 1
        )
        empty_graph(self.d, self.metric, coarse_quantizer)  # refuses what it can't be
        self.coarse_quantizer = coarse_quantizer
        self._searched: Centroids | None = None  # those of the last search
        self._snapshot = IVFSnapshot(
            next_id=0,
            lists=InvertedLists(self.nlist, width, dtype),
            centroids=None,
            quantizer=None,
        )

    @property
    def nprobe(self) -> int:
        """Number of lists that a search looks at by default, at most nlist."""
        return self._nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._nprobe = min(validation.check_count("nprobe", value, 1), self.nlist)

    @property
    def centroids(self) -> np.ndarray | None:
        return self._snapshot.centroids

    @property
    def quantizer(self) -> IndexFlat:
        """A copy of the centroids as an index; without vectors before training."""
        index = IndexFlat(self.d, self.metric, backend=self.backend)
        if self.centroids is not None:
            index.add(self.centroids)
        return index

    def _is_ready(self, snapshot: IVFSnapshot) -> bool:
        return snapshot.centroids is not None

    # Subclasses define the following, the last three only if they have a quantizer.

    @abstractmethod
    def _encode(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return what the lists hold of rows (N, D) in lists `labels` (N,): (N, width)."""

    @abstractmethod
    def _decode(self, snapshot: IVFSnapshot, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the vectors (N, D) float32 of payload (N, width) in lists `labels` (N,)."""

    @abstractmethod
    def _scan(
        self, snapshot: IVFSnapshot, queries: np.ndarray, probes: np.ndarray, k: int
    ) -> Found:
        """Search as `Index._search` does, in lists `probes` (Q, nprobe) int64, nearest first."""

    def _train_quantizer(self, snapshot: IVFSnapshot, rows: TrainingRows, verbose: bool) -> Any:
        """Return a quantizer that has learned from rows (N, D)."""
        return snapshot.quantizer

    def _quantizer_state(self, snapshot: IVFSnapshot) -> dict[str, np.ndarray]:
        """Return the arrays of the quantizer, for the state."""
        return {}

    def _restore_quantizer(self, arrays: dict[str, np.ndarray]) -> Any:
        """Return the quantizer of a state, which may be damaged: KeyError or ValueError then."""
        return None

    # Subclasses share the following.

    def _after_train(self, snapshot: IVFSnapshot, rows: TrainingRows, verbose: bool) -> IVFSnapshot:
        points = sample(rows, self.nlist, self.max_points_per_centroid, self.seed)
        centroids = trained(
            points, self.nlist, self.metric, self.niter, self.seed, self.backend, verbose
        )
        graph = graph_of(centroids, self.metric, self.coarse_quantizer)
        snapshot = snapshot._replace(centroids=centroids, graph=graph)
        return snapshot._replace(quantizer=self._train_quantizer(snapshot, rows, verbose))

    def _after_add(self, snapshot: IVFSnapshot, rows: np.ndarray, ids: np.ndarray) -> IVFSnapshot:
        labels = list_of(rows, snapshot.centroids, self.metric, snapshot.graph, self.backend)
        payload = self._encode(snapshot, rows, labels)
        return snapshot._replace(lists=snapshot.lists.added(labels, payload, ids))

    def _probe(self, snapshot: IVFSnapshot, queries: np.ndarray, nprobe: int | None) -> np.ndarray:
        """Return the lists (Q, nprobe) int64 of the nearest centroids, nearest first."""
        nprobe = self._nprobe if nprobe is None else min(nprobe, self.nlist)
        assert snapshot.centroids is not None
        if self._searched is None or self._searched.rows is not snapshot.centroids:
            self._searched = Centroids(snapshot.centroids, self.metric)
        backend = backends.resolve(self.backend)
        return lists_near(queries, self._searched, nprobe, snapshot.graph, backend)

    def _search(
        self,
        snapshot: IVFSnapshot,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        nprobe: int | None = None,
        **options: Any,
    ) -> Found:
        probes = self._probe(snapshot, queries, nprobe)
        if places is not None:
            snapshot = snapshot._replace(lists=snapshot.lists.only(places, probes))
        return self._scan(snapshot, queries, probes, k)

    def _rows_at(self, snapshot: IVFSnapshot, places: np.ndarray) -> np.ndarray:
        lists = snapshot.lists
        return self._decode(snapshot, lists.rows(places), lists.owner[places // BLOCK])

    def _parameters(self, snapshot: IVFSnapshot) -> dict[str, Any]:
        parameters = {name: getattr(self, name) for name in self.saved}
        return parameters | {"next_id": snapshot.next_id}

    def _state(self, snapshot: IVFSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = self._parameters(snapshot)
        if snapshot.centroids is None:
            return parameters, {}
        arrays = snapshot.lists.state()
        arrays["centroids"] = snapshot.centroids
        if snapshot.graph is not None:
            arrays["graph"] = snapshot.graph.state()
        return parameters, arrays | self._quantizer_state(snapshot)

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        arguments = dict(parameters)
        next_id = arguments.pop("next_id")
        index = cls(**arguments)
        if arrays:
            centroids = arrays["centroids"]
            shape = (index.nlist, index.d)
            is_float32 = centroids.dtype == np.float32
            if centroids.shape != shape or not is_float32 or not np.isfinite(centroids).all():
                raise ValueError(
                    f"centroids of shape {centroids.shape} do not fit"
                    f" nlist={index.nlist}, d={index.d}"
                )
            quantizer = index._restore_quantizer(arrays)
            lists = index.lists.restored(arrays)
            graph = graph_of(centroids, index.metric, index.coarse_quantizer, arrays.get("graph"))
            index._snapshot = IVFSnapshot(0, lists, centroids, quantizer, graph)
        index._restore_next_id(next_id, arrays.get("ids", np.zeros(0, np.int64)))
        return index


class IndexIVFFlat(IVF):
    """Vectors as they are, in lists. Distances are exact, but other lists may hold nearer vectors.

    Candidates are found in float32, which needs magnitudes of at most 2**40. Their distances are
    then computed in float64 and rounded.

    Args:
        d: Dimensions of the vectors.
        nlist: Number of lists.
        metric: "euclidean" (squared distances), "cosine" (1 - cos) or "dot" (a similarity).
        nprobe: Lists that a search looks at; an attribute too, and an argument of `search`.
        seed, niter, max_points_per_centroid, coarse_quantizer: As in `IVF`.
        backend: As in `Index`.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> index = IndexIVFFlat(8, nlist=20, nprobe=4)
        >>> index.train(x)
        >>> index.add(x)
        >>> index.search(x[:3], 1)[1].tolist()
        [[0], [1], [2]]
    """

    def __init__(
        self,
        d: int,
        nlist: int,
        metric: str | int = "euclidean",
        nprobe: int = 1,
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        coarse_quantizer: str | None = None,
        backend: str | None = None,
    ) -> None:
        metric = metric_name(metric)
        # For cosine, a row is a vector and 1 / its norm.
        super().__init__(
            d,
            nlist,
            metric,
            nprobe,
            width=d + (metric == "cosine"),
            dtype=np.float32,
            seed=seed,
            niter=niter,
            max_points_per_centroid=max_points_per_centroid,
            coarse_quantizer=coarse_quantizer,
            backend=backend,
        )

    def _encode(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return with_inverse_norms(rows) if self.metric == "cosine" else rows

    def _decode(self, snapshot: IVFSnapshot, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return payload[:, : self.d]

    def _scan(
        self, snapshot: IVFSnapshot, queries: np.ndarray, probes: np.ndarray, k: int
    ) -> Found:
        backend = backends.resolve(self.backend)
        distances, ids = backends.scan_lists(
            backend, snapshot.lists, PROXIMITIES[self.metric], queries, probes, k
        )
        return as_float32(distances, self.metric), ids
