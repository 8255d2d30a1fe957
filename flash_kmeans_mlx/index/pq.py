"""IndexPQ: all vectors as product-quantized codes, all of them searched."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backends
from ..backends.codes import Coding, pack
from ..metrics import unit_rows
from ..proximity import PROXIMITIES
from .base import Found, Index
from .lists import BLOCK, InvertedLists
from .quantizer import ENCODED, ProductQuantizer, restore_codebooks

__all__ = ["IndexPQ"]

LISTS = 8  # among which the vectors are dealt out, so that threads can share the search of a single query


class IndexPQ(Index):
    """Vectors in a few bytes each (Jégou, Douze and Schmid, 2011), all of them compared with every query.

    Distances are those from queries as they are to the vectors as they are kept; for cosine, these are codes of unit vectors.
    Candidates are found by sums in float32, so vectors whose distances differ by no more than their rounding may be missed.

    Args:
        d, metric, backend: as in `Index`.
        m: parts of a vector, each of which takes nbits; must divide d.
        nbits: bits of a part's code, 1 to 8.
        seed, niter, max_points_per_centroid: of the training, as in `ProductQuantizer`.

    Attributes:
        quantizer: the `ProductQuantizer`.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> index = IndexPQ(8, m=8, nbits=4)
        >>> index.train(x)
        >>> index.add(x)
        >>> distances, ids = index.search(x[:3], 5)
        >>> distances.shape, ids.dtype
        ((3, 5), dtype('int64'))
    """

    def __init__(
        self,
        d: int,
        m: int,
        nbits: int = 8,
        metric: str = "euclidean",
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        backend: str | None = None,
    ) -> None:
        super().__init__(d, metric, backend=backend)
        self.quantizer = ProductQuantizer(
            d, m, nbits, seed=seed, niter=niter, max_points_per_centroid=max_points_per_centroid, backend=backend
        )
        self.lists = InvertedLists(LISTS, self.quantizer.code_size + 4 * (metric == "cosine"), np.uint8)
        self._centroids = np.zeros((LISTS, d), np.float32)

    @property
    def ntotal(self) -> int:
        """Vectors in the index."""
        return len(self.lists)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self.quantizer.is_trained

    @property
    def _coding(self) -> Coding:
        return Coding(self.quantizer.trained("search"), self.quantizer.nbits, self._centroids, residual=False)

    def _train(self, rows: np.ndarray) -> None:
        self.quantizer.train(self._seen(rows))

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        return unit_rows(rows).astype(np.float32) if self.metric == "cosine" else rows

    def _add(self, rows: np.ndarray, ids: np.ndarray) -> None:
        for lo in range(0, len(rows), ENCODED):
            some = slice(lo, lo + ENCODED)
            codes = pack(self.quantizer.labels(self._seen(rows[some])), self.quantizer.nbits)
            self._add_codes(codes, ids[some])

    def _add_codes(self, codes: np.ndarray, ids: np.ndarray) -> None:
        numbers = ids % LISTS
        self.lists.add(numbers, self._coding.followed(codes, numbers, PROXIMITIES[self.metric]), ids)

    def _search(self, queries: np.ndarray, k: int, **how: Any) -> Found:
        probes = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
        backend = backends.resolve(self.backend)
        distances, ids = backends.scan_codes(backend, self.lists, self._coding, PROXIMITIES[self.metric], queries, probes, k)
        return (-distances if self.metric == "dot" else distances).astype(np.float32), ids

    def _places(self, ids: np.ndarray) -> np.ndarray:
        return self.lists.find(ids)

    def _rows_at(self, places: np.ndarray) -> np.ndarray:
        return self._coding.decode(self.lists.rows(places), self.lists.owner[places // BLOCK])

    def _remove(self, places: np.ndarray) -> None:
        self.lists.remove(places)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        quantizer = self.quantizer
        parameters = {"d": self.d, "m": quantizer.m, "nbits": quantizer.nbits, "metric": self.metric, "seed": quantizer.seed}
        parameters |= {"niter": quantizer.niter, "max_points_per_centroid": quantizer.max_points_per_centroid}
        parameters |= {"next_id": self._next_id}
        return parameters, {} if quantizer.codebooks is None else self.lists.state() | {"codebooks": quantizer.codebooks}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexPQ:
        own = dict(parameters)
        next_id = own.pop("next_id")
        index = cls(**own)
        if arrays:
            restore_codebooks(index.quantizer, arrays)
            index.lists.restore(arrays)
        index._restore_next_id(next_id, index.lists.ids)
        return index
