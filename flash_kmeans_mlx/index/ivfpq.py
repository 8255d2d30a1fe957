"""IndexIVFPQ: vectors in lists by their nearest centroid, as codes of how far they are from it."""

from __future__ import annotations

import copy

import numpy as np

from .. import backends
from ..backends.codes import Coding, pack
from ..kmeans.api import assign
from ..metrics import PROXIMITIES, unit_rows
from .base import Found
from .ivf import IVF, Content
from .quantizer import ENCODED, ProductQuantizer, restore_codebooks
from .training import sample

__all__ = ["IndexIVFPQ"]


class IndexIVFPQ(IVF):
    """Residuals in a few bytes each, in lists (Jégou, Douze and Schmid, 2011): IVFADC.

    Distances are those from queries as they are to the vectors as they are kept; for cosine, these are codes of unit vectors.
    With a code goes what its list adds to its distance, 4 bytes (not for "dot"), so that a query needs one table for all lists.
    Candidates are found by sums in float32, so vectors whose distances differ by no more than their rounding may be missed.

    Args:
        d, nlist, metric, nprobe, seed, niter, max_points_per_centroid, backend: as in `IndexIVFFlat`.
        m: parts of a vector, each of which takes nbits; must divide d.
        nbits: bits of a part's code, 1 to 8.

    Attributes:
        quantizer: the `ProductQuantizer` of the residuals.

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
            backend=backend,
        )
        self._content = self._content._replace(quantizer=quantizer)

    @property
    def quantizer(self) -> ProductQuantizer:
        return self._content.quantizer

    def _coding(self, content: Content) -> Coding:
        assert content.centroids is not None and content.quantizer is not None
        return Coding(
            content.quantizer.trained("search"), self.nbits, content.centroids, residual=True
        )

    def _residuals(self, content: Content, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        assert content.centroids is not None
        return (unit_rows(rows) if self.metric == "cosine" else rows).astype(
            np.float32, copy=False
        ) - content.centroids[labels]

    def _trained_codes(self, content: Content, rows: np.ndarray) -> ProductQuantizer:
        quantizer = copy.copy(self.quantizer)
        rows = sample(rows, quantizer.ksub, self.max_points_per_centroid, self.seed)
        labels = np.asarray(assign(rows, content.centroids, self.metric, backend=self.backend))
        quantizer.learn(self._residuals(content, rows, labels))
        return quantizer

    def _encode(self, content: Content, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        assert content.quantizer is not None
        out = np.empty((len(rows), content.lists.payload.shape[1]), np.uint8)
        for lo in range(0, len(rows), ENCODED):
            some = slice(lo, lo + ENCODED)
            codes = pack(
                content.quantizer.labels(self._residuals(content, rows[some], labels[some])),
                self.nbits,
            )
            out[some] = self._payload(content, codes, labels[some])
        return out

    def _payload(self, content: Content, codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, width): codes (N, code_size) as the lists `labels` (N,) hold them."""
        return self._coding(content).with_terms(codes, labels, PROXIMITIES[self.metric])

    def _decode(self, content: Content, payload: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self._coding(content).decode(payload, labels)

    def _scan(self, content: Content, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
        backend, coding = backends.resolve(self.backend), self._coding(content)
        distances, ids = backends.scan_codes(
            backend, content.lists, coding, PROXIMITIES[self.metric], queries, probes, k
        )
        return (-distances if self.metric == "dot" else distances).astype(np.float32), ids

    def _codes_state(self, content: Content) -> dict[str, np.ndarray]:
        assert content.quantizer is not None
        return {"codebooks": content.quantizer.trained("save")}

    def _restored_codes(self, arrays: dict[str, np.ndarray]) -> ProductQuantizer:
        restore_codebooks(self.quantizer, arrays)
        return self.quantizer
