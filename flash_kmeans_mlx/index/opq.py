"""OPQMatrix: a rotation of vectors that lowers the error of product quantization."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .. import validation
from .quantizer import ProductQuantizer
from .sources import rows_to_train
from .training import sample
from .transforms import LinearTransform

__all__ = ["OPQMatrix", "checked_rotation"]

# Iterations of k-means for the first rotation, and for each that follows.
FIRST_ITERS = 10
LATER_ITERS = 4


class OPQMatrix(LinearTransform):
    """Optimized product quantization (Ge, He, Ke and Sun, 2013).

    Finds the rotation after which product quantization loses least. It starts from a random one;
    then codebooks for the rotation, and the rotation that suits the codebooks best (orthogonal
    Procrustes) are computed in turn.

    Args:
        d: Dimensions of the vectors.
        m: Parts of a vector; must divide d.
        nbits: Bits of the code of a part.
        seed: The same seed gives the same rotation.
        niter: Number of rotations that are computed.
        max_points_per_centroid: Training takes a sample of more than 2**nbits times as many
            vectors.
        backend: As in `batch_kmeans_Euclid`.

    Attributes:
        d, m: As given.
        d_out: Dimensions after the rotation, d.
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
        self.d = self._quantizer.d
        self.d_out = self.d
        self.m = self._quantizer.m
        self.niter = validation.check_count("niter", niter, 1)
        self.matrix = None

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Learn the rotation from vectors x (N, D), `mx.array` or NumPy, or in files.

        Args:
            x: (N, D) vectors.
            verbose: Print a line per rotation: the mean squared error of the codes of a vector.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound; or
                N < 2**nbits.

        Warns:
            UserWarning: There are fewer than 39 vectors per codeword.
        """
        verbose = validation.check_flag("verbose", verbose)
        quantizer = copy.copy(self._quantizer)
        rows = sample(
            rows_to_train(x, self.d),
            quantizer.ksub,
            quantizer.max_points_per_centroid,
            quantizer.seed,
        )
        rng = np.random.default_rng(quantizer.seed)
        matrix = _orthogonal(rng.standard_normal((self.d, self.d)))
        options: dict[str, Any] = {"max_iters": FIRST_ITERS}
        for i in range(self.niter):
            rotated = rows @ matrix.T
            quantizer.learn(rotated, **options)
            decoded = quantizer.words(quantizer.labels(rotated))
            if verbose:
                error = np.square(rotated - decoded).sum(dtype=np.float64) / len(rows)
                print(f"rotation: {i + 1} of {self.niter}, squared error {error:.6g}", flush=True)
            matrix = _orthogonal(decoded.T @ rows)
            options = {"max_iters": LATER_ITERS, "init": quantizer.codebooks}
        self.matrix = matrix

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restore` makes it from: (parameters for JSON, arrays)."""
        quantizer = self._quantizer
        parameters = {
            "d": self.d,
            "m": self.m,
            "nbits": quantizer.nbits,
            "niter": self.niter,
            "seed": quantizer.seed,
            "max_points_per_centroid": quantizer.max_points_per_centroid,
        }
        return parameters, {} if self.matrix is None else {"matrix": self.matrix}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> OPQMatrix:
        """Return the rotation with that state.

        Raises:
            KeyError, TypeError, ValueError: The state is damaged.
        """
        transform = cls(**parameters)
        if arrays:
            transform.matrix = checked_rotation(arrays["matrix"], transform.d)
        return transform


def checked_rotation(matrix: np.ndarray, d: int) -> np.ndarray:
    """Return the matrix if it is (d, d) float32 and orthogonal.

    Raises:
        ValueError: It is not.
    """
    if matrix.shape != (d, d) or matrix.dtype != np.float32:
        raise ValueError(
            f"matrix of shape {matrix.shape} and dtype {matrix.dtype} must be {(d, d)} of float32"
        )
    if not np.allclose(matrix @ matrix.T, np.eye(d), atol=1e-3):
        raise ValueError("matrix is not orthogonal")
    return matrix


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Return the nearest orthogonal matrix, float32.

    For ``Z.T @ X`` this is the R for which ``X @ R.T`` is nearest to Z.
    """
    u, _, v = np.linalg.svd(matrix.astype(np.float64))
    return (u @ v).astype(np.float32)
