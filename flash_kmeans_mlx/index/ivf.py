"""Inverted files: vectors in lists by their nearest centroid; a search looks at the lists of the nearest few centroids."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from .. import backends, validation
from ..kmeans.api import assign, batch_kmeans_Cosine, batch_kmeans_Dot, batch_kmeans_Euclid
from ..metrics import PROXIMITIES
from ..neighbours.api import knn
from .base import Found, Index
from .lists import BLOCK, InvertedLists
from .quantizer import ProductQuantizer
from .training import sample

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IVF", "IndexIVFFlat"]

FITS = {"euclidean": batch_kmeans_Euclid, "cosine": batch_kmeans_Cosine, "dot": batch_kmeans_Dot}
LARGEST = 2.0**40  # magnitude of vectors: squares of differences stay inside float32


class Content(NamedTuple):
    """Inverted lists, and what training learned: centroids (nlist, d) float32, and a quantizer where vectors are coded."""

    next_id: int
    lists: InvertedLists
    centroids: np.ndarray | None
    quantizer: ProductQuantizer | None


class IVF(Index):
    """An index of vectors by lists (Jegou et al., 2011); subclasses say what a list holds of a vector, and scan lists.

    Args:
        d, metric, backend: as in `Index`.
        nlist: lists, one for each centroid.
        nprobe: lists that a search looks at, those of the nearest centroids; nprobe = nlist looks at all vectors.
        width, dtype: of what a list holds of a vector.
        seed: of the training; the same seed gives the same index on the same backend.
        niter: most iterations of the k-means that finds the centroids.
        max_points_per_centroid: training on more vectors than this takes a sample.

    Attributes:
        centroids: (nlist, d) float32 once trained.
        lists: the vectors.
    """

    saved: ClassVar[tuple[str, ...]] = (
        "d",
        "nlist",
        "metric",
        "nprobe",
        "seed",
        "niter",
        "max_points_per_centroid",
    )

    def __init__(
        self,
        d: int,
        nlist: int,
        metric: str = "euclidean",
        nprobe: int = 1,
        *,
        width: int,
        dtype: Any,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
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
        self._content = Content(0, InvertedLists(self.nlist, width, dtype), None, None)

    @property
    def nprobe(self) -> int:
        """Lists that a search looks at, unless it says otherwise."""
        return self._nprobe

    @nprobe.setter
    def nprobe(self, value: int) -> None:
        self._nprobe = validation.check_count("nprobe", value, 1, self.nlist, "nlist")

    @property
    def centroids(self) -> np.ndarray | None:
        return self._content.centroids

    @property
    def lists(self) -> InvertedLists:
        return self._content.lists

    def _count(self, content: Content) -> int:
        return len(content.lists)

    def _ready(self, content: Content) -> bool:
        return content.centroids is not None

    def search(self, x: Any, k: int, *, nprobe: int | None = None) -> tuple[Any, Any]:
        """As `Index.search`, among the vectors of the nprobe nearest lists; None for the index's own `nprobe`."""
        return self._k_nearest(x, k, nprobe=nprobe)

    def range_search(
        self, x: Any, radius: float, *, nprobe: int | None = None
    ) -> tuple[Any, Any, Any]:
        """As `Index.range_search`, among the vectors of the nprobe nearest lists; None for the index's own `nprobe`."""
        return self._all_within(x, radius, nprobe=nprobe)

    # What subclasses define.

    @abstractmethod
    def _encode(self, content: Content, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, width): what the lists hold of rows (N, D), whose lists are `labels` (N,)."""

    @abstractmethod
    def _decode(self, content: Content, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, D) float32: the vectors that lists hold so, as well as they can be had."""

    @abstractmethod
    def _scan(self, content: Content, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
        """As `Index._search`, among the vectors of the lists `probes` (Q, nprobe) int64, the nearest first."""

    def _trained_codes(self, content: Content, rows: np.ndarray) -> ProductQuantizer | None:
        """Return what `_encode` needs besides the centroids, learned from rows (N, D)."""
        return content.quantizer

    def _codes_state(self, content: Content) -> dict[str, np.ndarray]:
        """What `_trained_codes` learned, for the state."""
        return {}

    def _restored_codes(self, arrays: dict[str, np.ndarray]) -> ProductQuantizer | None:
        """What gave `_codes_state`, which may be damaged: KeyError or ValueError then."""
        return None

    # Shared by them.

    def _trained(self, content: Content, rows: np.ndarray) -> Content:
        self._check_reach(rows)
        some = sample(rows, self.nlist, self.max_points_per_centroid, self.seed)
        fit = FITS[self.metric](some, self.nlist, self.niter, seed=self.seed, backend=self.backend)
        content = content._replace(centroids=np.array(fit.centroids))
        return content._replace(quantizer=self._trained_codes(content, rows))

    def _check_reach(self, rows: np.ndarray) -> None:
        """Refuse vectors whose squared distances may not be float32 numbers."""
        most = max(float(rows.max()), -float(rows.min()))
        if most > LARGEST:
            raise ValueError(
                f"x must be of magnitudes <= 2**40, got {most:.3g} (x.shape={rows.shape}); rescale it"
            )

    def _added(self, content: Content, rows: np.ndarray, ids: np.ndarray) -> Content:
        self._check_reach(rows)
        labels = np.asarray(assign(rows, content.centroids, self.metric, backend=self.backend))
        return content._replace(
            lists=content.lists.added(labels, self._encode(content, rows, labels), ids)
        )

    def _probe(self, content: Content, queries: np.ndarray, nprobe: int | None) -> np.ndarray:
        """(Q, nprobe) int64: the lists of the nearest centroids, nearest first."""
        if nprobe is None:
            nprobe = self.nprobe
        nprobe = validation.check_count("nprobe", nprobe, 1, self.nlist, "nlist")
        return np.asarray(
            knn(queries, content.centroids, nprobe, self.metric, backend=self.backend)[1]
        )

    def _search(
        self, content: Content, queries: np.ndarray, k: int, nprobe: int | None = None, **how: Any
    ) -> Found:
        self._check_reach(queries)
        return self._scan(content, queries, self._probe(content, queries, nprobe), k)

    def _places(self, content: Content, ids: np.ndarray) -> np.ndarray:
        return content.lists.find(ids)

    def _rows_at(self, content: Content, places: np.ndarray) -> np.ndarray:
        lists = content.lists
        return self._decode(content, lists.rows(places), lists.owner[places // BLOCK])

    def _removed(self, content: Content, places: np.ndarray) -> Content:
        return content._replace(lists=content.lists.removed(places))

    def _state(self, content: Content) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = {name: getattr(self, name) for name in self.saved} | {
            "next_id": content.next_id
        }
        if content.centroids is None:
            return parameters, {}
        return parameters, content.lists.state() | {
            "centroids": content.centroids
        } | self._codes_state(content)

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        own = dict(parameters)
        next_id = own.pop("next_id")
        index = cls(**own)
        if arrays:
            c = arrays["centroids"]
            if (
                c.shape != (index.nlist, index.d)
                or c.dtype != np.float32
                or not np.isfinite(c).all()
            ):
                raise ValueError(
                    f"centroids of shape {c.shape} do not fit nlist={index.nlist}, d={index.d}"
                )
            codes = index._restored_codes(arrays)
            index._content = Content(0, index.lists.restored(arrays), c, codes)
        index._restore_next_id(next_id, arrays.get("ids", np.zeros(0, np.int64)))
        return index


class IndexIVFFlat(IVF):
    """Vectors as they are, in lists: exact distances, to the vectors of the lists that are looked at.

    Args:
        d: dimensions of the vectors.
        nlist: lists.
        metric: "euclidean" (squared distances), "cosine" (1 - cos) or "dot" (a similarity).
        nprobe: lists that a search looks at; an attribute too, and an argument of `search`.
        seed, niter, max_points_per_centroid: of the training, as in `IVF`.
        backend: as in `Index`.

    Vectors may have magnitudes of up to 2**40: candidates are found in float32. Distances are then computed in float64 and
    rounded.

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
        metric: str = "euclidean",
        nprobe: int = 1,
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        backend: str | None = None,
    ) -> None:
        # With a vector goes 1 / its norm where only its direction counts.
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
            backend=backend,
        )

    def _encode(self, content: Content, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.metric != "cosine":
            return rows
        norm = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
        inverse = np.minimum(
            inverse, np.finfo(np.float32).max
        )  # scans know that rows of such a factor are too small for it
        return np.concatenate([rows, inverse[:, None].astype(np.float32)], axis=1)

    def _decode(self, content: Content, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return payload[:, : self.d]

    def _scan(self, content: Content, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
        backend = backends.resolve(self.backend)
        distances, ids = backends.scan_lists(
            backend, content.lists, PROXIMITIES[self.metric], queries, probes, k
        )
        return (-distances if self.metric == "dot" else distances).astype(np.float32), ids
