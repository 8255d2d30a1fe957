"""Scans of inverted lists that hold product-quantized codes: the nearest of the vectors that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..metrics import unit_rows
from ..proximity import Proximity
from .neighbours import Found
from .scan import Lists

__all__ = ["Coding", "pack", "scan_codes_portable", "scan_codes_reference", "unpack"]

TILE = 1 << 22  # scores on the device at a time
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
                tail[some] = np.divide(1.0, np.sqrt(square), out=np.zeros_like(square), where=square > 0)
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
    bits = np.unpackbits(codes, axis=1, count=m * nbits, bitorder="little").reshape(len(codes), m, nbits)
    return np.packbits(bits, axis=2, bitorder="little")[..., 0]


def scan_codes_reference(
    lists: Lists, coding: Coding, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """(Q, k) float64 distances and int64 ids, by distance, then by id; inf and -1 where there are fewer rows.

    Distances are those to the vectors that the codes stand for.

    Args:
        lists: they hold the codes.
        coding: what the codes mean.
        proximity: the distance.
        queries: (Q, D) float32.
        probes: (Q, P) int64, distinct lists.
        k: neighbours of every query.
    """
    slots = [np.concatenate([lists.slots(number) for number in row]) for row in probes.tolist()]
    return _ranked(lists, coding, proximity, queries, slots, k)


def _ranked(lists: Lists, coding: Coding, proximity: Proximity, queries: np.ndarray, slots: list[np.ndarray], k: int) -> Found:
    """As `scan_codes_reference`, among the rows at slots[i] for query i."""
    distances, ids = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for i, (query, places) in enumerate(zip(queries.astype(np.float64), slots, strict=True)):
        if len(places):
            rows = coding.decode(lists.rows(places), lists.owner[places // lists.ids.shape[1]]).astype(np.float64)
            value, own = proximity.distances(query, rows), lists.ids.reshape(-1)[places]
            order = np.lexsort([own, value])[:k]
            distances[i, : len(order)], ids[i, : len(order)] = value[order], own[order]
    return distances, ids


def scan_codes_portable(
    lists: Lists, coding: Coding, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int
) -> Found:
    """As `scan_codes_reference`: candidates by MLX operations, list by list, then ranked on the host."""
    keep = k + 2 + k // 16
    m, asking = len(coding.codebooks), unit_rows(queries).astype(np.float32) if proximity.unit else queries
    expanded = proximity.product or coding.residual
    origin = coding.mean if expanded and not proximity.product else np.zeros(queries.shape[1], np.float32)
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in queries]
    books = mx.array(coding.codebooks)
    for number in np.unique(probes).tolist():
        slots = lists.slots(number)
        if not len(slots):
            continue
        if number not in lists.cache:
            payload = lists.rows(slots)
            tail = np.ascontiguousarray(payload[:, coding.code_size :]).view("<f4").reshape(-1)
            lists.cache[number] = mx.array(unpack(payload[:, : coding.code_size], m, coding.nbits)), mx.array(tail)
        labels, tail = lists.cache[number]
        own = np.flatnonzero((probes == number).any(1))
        for some in np.array_split(own, -(-len(own) * len(slots) // TILE)):
            parts = mx.array((asking[some] - origin).reshape(len(some), m, 1, -1))
            if expanded:
                tables = (parts * books).sum(-1)
                base = asking[some].astype(np.float64), coding.centroids[number].astype(np.float64)
                start = base[0] @ base[1] if proximity.product else -0.5 * np.square(base[0] - base[1]).sum(1)
            else:
                tables, start = -0.5 * mx.square(parts - books).sum(-1), np.zeros(len(some))
            scores = mx.array(start.astype(np.float32))[:, None]
            for j in range(m):
                scores = scores + mx.take(tables[:, j], labels[:, j], axis=1)
            if tail.size:
                scores = scores * tail if proximity.unit else scores - tail
            order = np.arange(len(slots))[None].repeat(len(some), 0)
            if len(slots) > keep:
                order = np.asarray(mx.argpartition(-scores, keep, axis=1)[:, : keep + 1])
            best = np.take_along_axis(np.asarray(scores), order, 1)
            for i, query in enumerate(some):
                found[query].append((best[i], slots[order[i]]))
    return _ranked(lists, coding, proximity, queries, [_best(parts, keep) for parts in found], k)


def _best(parts: list[tuple[np.ndarray, np.ndarray]], keep: int) -> np.ndarray:
    """The slots of the `keep` best (scores, slots) of some lists, and of all that score as the last of them."""
    if not parts:
        return np.zeros(0, np.int64)
    scores, slots = (np.concatenate(some) for some in zip(*parts, strict=True))
    if len(scores) <= keep:
        return slots
    return slots[scores >= np.partition(scores, -keep)[-keep]]
