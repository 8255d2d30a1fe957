"""The interface of a backend to scans of codes: what a code stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..metrics import Proximity
from .scan import Lists

__all__ = ["Coding", "DecodedLists", "HalfCoding", "ProductCoding", "pack", "unpack"]

DECODED = 1 << 14  # vectors that are decoded together


@dataclass(frozen=True, kw_only=True)
class Coding(ABC):
    """The vectors that rows of the lists stand for: a list's centroid plus what a code says.

    Attributes:
        centroids: (nlist, d) float32; zeros where vectors are coded by themselves.
        residual: Whether vectors are coded less the centroids of their lists.
    """

    centroids: np.ndarray
    residual: bool

    @property
    @abstractmethod
    def code_size(self) -> int:
        """Bytes of a code, with which a row begins."""

    @abstractmethod
    def words(self, codes: np.ndarray) -> np.ndarray:
        """Return what codes (N, code_size) uint8 add to centroids: (N, d) float32."""

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean (d,) float32 of the centroids, an origin near the data."""
        return self.centroids.mean(0, np.float64).astype(np.float32)

    def decode(self, payload: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the vectors (N, d) float32 of rows (N, width) in the lists `numbers` (N,)."""
        return self.centroids[numbers] + self.words(payload[:, : self.code_size])

    def with_terms(
        self, codes: np.ndarray, numbers: np.ndarray, proximity: Proximity
    ) -> np.ndarray:
        """Return rows (N, width) uint8 for lists: codes, and a float32 term where one is needed.

        The score of a row y for a query q is a sum of products of q with words. The term holds
        everything else that depends on the list, so a query needs one table for all lists. It is
        ``1 / ||y||`` for cosine. For euclidean distances with centroids c it is
        ``<c - mean(c), y - c> + ||y - c||^2 / 2``.

        Args:
            codes: (N, code_size) uint8.
            numbers: (N,) the list of each code.
            proximity: The distance.
        """
        if not proximity.unit and (proximity.product or not self.residual):
            return codes
        terms = np.empty(len(codes), "<f4")
        for lo in range(0, len(codes), DECODED):
            part = slice(lo, lo + DECODED)
            c = self.centroids[numbers[part]]
            y = self.decode(codes[part], numbers[part])
            if proximity.unit:
                square = np.square(y, dtype=np.float64).sum(1)
                out = np.zeros_like(square)
                terms[part] = np.divide(1.0, np.sqrt(square), out=out, where=square > 0)
            else:
                middle = (y + c) / 2 - self.mean
                terms[part] = np.einsum("nd,nd->n", middle, y - c, dtype=np.float64)
        return np.concatenate([codes, terms[:, None].view(np.uint8)], axis=1)


@dataclass(frozen=True, kw_only=True)
class ProductCoding(Coding):
    """Codes of product quantization, or of scalar quantization: a codeword in each part.

    Attributes:
        codebooks: (m, 2**nbits, d / m) float32.
        nbits: Bits of a part's label.
        is_scalar: Whether nbits is 8 and the codewords of each dimension are equally far apart.
    """

    codebooks: np.ndarray
    nbits: int
    is_scalar: bool = False

    @property
    def code_size(self) -> int:
        """Bytes of a code, with which a row begins."""
        return -(-len(self.codebooks) * self.nbits // 8)

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Return the codewords of codes (N, code_size) uint8: (N, d) float32."""
        labels = unpack(codes, len(self.codebooks), self.nbits)
        words = self.codebooks[np.arange(len(self.codebooks)), labels]
        return words.reshape(len(codes), -1)


@dataclass(frozen=True, kw_only=True)
class HalfCoding(Coding):
    """Codes that are float16, two bytes a dimension, the lower one first."""

    @property
    def code_size(self) -> int:
        """Bytes of a code, with which a row begins."""
        return 2 * self.centroids.shape[1]

    def words(self, codes: np.ndarray) -> np.ndarray:
        """Return the values of codes (N, code_size) uint8: (N, d) float32."""
        return np.ascontiguousarray(codes).view("<f2").astype(np.float32)


class DecodedLists:
    """Lists of codes as lists of the vectors that they stand for; see `Lists`."""

    def __init__(self, lists: Lists, coding: Coding) -> None:
        self._lists = lists
        self._coding = coding
        self.payload = lists.payload
        self.ids = lists.ids
        self.owner = lists.owner
        self.next = lists.next
        self.first = lists.first
        self.counts = lists.counts
        self.cache = lists.cache
        self.parts = lists.parts

    def slots(self, number: int) -> np.ndarray:
        """Return the slots (n,) int64 of a list's rows."""
        return self._lists.slots(number)

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """Return the vectors (n, d) float32 at these slots."""
        numbers = self.owner[slots // self.ids.shape[1]]
        return self._coding.decode(self._lists.rows(slots), numbers)


def pack(labels: np.ndarray, nbits: int) -> np.ndarray:
    """Return codes (N, code_size) uint8 of labels (N, m) uint8, lowest bits first, as in faiss."""
    if nbits == 8:
        return labels
    bits = (labels[..., None] >> np.arange(nbits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(bits.reshape(len(labels), -1), axis=1, bitorder="little")


def unpack(codes: np.ndarray, m: int, nbits: int) -> np.ndarray:
    """Return the labels (N, m) uint8 of codes that `pack` made."""
    if nbits == 8:
        return codes
    bits = np.unpackbits(codes, axis=1, count=m * nbits, bitorder="little")
    return np.packbits(bits.reshape(len(codes), m, nbits), axis=2, bitorder="little")[..., 0]
