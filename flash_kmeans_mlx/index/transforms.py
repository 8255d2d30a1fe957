"""Transformations of vectors before an index: by a matrix, to fewer dimensions, to unit norms."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..errors import NotFittedError
from ..metrics import unit_rows
from .arguments import vectors
from .sources import rows_to_train

__all__ = ["LinearTransform", "NormalizationTransform", "PCAMatrix"]


class LinearTransform:
    """The product of vectors with a matrix whose rows are orthogonal and of norm 1.

    Attributes:
        d, d_out: Dimensions before and after.
        matrix: (d_out, d) float32; None before training.
    """

    d: int
    d_out: int
    matrix: np.ndarray | None

    @property
    def is_trained(self) -> bool:
        """Whether there is a matrix."""
        return self.matrix is not None

    def apply(self, x: Any) -> Any:
        """Transform vectors x (N, d): (N, d_out) float32, `mx.array` if x is one."""
        return self._times(x, self.d, self._trained("apply").T)

    def reverse_transform(self, x: Any) -> Any:
        """Transform vectors x (N, d_out) back: (N, d) float32, `mx.array` if x is one."""
        return self._times(x, self.d_out, self._trained("reverse_transform"))

    def _times(self, x: Any, d: int, matrix: np.ndarray) -> Any:
        rows, is_mlx = vectors(x, d)
        return mx.array(rows @ matrix) if is_mlx else rows @ matrix

    def _trained(self, verb: str) -> np.ndarray:
        if self.matrix is None:
            raise NotFittedError(f"{verb} needs a trained {type(self).__name__}: call train first")
        return self.matrix


class PCAMatrix(LinearTransform):
    """The projection on the first principal components.

    Unlike faiss's, it does not subtract the mean, so that dot products and angles stay what they
    are. Euclidean distances and vectors that are transformed back are the same without it.

    Args:
        d_in: Dimensions of the vectors.
        d_out: Dimensions that are kept.
        seed: Of the sample.
        max_points_per_d: Training takes a sample of more than d_in times as many vectors.

    Attributes:
        d, d_out: Dimensions before and after.
        matrix: (d_out, d_in) float32 with orthogonal rows of norm 1: ``y = matrix @ x``; None
            before training.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> pca = PCAMatrix(8, 3)
        >>> pca.train(x)
        >>> pca.apply(x).shape
        (1000, 3)
    """

    def __init__(
        self, d_in: int, d_out: int, *, seed: int = 0, max_points_per_d: int = 1000
    ) -> None:
        self.d = validation.check_count("d_in", d_in, 1)
        self.d_out = validation.check_count("d_out", d_out, 1, self.d, "d_in")
        self.seed = validation.check_count("seed", seed, 0)
        self.max_points_per_d = validation.check_count("max_points_per_d", max_points_per_d, 1)
        self.matrix = None

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Learn the components from vectors x (N, D), `mx.array` or NumPy, or in files.

        Args:
            x: (N, D) vectors.
            verbose: Print the share of the variance that is kept.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound; or
                N < d_out.
        """
        verbose = validation.check_flag("verbose", verbose)
        source = rows_to_train(x, self.d)
        n = len(source)
        if n < self.d_out:
            raise ValueError(f"x must have N >= d_out={self.d_out} training vectors, got N={n}")
        chosen = np.arange(n)
        if n > self.max_points_per_d * self.d:
            rng = np.random.default_rng(self.seed)
            chosen = np.sort(rng.choice(n, self.max_points_per_d * self.d, replace=False))
        rows = np.asarray(source[chosen], np.float64)
        rows -= rows.mean(0)
        variances, axes = np.linalg.eigh(rows.T @ rows)
        if verbose:
            kept = variances[::-1][: self.d_out].sum() / max(variances.sum(), 1e-300)
            print(f"components: {self.d_out} of {self.d}, {kept:.3f} of the variance", flush=True)
        self.matrix = np.ascontiguousarray(axes[:, ::-1].T[: self.d_out], np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restore` makes it from: (parameters for JSON, arrays)."""
        parameters = {
            "d_in": self.d,
            "d_out": self.d_out,
            "seed": self.seed,
            "max_points_per_d": self.max_points_per_d,
        }
        return parameters, {} if self.matrix is None else {"matrix": self.matrix}

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> PCAMatrix:
        """Return the projection with that state.

        Raises:
            KeyError, TypeError, ValueError: The state is damaged.
        """
        transform = cls(**parameters)
        if arrays:
            matrix = arrays["matrix"]
            shape = (transform.d_out, transform.d)
            if matrix.shape != shape or matrix.dtype != np.float32:
                raise ValueError(f"matrix of shape {matrix.shape} must be {shape} of float32")
            if not np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-3):
                raise ValueError("matrix does not have orthogonal rows")
            transform.matrix = matrix
        return transform


class NormalizationTransform:
    """The division of vectors by their norms; zeros stay zeros.

    Args:
        d: Dimensions of the vectors.

    Attributes:
        d, d_out: As given.
        matrix: None.
    """

    is_trained = True

    def __init__(self, d: int) -> None:
        self.d = self.d_out = validation.check_count("d", d, 1)
        self.matrix: np.ndarray | None = None

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Check x (N, D); there is nothing to learn."""
        validation.check_flag("verbose", verbose)
        rows_to_train(x, self.d)

    def apply(self, x: Any) -> Any:
        """Return vectors x (N, D) of norm 1: float32, `mx.array` if x is one."""
        rows, is_mlx = vectors(x, self.d)
        unit = unit_rows(rows).astype(np.float32, copy=False)
        return mx.array(unit) if is_mlx else unit

    def reverse_transform(self, x: Any) -> Any:
        """Return vectors x (N, D) as they are: their norms are not kept."""
        return x

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restore` makes it from: (parameters for JSON, arrays)."""
        return {"d": self.d}, {}

    @classmethod
    def restore(
        cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> NormalizationTransform:
        """Return the transformation with that state."""
        return cls(**parameters)
