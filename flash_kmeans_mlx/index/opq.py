"""OPQMatrix: a rotation that makes vectors easy for a product quantizer."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..errors import NotFittedError
from .quantizer import ProductQuantizer
from .training import sample, vectors

__all__ = ["OPQMatrix", "checked_rotation"]

FIRST, LATER = 10, 4  # iterations of k-means for the first rotation, and for each that follows


class OPQMatrix:
    """Optimized product quantization (Ge, He, Ke and Sun, 2013): the rotation after which product quantization loses least.

    Codebooks and the rotation that suits them (orthogonal Procrustes) are found in turns, from a random rotation.

    Args:
        d: dimensions of the vectors.
        m: parts of a vector; must divide d.
        nbits: bits of a part's code.
        niter: turns.
        seed: the same seed gives the same rotation.
        max_points_per_centroid: training takes a sample of more than 2**nbits times as many vectors.
        backend: as in `batch_kmeans_Euclid`.

    Attributes:
        d, m: as given.
        matrix: (d, d) float32, orthogonal: ``y = matrix @ x``; None before training.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> rotation = OPQMatrix(8, m=4, nbits=4)
        >>> rotation.train(x)
        >>> np.allclose(rotation.reverse_transform(rotation.apply(x)), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        d: int,
        m: int,
        nbits: int = 8,
        *,
        seed: int = 0,
        niter: int = 50,
        max_points_per_centroid: int = 256,
        backend: str | None = None,
    ) -> None:
        self._quantizer = ProductQuantizer(
            d, m, nbits, seed=seed, max_points_per_centroid=max_points_per_centroid, backend=backend
        )
        self.d, self.m = self._quantizer.d, self._quantizer.m
        self.niter = validation.check_count("niter", niter, 1)
        self.matrix: np.ndarray | None = None

    @property
    def is_trained(self) -> bool:
        """Whether there is a rotation."""
        return self.matrix is not None

    def train(self, x: Any) -> None:
        """Learn the rotation from vectors x (N, D), `mx.array` or NumPy.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; N < 2**nbits.

        Warns:
            UserWarning: there are fewer than 39 vectors per codeword.
        """
        quantizer, rows = copy.copy(self._quantizer), vectors(x, self.d)[0]
        rows = sample(rows, quantizer.ksub, quantizer.max_points_per_centroid, quantizer.seed)
        matrix = _orthogonal(
            np.random.default_rng(quantizer.seed).standard_normal((self.d, self.d))
        )
        again: dict[str, Any] = {"max_iters": FIRST}
        for _ in range(self.niter):
            turned = rows @ matrix.T
            quantizer.learn(turned, **again)
            matrix = _orthogonal(quantizer.words(quantizer.labels(turned)).T @ rows)
            again = {"max_iters": LATER, "init": quantizer.codebooks}
        self.matrix = matrix

    def apply(self, x: Any) -> Any:
        """(N, D) float32: vectors x (N, D), rotated; `mx.array` if x is one."""
        return self._times(x, self._trained("apply").T)

    def reverse_transform(self, x: Any) -> Any:
        """(N, D) float32: rotated vectors x (N, D) as they were; `mx.array` if x is one."""
        return self._times(x, self._trained("reverse_transform"))

    def _times(self, x: Any, matrix: np.ndarray) -> Any:
        rows, mlx = vectors(x, self.d)
        return mx.array(rows @ matrix) if mlx else rows @ matrix

    def _trained(self, verb: str) -> np.ndarray:
        if self.matrix is None:
            raise NotFittedError(f"{verb} needs a trained OPQMatrix: call train first")
        return self.matrix

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `restore` makes it from: (parameters for JSON, arrays)."""
        quantizer = self._quantizer
        parameters = {
            "d": self.d,
            "m": self.m,
            "nbits": quantizer.nbits,
            "niter": self.niter,
            "seed": quantizer.seed,
        }
        parameters |= {"max_points_per_centroid": quantizer.max_points_per_centroid}
        return parameters, {} if self.matrix is None else {"matrix": self.matrix}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> OPQMatrix:
        """The rotation with that state, which may be damaged: KeyError, TypeError or ValueError then."""
        transform = cls(**parameters)
        if arrays:
            transform.matrix = checked_rotation(arrays["matrix"], transform.d)
        return transform


def checked_rotation(matrix: np.ndarray, d: int) -> np.ndarray:
    """The matrix (d, d) float32; ValueError if it is none, or not orthogonal."""
    if matrix.shape != (d, d) or matrix.dtype != np.float32:
        raise ValueError(
            f"matrix of shape {matrix.shape} and dtype {matrix.dtype} must be {(d, d)} of float32"
        )
    if not np.allclose(matrix @ matrix.T, np.eye(d), atol=1e-3):
        raise ValueError("matrix is not orthogonal")
    return matrix


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal matrix that is nearest, float32: for ``Z.T @ X``, the R for which ``X @ R.T`` is nearest to Z."""
    u, _, v = np.linalg.svd(matrix.astype(np.float64))
    return (u @ v).astype(np.float32)
