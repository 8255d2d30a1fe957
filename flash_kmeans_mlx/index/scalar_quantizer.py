"""ScalarQuantizer: codes of a byte or a float16 a dimension for vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import validation
from ..backends.codes import Coding, HalfCoding, ProductCoding
from ..errors import NotFittedError
from .quantizing import Quantizer
from .sources import TrainingRows, rows_to_train
from .training import drawn

__all__ = ["ScalarQuantizer", "qtype_name"]

ENCODED = 1 << 14  # vectors that are encoded at a time
LEVELS = 255  # steps of a range
MAX_DIMS = 1 << 16  # whose sums of products of bytes fit in 32 bits
SAMPLE = 1 << 16  # vectors whose residuals give the ranges
LARGEST_HALF = 65504.0
QTYPES = {"8bit": 0, "fp16": 4}  # with faiss's numbers, QT_8bit and QT_fp16


def qtype_name(qtype: str | int) -> str:
    """Return a qtype by its name or by faiss's number."""
    numbers = {number: name for name, number in QTYPES.items()}
    named = numbers.get(qtype, qtype) if isinstance(qtype, int) else qtype
    return validation.check_choice("qtype", named, tuple(QTYPES))


class ScalarQuantizer(Quantizer):
    """Scalar quantization: each dimension by itself, as by faiss's `ScalarQuantizer`.

    With 8 bits, the range of a dimension in the training vectors is cut in 255 parts, each replaced
    by its middle; values beyond the range become its ends. A float16 needs no range. Vectors are
    coded less the mean of the training vectors, so an offset costs no precision. A code is a byte
    for each dimension, or little-endian float16.

    Args:
        d: Dimensions of the vectors, at most 65,536 for 8 bits.
        qtype: "8bit" or "fp16", or faiss's QT_8bit or QT_fp16.
        seed: Of the sample of residuals that lists are trained on.

    Attributes:
        d, qtype: As given.
        code_size: Bytes of a code: d or 2 d.
        ranges: (3, d) float32 for 8 bits: the mean, and the least value and the width of the range
            less the mean; (1, d) for float16, the mean. None before the training of 8 bits.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> quantizer = ScalarQuantizer(8)
        >>> quantizer.train(x)
        >>> codes = quantizer.encode(x)
        >>> codes.shape, codes.dtype, bool(abs(quantizer.decode(codes) - x).max() < 0.02)
        ((1000, 8), dtype('uint8'), True)
    """

    def __init__(self, d: int, qtype: str | int = "8bit", *, seed: int = 0) -> None:
        self.d = validation.check_count("d", d, 1)
        self.qtype = qtype_name(qtype)
        if not self._is_half:
            validation.check_count("d", self.d, 1, MAX_DIMS, "2**16 for qtype='8bit'")
        self.seed = validation.check_count("seed", seed, 0)
        self.ranges: np.ndarray | None = None
        self._codebooks = np.zeros((self.d, 256, 1), np.float32)
        if self._is_half:
            self._take(np.zeros((1, self.d), np.float32))

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return self.d * (2 if self._is_half else 1)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be encoded."""
        return self.ranges is not None

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Learn the mean and the ranges of vectors x (N, D), `mx.array` or NumPy, or in files.

        Args:
            x: (N, D) vectors, N >= 1, all of which count.
            verbose: Without effect: there is one pass.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
        """
        validation.check_flag("verbose", verbose)
        rows = rows_to_train(x, self.d)
        if not len(rows):
            raise ValueError("x must have N >= 1 training vectors, got N=0")
        total = np.zeros(self.d)
        least, most = np.full(self.d, np.inf), np.full(self.d, -np.inf)
        for lo in range(0, len(rows), ENCODED):
            piece = rows[np.arange(lo, min(lo + ENCODED, len(rows)))]
            total += piece.sum(0, np.float64)
            least = np.minimum(least, piece.min(0))
            most = np.maximum(most, piece.max(0))
        mean = (total / len(rows)).astype(np.float32)
        self._set(mean, least - mean, most - mean)

    def learn(self, rows: np.ndarray, *, verbose: bool = False) -> None:
        """Learn the ranges of rows (N, D) float32, which have no offset."""
        self._set(np.zeros(self.d, np.float32), rows.min(0), rows.max(0))

    def sample(self, rows: TrainingRows) -> np.ndarray:
        """Return the rows (n, D) to learn the ranges of residuals from."""
        return drawn(rows, SAMPLE, self.seed)

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """Return the vectors (N, D) float32 of codes (N, code_size) uint8."""
        return self.flat_coding(1).decode(codes, np.zeros(len(codes), np.int64))

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes (N, code_size) uint8 of rows (N, D) float32.

        Raises:
            ValueError: A value is beyond the range of float16.
        """
        ranges = self._trained("encode")
        out = np.empty((len(rows), self.code_size), np.uint8)
        for lo in range(0, len(rows), ENCODED):
            values = rows[lo : lo + ENCODED] - ranges[0]
            if self._is_half:
                if len(values) and (far := float(np.abs(values).max())) > LARGEST_HALF:
                    raise ValueError(
                        f"x must be within {LARGEST_HALF:.0f} of the mean or the centroids for"
                        f" qtype='fp16', got {far:.6g}: scale x, or use qtype='8bit'"
                    )
                out[lo : lo + ENCODED] = values.astype("<f2").view(np.uint8)
            else:
                _, least, width = ranges
                step = np.where(width > 0, width / np.float32(LEVELS), np.float32(1))
                parts = np.floor((values - least) / step)
                out[lo : lo + ENCODED] = np.clip(parts, 0, LEVELS)
        return out

    def coding(self, centroids: np.ndarray) -> Coding:
        """Return the meaning of codes of vectors less these centroids (nlist, D) float32."""
        self._trained("search")
        if self._is_half:
            return HalfCoding(centroids=centroids, residual=True)
        return ProductCoding(
            centroids=centroids, residual=True, codebooks=self._codebooks, nbits=8, is_scalar=True
        )

    def flat_coding(self, nlist: int) -> Coding:
        """Return the meaning of codes of vectors in lists that have no centroids."""
        return self.coding(self._trained("search")[:1].repeat(nlist, 0))

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a trained quantizer."""
        return {"ranges": self._trained("save")}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the arrays of a state.

        Raises:
            KeyError, ValueError: The state is damaged.
        """
        ranges = arrays["ranges"]
        shape = (1 if self._is_half else 3, self.d)
        is_float32 = ranges.dtype == np.float32
        if ranges.shape != shape or not is_float32 or not np.isfinite(ranges).all():
            raise ValueError(f"ranges of shape {ranges.shape} do not fit {shape}")
        if (ranges[2:] < 0).any():
            raise ValueError("ranges must have widths >= 0")
        self._take(ranges)

    @property
    def _is_half(self) -> bool:
        return self.qtype == "fp16"

    def _set(self, mean: np.ndarray, least: np.ndarray, most: np.ndarray) -> None:
        """Take the mean, and the least and largest values (d,) less the mean."""
        rows = [mean] if self._is_half else [mean, least, most - least]
        self._take(np.stack(rows).astype(np.float32))

    def _take(self, ranges: np.ndarray) -> None:
        if not self._is_half:
            _, least, width = ranges.astype(np.float64)
            parts = (np.arange(LEVELS + 1) + 0.5) / LEVELS
            words = least[:, None] + parts * width[:, None]
            self._codebooks = words.astype(np.float32)[..., None]
        self.ranges = ranges

    def _trained(self, verb: str) -> np.ndarray:
        if self.ranges is None:
            raise NotFittedError(f"{verb} needs a trained ScalarQuantizer: call train first")
        return self.ranges
