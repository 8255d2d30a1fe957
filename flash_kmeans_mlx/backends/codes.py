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
    """As `scan_codes_reference`: candidates by tables and look-ups in MLX, list by list, then ranked on the host."""
    largest = max(int(lists.counts[np.unique(probes)].max()), coding.codebooks.size)
    step = max(1, TILE // largest)
    parts = [slice(lo, lo + step) for lo in range(0, len(queries), step)]
    found = [_scan_some(lists, coding, proximity, queries[some], probes[some], k) for some in parts]
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _scan_some(lists: Lists, coding: Coding, proximity: Proximity, queries: np.ndarray, probes: np.ndarray, k: int) -> Found:
    keep = k + 2 + k // 16
    asking = unit_rows(queries) if proximity.unit else queries.astype(np.float64)
    tables = _tables(coding, proximity, asking)
    best: list[list[tuple[np.ndarray, np.ndarray]]] = [[(np.zeros(0, np.float32), np.zeros(0, np.int64))] for _ in queries]
    tied = np.zeros(len(queries), bool)
    for number in np.unique(probes).tolist():
        slots = lists.slots(number)
        if not len(slots):
            continue
        own = np.flatnonzero((probes == number).any(1))
        scores = _scores(lists, coding, proximity, number, slots, tables[mx.array(own)], asking[own])
        order = np.arange(len(slots))[None].repeat(len(own), 0)
        if len(slots) > keep + 1:
            order = np.array(mx.argpartition(-scores, keep, axis=1)[:, : keep + 1])
        value = np.take_along_axis(np.array(scores), order, 1)
        if len(slots) > keep + 1:
            lowest = np.partition(value, 1, axis=1)
            tied[own] |= lowest[:, 0] == lowest[:, 1]
        for i, query in enumerate(own):
            best[query].append((value[i], slots[order[i]]))
    distances, ids = _ranked(lists, coding, proximity, queries, [_best(parts, keep) for parts in best], k)
    if tied.any():  # rows that were left out may score as well: the ids decide
        distances[tied], ids[tied] = scan_codes_reference(lists, coding, proximity, queries[tied], probes[tied], k)
    return distances, ids


def _tables(coding: Coding, proximity: Proximity, asking: np.ndarray) -> mx.array:
    """(Q, m, 2**nbits): what the codewords add to the scores of queries (Q, d); see kernels/cpu/codes.py."""
    m, books = len(coding.codebooks), mx.array(coding.codebooks)
    if not proximity.product and not coding.residual:
        parts = mx.array(asking.astype(np.float32)).reshape(len(asking), m, 1, -1)
        return -0.5 * mx.square(parts - books).sum(-1)
    origin = np.zeros(asking.shape[1]) if proximity.product else coding.mean
    parts = mx.array((asking - origin).astype(np.float32)).reshape(len(asking), m, 1, -1)
    return (parts * books).sum(-1)


def _scores(
    lists: Lists, coding: Coding, proximity: Proximity, number: int, slots: np.ndarray, tables: mx.array, asking: np.ndarray
) -> mx.array:
    """(Q, rows) scores of a list's rows for some queries, by their tables; its labels stay on the device until it changes."""
    m = len(coding.codebooks)
    if number not in lists.cache:
        payload = lists.rows(slots)
        tail = np.ascontiguousarray(payload[:, coding.code_size :]).view("<f4").reshape(-1)
        lists.cache[number] = mx.array(unpack(payload[:, : coding.code_size], m, coding.nbits)), mx.array(tail)
    labels, tail = lists.cache[number]
    centroid = coding.centroids[number].astype(np.float64)
    if proximity.product:
        start = asking @ centroid
    else:
        start = -0.5 * np.square(asking - centroid).sum(1) if coding.residual else np.zeros(len(asking))
    scores = mx.array(start.astype(np.float32))[:, None]
    for j in range(m):
        scores = scores + mx.take(tables[:, j], labels[:, j], axis=1)
    if proximity.unit:
        return scores * tail
    return scores - tail if tail.size else scores


def _best(parts: list[tuple[np.ndarray, np.ndarray]], keep: int) -> np.ndarray:
    """The slots of the `keep` best (scores, slots) of some lists, and of all that score as the last of them."""
    scores, slots = (np.concatenate(some) for some in zip(*parts, strict=True))
    return slots if len(scores) <= keep else slots[scores >= np.partition(scores, -keep)[-keep]]
