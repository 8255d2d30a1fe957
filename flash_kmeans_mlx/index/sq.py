"""IndexScalarQuantizer: search among all vectors, kept as a byte or a float16 a dimension."""

from __future__ import annotations

from typing import Any

from .centroids import LARGEST
from .flat_codes import FlatCodes, FlatCodesSnapshot
from .scalar_quantizer import ScalarQuantizer

__all__ = ["IndexScalarQuantizer"]


class IndexScalarQuantizer(FlatCodes):
    """Vectors of a byte or a float16 a dimension, all compared with every query.

    Distances are those from the exact queries to the vectors of the codes; for cosine, codes are of
    unit vectors. A vector takes d bytes, or 2 d for float16, and 8 for its id; each code is
    followed by the part of its distance that depends on it alone, 4 bytes (not for "dot"). Of
    bytes, the nearest are found for certain. Of float16, candidates are found by sums in float32,
    so that vectors may be missed whose distances differ by no more than rounding. A search takes
    O(N d) a query.

    Args:
        d, metric, backend: As in `Index`.
        qtype: "8bit" or "fp16", as in `ScalarQuantizer`. "fp16" need not be trained; training gives
            it the mean of the vectors, which it helps to take off where that is not small.

    Attributes:
        qtype: As given.
        sq: The `ScalarQuantizer`.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> index = IndexScalarQuantizer(8)
        >>> index.train(x)
        >>> index.add(x)
        >>> index.search(x[:3], 1)[1].tolist()
        [[0], [1], [2]]
    """

    _limit = LARGEST

    def __init__(
        self,
        d: int,
        qtype: str | int = "8bit",
        metric: str | int = "euclidean",
        *,
        backend: str | None = None,
    ) -> None:
        quantizer = ScalarQuantizer(d, qtype)
        self.qtype = quantizer.qtype
        super().__init__(d, metric, quantizer, has_terms=True, backend=backend)

    @property
    def sq(self) -> ScalarQuantizer:
        return self._snapshot.quantizer

    def _parameters(self, snapshot: FlatCodesSnapshot) -> dict[str, Any]:
        return {
            "d": self.d,
            "qtype": self.qtype,
            "metric": self.metric,
            "next_id": snapshot.next_id,
        }
