"""IndexPQ: search among all vectors, which are kept as product-quantized codes."""

from __future__ import annotations

from typing import Any

from .flat_codes import FlatCodes, FlatCodesSnapshot
from .quantizer import ProductQuantizer

__all__ = ["IndexPQ"]


class IndexPQ(FlatCodes):
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
        pq: The `ProductQuantizer`.

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
        metric: str | int = "euclidean",
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        backend: str | None = None,
    ) -> None:
        quantizer = ProductQuantizer(
            d,
            m,
            nbits,
            seed=seed,
            niter=niter,
            max_points_per_centroid=max_points_per_centroid,
            backend=backend,
        )
        super().__init__(d, metric, quantizer, has_terms=False, backend=backend)

    @property
    def pq(self) -> ProductQuantizer:
        return self._snapshot.quantizer

    def _parameters(self, snapshot: FlatCodesSnapshot) -> dict[str, Any]:
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
