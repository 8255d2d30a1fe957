"""IndexIVFScalarQuantizer: vectors in lists, as codes of a byte or a float16 a dimension."""

from __future__ import annotations

import numpy as np

from .faiss_words import metric_name
from .ivf import IVF
from .ivf_codes import IVFCodes
from .scalar_quantizer import ScalarQuantizer

__all__ = ["IndexIVFScalarQuantizer"]


class IndexIVFScalarQuantizer(IVFCodes):
    """Residuals of a byte or a float16 a dimension, in lists.

    A residual is the difference of a vector and the centroid of its list, as in `IndexIVFPQ`, and
    distances, memory and what may be missed are those of `IndexScalarQuantizer`, within the lists
    that are looked at.

    Args:
        d, nlist, metric, nprobe, backend: As in `IndexIVFFlat`.
        qtype: "8bit" or "fp16", as in `ScalarQuantizer`.
        seed, niter, max_points_per_centroid, coarse_quantizer: As in `IVF`.

    Attributes:
        qtype: As given.
        sq: The `ScalarQuantizer` of the residuals.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> index = IndexIVFScalarQuantizer(8, nlist=20, nprobe=4)
        >>> index.train(x)
        >>> index.add(x)
        >>> index.search(x[:3], 1)[1].tolist()
        [[0], [1], [2]]
    """

    saved = (*IVF.saved, "qtype")

    def __init__(
        self,
        d: int,
        nlist: int,
        qtype: str | int = "8bit",
        metric: str | int = "euclidean",
        nprobe: int = 1,
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        coarse_quantizer: str | None = None,
        backend: str | None = None,
    ) -> None:
        quantizer = ScalarQuantizer(d, qtype, seed=seed)
        self.qtype = quantizer.qtype
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
    def sq(self) -> ScalarQuantizer:
        return self._snapshot.quantizer
