"""The methods of indexes that keep codes of vectors and compare all of them with every query."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import backends
from ..backends.codes import Coding
from ..metrics import PROXIMITIES, unit_rows
from .arguments import vectors
from .listed import Listed
from .lists import BLOCK, InvertedLists
from .quantizer import ENCODED
from .quantizing import Quantizer
from .results import Found, as_float32
from .sources import TrainingRows, mapped

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LISTS", "FlatCodes", "FlatCodesSnapshot"]

# Vectors are divided among so many lists, so that threads can share the search of one query.
LISTS = 8


class FlatCodesSnapshot(NamedTuple):
    """Codes in lists, and the quantizer that made them.

    Attributes:
        next_id: The id of the next vector without an id.
        lists: The codes; for cosine, a code is followed by 1 / the norm of its vector.
        quantizer: Trained or not.
    """

    next_id: int
    lists: InvertedLists
    quantizer: Any


class FlatCodes(Listed):
    """An index of codes, all compared with every query.

    Args:
        d, metric, backend: As in `Index`.
        quantizer: Not trained.
        has_terms: Whether a float32 follows each code for "euclidean", as it does for "cosine".
    """

    def __init__(
        self,
        d: int,
        metric: str | int,
        quantizer: Quantizer,
        *,
        has_terms: bool,
        backend: str | None,
    ) -> None:
        self._coded: tuple[Any, Coding] | None = None  # a quantizer and the meaning of its codes
        super().__init__(d, metric, backend=backend)
        terms = self.metric == "cosine" or (has_terms and self.metric == "euclidean")
        lists = InvertedLists(LISTS, quantizer.code_size + 4 * terms, np.uint8)
        self._snapshot = FlatCodesSnapshot(next_id=0, lists=lists, quantizer=quantizer)

    def sa_encode(self, x: Any) -> np.ndarray:
        """Return the codes (N, code_size) uint8 of vectors x (N, D)."""
        rows, _ = vectors(x, self.d, self._limit)
        return self._snapshot.quantizer.encode(self._directions(rows))

    def sa_decode(self, codes: Any) -> np.ndarray:
        """Return the vectors (N, D) float32 of codes (N, code_size) uint8."""
        return self._snapshot.quantizer.decode(codes)

    @abstractmethod
    def _parameters(self, snapshot: FlatCodesSnapshot) -> dict[str, Any]:
        """Return the arguments of the class, and next_id."""

    def _is_ready(self, snapshot: FlatCodesSnapshot) -> bool:
        return snapshot.quantizer.is_trained

    def _coding(self, snapshot: FlatCodesSnapshot) -> Coding:
        if self._coded is None or self._coded[0] is not snapshot.quantizer:
            self._coded = snapshot.quantizer, snapshot.quantizer.flat_coding(LISTS)
        return self._coded[1]

    def _after_train(
        self, snapshot: FlatCodesSnapshot, rows: TrainingRows, verbose: bool
    ) -> FlatCodesSnapshot:
        quantizer = copy.copy(snapshot.quantizer)
        quantizer.train(mapped(rows, self._directions), verbose=verbose)
        return snapshot._replace(quantizer=quantizer)

    def _directions(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (N, D) float32 as they are coded: for cosine, as unit vectors."""
        return unit_rows(rows).astype(np.float32) if self.metric == "cosine" else rows

    def _after_add(
        self, snapshot: FlatCodesSnapshot, rows: np.ndarray, ids: np.ndarray
    ) -> FlatCodesSnapshot:
        for lo in range(0, len(rows), ENCODED):
            part = slice(lo, lo + ENCODED)
            codes = snapshot.quantizer.codes(self._directions(rows[part]))
            snapshot = self._after_add_codes(snapshot, codes, ids[part])
        return snapshot

    def _after_add_codes(
        self, snapshot: FlatCodesSnapshot, codes: np.ndarray, ids: np.ndarray
    ) -> FlatCodesSnapshot:
        """Return the next snapshot, with codes (N, code_size) uint8 and their new ids (N,)."""
        numbers = ids % LISTS
        payload = self._coding(snapshot).with_terms(codes, numbers, PROXIMITIES[self.metric])
        return snapshot._replace(lists=snapshot.lists.added(numbers, payload, ids))

    def _search(
        self,
        snapshot: FlatCodesSnapshot,
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

    def _rows_at(self, snapshot: FlatCodesSnapshot, places: np.ndarray) -> np.ndarray:
        lists = snapshot.lists
        return self._coding(snapshot).decode(lists.rows(places), lists.owner[places // BLOCK])

    def _state(self, snapshot: FlatCodesSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        parameters = self._parameters(snapshot)
        if not self._is_ready(snapshot):
            return parameters, {}
        return parameters, snapshot.lists.state() | snapshot.quantizer.state()

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Self:
        arguments = dict(parameters)
        next_id = arguments.pop("next_id")
        index = cls(**arguments)
        if arrays:
            index._snapshot.quantizer.restore(arrays)
            index._snapshot = index._snapshot._replace(lists=index.lists.restored(arrays))
        index._restore_next_id(next_id, arrays.get("ids", np.zeros(0, np.int64)))
        return index
