"""IndexPQ: all vectors as product-quantized codes, all of them searched."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.codes import Coding, pack
from ..metrics import PROXIMITIES, unit_rows
from .base import Found, Index
from .lists import BLOCK, InvertedLists
from .quantizer import ENCODED, ProductQuantizer, restore_codebooks

__all__ = ["IndexPQ"]

LISTS = 8  # among which the vectors are dealt out, so that threads can share the search of a single query


class _Codes(NamedTuple):
    """The codes, and what they stand for."""

    next_id: int
    lists: InvertedLists
    quantizer: ProductQuantizer


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
        quantizer = ProductQuantizer(
            d,
            m,
            nbits,
            seed=seed,
            niter=niter,
            max_points_per_centroid=max_points_per_centroid,
            backend=backend,
        )
        lists = InvertedLists(LISTS, quantizer.code_size + 4 * (metric == "cosine"), np.uint8)
        self._content = _Codes(0, lists, quantizer)
        self._centroids = np.zeros((LISTS, d), np.float32)

    @property
    def quantizer(self) -> ProductQuantizer:
        return self._content.quantizer

    @property
    def lists(self) -> InvertedLists:
        return self._content.lists

    def _count(self, content: _Codes) -> int:
        return len(content.lists)

    def _ready(self, content: _Codes) -> bool:
        return content.quantizer.is_trained

    def _coding(self, content: _Codes) -> Coding:
        quantizer = content.quantizer
        return Coding(quantizer.trained("search"), quantizer.nbits, self._centroids, residual=False)

    def _trained(self, content: _Codes, rows: np.ndarray) -> _Codes:
        quantizer = copy.copy(content.quantizer)
        quantizer.train(self._seen(rows))
        return content._replace(quantizer=quantizer)

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        return unit_rows(rows).astype(np.float32) if self.metric == "cosine" else rows

    def _added(self, content: _Codes, rows: np.ndarray, ids: np.ndarray) -> _Codes:
        quantizer = content.quantizer
        for lo in range(0, len(rows), ENCODED):
            some = slice(lo, lo + ENCODED)
            codes = pack(quantizer.labels(self._seen(rows[some])), quantizer.nbits)
            content = self._added_codes(content, codes, ids[some])
        return content

    def _added_codes(self, content: _Codes, codes: np.ndarray, ids: np.ndarray) -> _Codes:
        numbers = ids % LISTS
        payload = self._coding(content).with_terms(codes, numbers, PROXIMITIES[self.metric])
        return content._replace(lists=content.lists.added(numbers, payload, ids))

    def _search(self, content: _Codes, queries: np.ndarray, k: int, **how: Any) -> Found:
        probes = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
        backend, coding = backends.resolve(self.backend), self._coding(content)
        distances, ids = backends.scan_codes(
            backend, content.lists, coding, PROXIMITIES[self.metric], queries, probes, k
        )
        return (-distances if self.metric == "dot" else distances).astype(np.float32), ids

    def _places(self, content: _Codes, ids: np.ndarray) -> np.ndarray:
        return content.lists.find(ids)

    def _rows_at(self, content: _Codes, places: np.ndarray) -> np.ndarray:
        lists = content.lists
        return self._coding(content).decode(lists.rows(places), lists.owner[places // BLOCK])

    def _removed(self, content: _Codes, places: np.ndarray) -> _Codes:
        return content._replace(lists=content.lists.removed(places))

    def _state(self, content: _Codes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        quantizer = content.quantizer
        parameters = {
            "d": self.d,
            "m": quantizer.m,
            "nbits": quantizer.nbits,
            "metric": self.metric,
            "seed": quantizer.seed,
        }
        parameters |= {
            "niter": quantizer.niter,
            "max_points_per_centroid": quantizer.max_points_per_centroid,
        }
        parameters |= {"next_id": content.next_id}
        return parameters, {} if quantizer.codebooks is None else content.lists.state() | {
            "codebooks": quantizer.codebooks
        }

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexPQ:
        own = dict(parameters)
        next_id = own.pop("next_id")
        index = cls(**own)
        if arrays:
            restore_codebooks(index.quantizer, arrays)
            index._content = index._content._replace(lists=index.lists.restored(arrays))
        index._restore_next_id(next_id, arrays.get("ids", np.zeros(0, np.int64)))
        return index
