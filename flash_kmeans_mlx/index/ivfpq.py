"""IndexIVFPQ: vectors in the lists of their nearest centroids, as codes of their residuals."""

from __future__ import annotations

import numpy as np

from .faiss_words import metric_name
from .ivf import IVF
from .ivf_codes import IVFCodes
from .quantizer import ProductQuantizer

__all__ = ["IndexIVFPQ"]


class IndexIVFPQ(IVFCodes):
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
        pq: The `ProductQuantizer` of the residuals.

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
        metric: str | int = "euclidean",
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
        metric = metric_name(metric)
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
    def pq(self) -> ProductQuantizer:
        return self._snapshot.quantizer
