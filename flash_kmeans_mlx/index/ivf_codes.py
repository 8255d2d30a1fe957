"""The methods of indexes that keep codes of residuals in lists."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .. import backends
from ..backends.codes import Coding
from ..kmeans.assign import assign
from ..metrics import PROXIMITIES, unit_rows
from .ivf import IVF, IVFSnapshot
from .quantizer import ENCODED
from .results import Found, as_float32
from .sources import TrainingRows

__all__ = ["IVFCodes"]


class IVFCodes(IVF):
    """An index of codes of residuals in lists; its snapshots have a quantizer from the beginning.

    A residual is the difference of a vector, for cosine a unit vector, and the centroid of its
    list.
    """

    _coded: tuple[np.ndarray, Any, Coding] | None = None  # centroids, quantizer and their coding

    def _coding(self, snapshot: IVFSnapshot) -> Coding:
        assert snapshot.centroids is not None
        learnt = snapshot.centroids, snapshot.quantizer
        if (
            self._coded is None
            or self._coded[0] is not learnt[0]
            or self._coded[1] is not learnt[1]
        ):
            self._coded = *learnt, snapshot.quantizer.coding(snapshot.centroids)
        return self._coded[2]

    def _residuals(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the differences (N, D) float32 of rows (N, D) and their centroids."""
        assert snapshot.centroids is not None
        if self.metric == "cosine":
            rows = unit_rows(rows).astype(np.float32, copy=False)
        return rows - snapshot.centroids[labels]

    def _train_quantizer(self, snapshot: IVFSnapshot, rows: TrainingRows, verbose: bool) -> Any:
        quantizer = copy.copy(snapshot.quantizer)
        points = quantizer.sample(rows)
        labels = np.asarray(assign(points, snapshot.centroids, self.metric, backend=self.backend))
        quantizer.learn(self._residuals(snapshot, points, labels), verbose=verbose)
        return quantizer

    def _encode(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), snapshot.lists.payload.shape[1]), np.uint8)
        for lo in range(0, len(rows), ENCODED):
            part = slice(lo, lo + ENCODED)
            residuals = self._residuals(snapshot, rows[part], labels[part])
            codes = snapshot.quantizer.codes(residuals)
            out[part] = self._payload(snapshot, codes, labels[part])
        return out

    def _payload(self, snapshot: IVFSnapshot, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return codes (N, code_size) as lists `labels` (N,) hold them: (N, width)."""
        return self._coding(snapshot).with_terms(codes, labels, PROXIMITIES[self.metric])

    def _decode(self, snapshot: IVFSnapshot, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self._coding(snapshot).decode(payload, labels)

    def _scan(
        self, snapshot: IVFSnapshot, queries: np.ndarray, probes: np.ndarray, k: int
    ) -> Found:
        distances, ids = backends.scan_codes(
            backends.resolve(self.backend),
            snapshot.lists,
            self._coding(snapshot),
            PROXIMITIES[self.metric],
            queries,
            probes,
            k,
        )
        return as_float32(distances, self.metric), ids

    def _quantizer_state(self, snapshot: IVFSnapshot) -> dict[str, np.ndarray]:
        return snapshot.quantizer.state()

    def _restore_quantizer(self, arrays: dict[str, np.ndarray]) -> Any:
        quantizer = self._snapshot.quantizer
        quantizer.restore(arrays)
        return quantizer
