"""ProductQuantizer: vectors in a few bytes, one small codebook for each of their parts."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..backends.codes import pack, unpack
from ..errors import NotFittedError
from ..kmeans.api import assign
from ..kmeans.fit import fit
from ..metrics import EUCLIDEAN
from .training import sample, vectors

__all__ = ["ProductQuantizer"]

ENCODED = 1 << 16  # vectors at a time


class ProductQuantizer:
    """Product quantization (Jégou, Douze and Schmid, 2011): a vector is cut in m parts, each replaced by its nearest codeword.

    All m codebooks are learnt by one batched fit.

    Args:
        d: dimensions of the vectors.
        m: parts of a vector; must divide d.
        nbits: bits of a part's code, 1 to 8: codebooks have 2**nbits codewords.
        niter: most iterations of k-means.
        seed: the same seed gives the same codebooks.
        max_points_per_centroid: training takes a sample of more than 2**nbits times as many vectors.
        backend: as in `batch_kmeans_Euclid`.

    Attributes:
        d, m, nbits: as given.
        dsub, ksub: dimensions of a part, codewords of a codebook.
        code_size: bytes of a code.
        codebooks: (m, 2**nbits, d / m) float32, None before training.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> quantizer = ProductQuantizer(8, m=4, nbits=4)
        >>> quantizer.train(x)
        >>> codes = quantizer.encode(x)
        >>> codes.shape, codes.dtype, quantizer.decode(codes).shape
        ((1000, 2), dtype('uint8'), (1000, 8))
    """

    def __init__(
        self,
        d: int,
        m: int,
        nbits: int = 8,
        *,
        seed: int = 0,
        niter: int = 25,
        max_points_per_centroid: int = 256,
        backend: str | None = None,
    ) -> None:
        self.d = validation.check_count("d", d, 1)
        self.m = validation.check_count("m", m, 1, self.d, "d")
        if self.d % self.m:
            raise ValueError(f"m={m} must divide d={d}")
        self.nbits = validation.check_count("nbits", nbits, 1)
        if self.nbits > 8:
            raise ValueError(f"nbits={nbits} must be <= 8: codes are bytes")
        self.niter = validation.check_count("niter", niter, 0)
        self.seed = validation.check_count("seed", seed, 0)
        self.max_points_per_centroid = validation.check_count(
            "max_points_per_centroid", max_points_per_centroid, 1
        )
        self.backend = backend
        self.codebooks: np.ndarray | None = None

    @property
    def dsub(self) -> int:
        """Dimensions of a part."""
        return self.d // self.m

    @property
    def ksub(self) -> int:
        """Codewords of a codebook."""
        return 1 << self.nbits

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return -(-self.m * self.nbits // 8)

    @property
    def is_trained(self) -> bool:
        """Whether there are codebooks."""
        return self.codebooks is not None

    def train(self, x: Any) -> None:
        """Learn the codebooks from vectors x (N, D), `mx.array` or NumPy.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; N < 2**nbits.

        Warns:
            UserWarning: there are fewer than 39 vectors per codeword.
        """
        rows = sample(vectors(x, self.d)[0], self.ksub, self.max_points_per_centroid, self.seed)
        self.learn(rows)

    def learn(self, rows: np.ndarray, **options: Any) -> None:
        """Fit the codebooks to rows (N, D) float32, all of them; options of `batch_kmeans_Euclid` go before the own ones."""
        # From random rows: codewords then lie where vectors do. k-means++ and more iterations lower the error of skewed vectors
        # by sparing codewords for what is far off, and cost up to 14 points of recall on patches of photographs.
        own: dict[str, Any] = {
            "max_iters": self.niter,
            "init": _own_rows,
            "seed": self.seed,
            "backend": self.backend,
        }
        # Codewords to spare, where parts are all alike, are no reason to warn.
        self.codebooks = fit(
            EUCLIDEAN,
            self._parts(rows),
            self.ksub,
            **(own | options),
            summed_shift=True,
            warn=False,
        ).centroids

    def encode(self, x: Any) -> Any:
        """(N, code_size) uint8 codes of vectors x (N, D), in faiss's layout; `mx.array` if x is one.

        The code of part j takes the bits from ``j * nbits`` on, the lowest bits of the first byte first.
        """
        rows, mlx = vectors(x, self.d)
        codes = pack(self.labels(rows), self.nbits)
        return mx.array(codes) if mlx else codes

    def decode(self, codes: Any) -> Any:
        """(N, D) float32: the vectors that codes (N, code_size) uint8 stand for; `mx.array` if the codes are."""
        given = np.asarray(codes)
        if given.ndim != 2 or given.shape[1] != self.code_size or given.dtype != np.uint8:
            raise ValueError(
                f"codes must have shape (N, code_size)=(N, {self.code_size}) and dtype uint8, got {given.shape}, {given.dtype}"
            )
        rows = self.words(unpack(given, self.m, self.nbits))
        return mx.array(rows) if isinstance(codes, mx.array) else rows

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """(N, m) uint8: the codeword of every part of rows (N, D) float32."""
        codebooks = self.trained("encode")
        out = np.empty((len(rows), self.m), np.uint8)
        for lo in range(0, len(rows), ENCODED):
            parts = self._parts(rows[lo : lo + ENCODED])
            out[lo : lo + ENCODED] = assign(parts, codebooks, backend=self.backend).T
        return out

    def words(self, labels: np.ndarray) -> np.ndarray:
        """(N, D) float32 of labels (N, m)."""
        return self.trained("decode")[np.arange(self.m), labels].reshape(len(labels), self.d)

    def trained(self, verb: str) -> np.ndarray:
        """The codebooks.

        Raises:
            NotFittedError: there are none.
        """
        if self.codebooks is None:
            raise NotFittedError(f"{verb} needs a trained ProductQuantizer: call train first")
        return self.codebooks

    def _parts(self, rows: np.ndarray) -> np.ndarray:
        """(m, N, dsub), a view."""
        return rows.reshape(len(rows), self.m, self.dsub).swapaxes(0, 1)


def _own_rows(x: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(m, K, dsub): random rows, drawn anew for each of the parts x (m, N, dsub).

    With the parts of the same vectors, as a batch of fits and faiss have it, recall on patches is 1.4 points lower and varies
    four times as much with the seed.
    """
    return np.stack([part[rng.choice(len(part), n_clusters, replace=False)] for part in x])


def restore_codebooks(quantizer: ProductQuantizer, arrays: dict[str, np.ndarray]) -> None:
    """Take the array "codebooks" of a state, which may be damaged: KeyError or ValueError then."""
    c, shape = arrays["codebooks"], (quantizer.m, quantizer.ksub, quantizer.dsub)
    if c.shape != shape or c.dtype != np.float32 or not np.isfinite(c).all():
        raise ValueError(f"codebooks of shape {c.shape} do not fit {shape}")
    quantizer.codebooks = c
