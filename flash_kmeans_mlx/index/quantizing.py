"""Quantizer: the methods of what makes codes of vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import mlx.core as mx
import numpy as np

from .. import validation
from ..backends.codes import Coding
from .arguments import vectors

__all__ = ["Quantizer"]


class Quantizer(ABC):
    """Methods that `ProductQuantizer` and `ScalarQuantizer` share.

    Attributes:
        d: Dimensions of the vectors.
    """

    d: int

    @property
    @abstractmethod
    def code_size(self) -> int:
        """Bytes of a code."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be encoded."""

    @abstractmethod
    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Learn from vectors x (N, D)."""

    @abstractmethod
    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes (N, code_size) uint8 of rows (N, D) float32."""

    @abstractmethod
    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """Return the vectors (N, D) float32 of codes (N, code_size) uint8."""

    @abstractmethod
    def flat_coding(self, nlist: int) -> Coding:
        """Return the meaning of codes of vectors in lists that have no centroids."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a trained quantizer."""

    @abstractmethod
    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the arrays of a state, which may be damaged: KeyError or ValueError then."""

    def encode(self, x: Any) -> Any:
        """Return the codes (N, code_size) uint8 of vectors x (N, D); `mx.array` if x is one."""
        rows, is_mlx = vectors(x, self.d)
        codes = self.codes(rows)
        return mx.array(codes) if is_mlx else codes

    def decode(self, codes: Any) -> Any:
        """Return the vectors (N, D) float32 of codes (N, code_size) uint8.

        They are an `mx.array` if the codes are one.
        """
        array = validation.as_array(codes, "codes")
        if array.ndim != 2 or array.shape[1] != self.code_size or array.dtype != np.uint8:
            raise ValueError(
                f"codes must have shape (N, code_size)=(N, {self.code_size}) and dtype uint8,"
                f" got {array.shape}, {array.dtype}"
            )
        rows = self.decoded(array)
        return mx.array(rows) if isinstance(codes, mx.array) else rows
