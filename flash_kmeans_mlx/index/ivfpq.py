"""IndexIVFPQ: vectors in the lists of their nearest centroids, as codes of their residuals."""

from __future__ import annotations

import copy

import numpy as np

from .. import backends
from ..backends.codes import Coding, pack
from ..kmeans.assign import assign
from ..metrics import PROXIMITIES, unit_rows
from .ivf import IVF, IVFSnapshot
from .quantizer import ENCODED, ProductQuantizer, restore_codebooks
from .results import Found, as_float32
from .sources import TrainingRows
from .training import sample

__all__ = ["IndexIVFPQ"]


class IndexIVFPQ(IVF):
    """Residuals in a few bytes each, in lists (Jégou, Douze and Schmid, 2011): IVFADC.

    A residual is the difference of a vector and the centroid of its list. Distances are those from
    the exact queries to the vectors of the codes; for cosine, codes are of unit vectors. Each code
    is followed by the part of its distance that depends on its list, 4 bytes (not for "dot"), so
    that a query needs one table for all lists. Candidates are found by sums in float32, so that
    vectors may be missed whose distances differ by no more than rounding.

    Args:
        d, nlist, metric, nprobe, backend: As in `IndexIVFFlat`.
        m: Parts of a vector; must divide d.
        nbits: Bits of the code of a part, 1 to 8.
        seed, niter, max_points_per_centroid, coarse_quantizer: As in `IVF`.

    Attributes:
        quantizer: The `ProductQuantizer` of the residuals.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> index = IndexIVFPQ(8, nlist=20, m=4, nbits=5, nprobe=4)
        >>> index.train(x)
        >>> index.add(x)
        >>> distances, ids = index.search(x[:3], 5)
        >>> distances.shape, ids.dtype
        ((3, 5), dtype('int64'))
    """

    saved = (*IVF.saved, "m", "nbits")

    def __init__(
        self,
        d: int,
        nlist: int,
        m: int,
        nbits: int = 8,
        metric: str = "euclidean",
        nprobe: int = 1,
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        coarse_quantizer: str | None = None,
        backend: str | None = None,
    ) -> None:
        quantizer = ProductQuantizer(
            d, m, nbits, seed=seed, max_points_per_centroid=max_points_per_centroid, backend=backend
        )
        self.m, self.nbits = quantizer.m, quantizer.nbits
        super().__init__(
            d,
            nlist,
            metric,
            nprobe,
            width=quantizer.code_size + 4 * (metric != "dot"),
            dtype=np.uint8,
            seed=seed,
            niter=niter,
            max_points_per_centroid=max_points_per_centroid,
            coarse_quantizer=coarse_quantizer,
            backend=backend,
        )
        self._snapshot = self._snapshot._replace(quantizer=quantizer)

    @property
    def quantizer(self) -> ProductQuantizer:
        return self._snapshot.quantizer

    def _coding(self, snapshot: IVFSnapshot) -> Coding:
        assert snapshot.centroids is not None and snapshot.quantizer is not None
        codebooks = snapshot.quantizer.trained("search")
        return Coding(codebooks, self.nbits, snapshot.centroids, residual=True)

    def _residuals(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the differences (N, D) float32 of rows (N, D) and their centroids."""
        assert snapshot.centroids is not None
        if self.metric == "cosine":
            rows = unit_rows(rows).astype(np.float32, copy=False)
        return rows - snapshot.centroids[labels]

    def _train_quantizer(
        self, snapshot: IVFSnapshot, rows: TrainingRows, verbose: bool
    ) -> ProductQuantizer:
        quantizer = copy.copy(self.quantizer)
        points = sample(rows, quantizer.ksub, self.max_points_per_centroid, self.seed)
        labels = np.asarray(assign(points, snapshot.centroids, self.metric, backend=self.backend))
        quantizer.learn(self._residuals(snapshot, points, labels), verbose=verbose)
        return quantizer

    def _encode(self, snapshot: IVFSnapshot, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        assert snapshot.quantizer is not None
        out = np.empty((len(rows), snapshot.lists.payload.shape[1]), np.uint8)
        for lo in range(0, len(rows), ENCODED):
            part = slice(lo, lo + ENCODED)
            residuals = self._residuals(snapshot, rows[part], labels[part])
            codes = pack(snapshot.quantizer.labels(residuals), self.nbits)
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
        assert snapshot.quantizer is not None
        return {"codebooks": snapshot.quantizer.trained("save")}

    def _restore_quantizer(self, arrays: dict[str, np.ndarray]) -> ProductQuantizer:
        restore_codebooks(self.quantizer, arrays)
        return self.quantizer
