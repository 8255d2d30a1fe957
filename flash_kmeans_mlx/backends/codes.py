"""Product-quantized codes as scans read them: what a row of the inverted lists stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..metrics import Proximity

__all__ = ["Coding", "pack", "unpack"]

DECODED = 1 << 14  # vectors at a time


@dataclass(frozen=True)
class Coding:
    """What a row of the lists stands for: its list's centroid, and a codeword added to each part of it.

    Attributes:
        codebooks: (m, 2**nbits, d / m) float32.
        nbits: bits of a part's label.
        centroids: (nlist, d) float32; zeros where vectors are coded by themselves.
        residual: they are not.
    """

    codebooks: np.ndarray
    nbits: int
    centroids: np.ndarray
    residual: bool

    @property
    def code_size(self) -> int:
        """Bytes of a code, with which a row begins."""
        return -(-len(self.codebooks) * self.nbits // 8)

    def decode(self, payload: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(N, d) float32: the vectors of rows (N, width) in the lists `numbers` (N,)."""
        labels = unpack(payload[:, : self.code_size], len(self.codebooks), self.nbits)
        words = self.codebooks[np.arange(len(self.codebooks)), labels]
        return self.centroids[numbers] + words.reshape(len(payload), -1)

    def followed(self, codes: np.ndarray, numbers: np.ndarray, proximity: Proximity) -> np.ndarray:
        """(N, width) uint8: codes (N, code_size) as the lists `numbers` (N,) hold them, followed by a float32 or nothing.

        Scores of rows y for queries q are sums of products of q with codewords. With what follows, they need nothing else
        that depends on the list, and a query has one table for all lists. It is ``1 / ||y||`` for cosine and, with centroids c
        and their mean, ``<c - mean, y - c> + ||y - c||^2 / 2`` for euclidean distances.
        """
        if not proximity.unit and (proximity.product or not self.residual):
            return codes
        tail = np.empty(len(codes), "<f4")
        for lo in range(0, len(codes), DECODED):
            some = slice(lo, lo + DECODED)
            c, y = self.centroids[numbers[some]], self.decode(codes[some], numbers[some])
            if proximity.unit:
                square = np.square(y, dtype=np.float64).sum(1)
                tail[some] = np.divide(
                    1.0, np.sqrt(square), out=np.zeros_like(square), where=square > 0
                )
            else:
                tail[some] = np.einsum("nd,nd->n", (y + c) / 2 - self.mean, y - c, dtype=np.float64)
        return np.concatenate([codes, tail[:, None].view(np.uint8)], axis=1)

    @property
    def mean(self) -> np.ndarray:
        """(d,) float32: the mean of the centroids, an origin near the data."""
        return self.centroids.mean(0, np.float64).astype(np.float32)


def pack(labels: np.ndarray, nbits: int) -> np.ndarray:
    """(N, code_size) uint8 from labels (N, m) uint8 of that many bits, without gaps, lowest bits first, as in faiss."""
    if nbits == 8:
        return labels
    bits = (labels[..., None] >> np.arange(nbits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(bits.reshape(len(labels), -1), axis=1, bitorder="little")


def unpack(codes: np.ndarray, m: int, nbits: int) -> np.ndarray:
    """The labels (N, m) that `pack` packed."""
    if nbits == 8:
        return codes
    bits = np.unpackbits(codes, axis=1, count=m * nbits, bitorder="little").reshape(
        len(codes), m, nbits
    )
    return np.packbits(bits, axis=2, bitorder="little")[..., 0]
