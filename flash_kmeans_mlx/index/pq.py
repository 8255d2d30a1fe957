"""IndexPQ: search among all vectors, which are kept as product-quantized codes."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.codes import Coding, pack
from ..metrics import PROXIMITIES, unit_rows
from .listed import Listed
from .lists import BLOCK, InvertedLists
from .quantizer import ENCODED, ProductQuantizer, restore_codebooks
from .results import Found, as_float32
from .sources import TrainingRows, mapped

__all__ = ["IndexPQ"]

# Vectors are divided among so many lists, so that threads can share the search of one query.
LISTS = 8


class _PQSnapshot(NamedTuple):
    """Codes in lists, and the quantizer that made them.

    Attributes:
        next_id: The id of the next vector without an id.
        lists: The codes.
        quantizer: Trained or not.
    """

    next_id: int
    lists: InvertedLists
    quantizer: ProductQuantizer


class IndexPQ(Listed):
    """Vectors in a few bytes each (Jégou, Douze and Schmid, 2011), all compared with every query.

    Distances are those from the exact queries to the vectors of the codes; for cosine, codes are of
    unit vectors. Candidates are found by sums in float32, so that vectors may be missed whose
    distances differ by no more than rounding.

    Args:
        d, metric, backend: As in `Index`.
        m: Parts of a vector; must divide d.
        nbits: Bits of the code of a part, 1 to 8.
        seed, niter, max_points_per_centroid: Of the training, as in `ProductQuantizer`.

    Attributes:
        quantizer: The `ProductQuantizer`.

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
        # For cosine, a code is followed by 1 / the norm of its vector.
        width = quantizer.code_size + 4 * (metric == "cosine")
        lists = InvertedLists(LISTS, width, np.uint8)
        self._snapshot = _PQSnapshot(next_id=0, lists=lists, quantizer=quantizer)
        self._centroids = np.zeros((LISTS, d), np.float32)

    @property
    def quantizer(self) -> ProductQuantizer:
        return self._snapshot.quantizer

    def _is_ready(self, snapshot: _PQSnapshot) -> bool:
        return snapshot.quantizer.is_trained

    def _coding(self, snapshot: _PQSnapshot) -> Coding:
        quantizer = snapshot.quantizer
        return Coding(quantizer.trained("search"), quantizer.nbits, self._centroids, residual=False)

    def _after_train(self, snapshot: _PQSnapshot, rows: TrainingRows, verbose: bool) -> _PQSnapshot:
        quantizer = copy.copy(snapshot.quantizer)
        quantizer.train(mapped(rows, self._directions), verbose=verbose)
        return snapshot._replace(quantizer=quantizer)

    def _directions(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (N, D) float32 as they are coded: for cosine, as unit vectors."""
        return unit_rows(rows).astype(np.float32) if self.metric == "cosine" else rows

    def _after_add(self, snapshot: _PQSnapshot, rows: np.ndarray, ids: np.ndarray) -> _PQSnapshot:
        quantizer = snapshot.quantizer
        for lo in range(0, len(rows), ENCODED):
            part = slice(lo, lo + ENCODED)
            codes = pack(quantizer.labels(self._directions(rows[part])), quantizer.nbits)
            snapshot = self._after_add_codes(snapshot, codes, ids[part])
        return snapshot

    def _after_add_codes(
        self, snapshot: _PQSnapshot, codes: np.ndarray, ids: np.ndarray
    ) -> _PQSnapshot:
        """Return the next snapshot, with codes (N, code_size) uint8 and their new ids (N,)."""
        numbers = ids % LISTS
        payload = self._coding(snapshot).with_terms(codes, numbers, PROXIMITIES[self.metric])
        return snapshot._replace(lists=snapshot.lists.added(numbers, payload, ids))

    def _search(
        self,
        snapshot: _PQSnapshot,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        **options: Any,
    ) -> Found:
        lists = snapshot.lists
        probes = np.broadcast_to(np.arange(LISTS), (len(queries), LISTS))
        distances, ids = backends.scan_codes(
            backends.resolve(self.backend),
            lists if places is None else lists.only(places, probes[0]),
            self._coding(snapshot),
            PROXIMITIES[self.metric],
            queries,
            probes,
            k,
        )
        return as_float32(distances, self.metric), ids

    def _rows_at(self, snapshot: _PQSnapshot, places: np.ndarray) -> np.ndarray:
        lists = snapshot.lists
        return self._coding(snapshot).decode(lists.rows(places), lists.owner[places // BLOCK])

    def _parameters(self, snapshot: _PQSnapshot) -> dict[str, Any]:
        quantizer = snapshot.quantizer
        return {
            "d": self.d,
            "m": quantizer.m,
            "nbits": quantizer.nbits,
            "metric": self.metric,
            "seed": quantizer.seed,
            "niter": quantizer.niter,
            "max_points_per_centroid": quantizer.max_points_per_centroid,
            "next_id": snapshot.next_id,
        }

    def _state(self, snapshot: _PQSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = self._parameters(snapshot)
        codebooks = snapshot.quantizer.codebooks
        if codebooks is None:
            return parameters, {}
        return parameters, snapshot.lists.state() | {"codebooks": codebooks}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexPQ:
        arguments = dict(parameters)
        next_id = arguments.pop("next_id")
        index = cls(**arguments)
        if arrays:
            restore_codebooks(index.quantizer, arrays)
            index._snapshot = index._snapshot._replace(lists=index.lists.restored(arrays))
        index._restore_next_id(next_id, arrays.get("ids", np.zeros(0, np.int64)))
        return index
