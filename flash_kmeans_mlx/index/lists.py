"""Inverted lists: rows of all lists in one pool of blocks, with their ids."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BLOCK", "InvertedLists", "grow"]

BLOCK = 16  # rows of a block: SIMD lanes
PIECE = 1 << 21  # bytes of rows that are copied at a time
NOWHERE = np.int32(-1)
MOST_BLOCKS = 1 << 28  # scans rank slots by 32 bits


def grow(array: np.ndarray, n: int) -> None:
    """Make room for n rows in an array that owns its memory, in place.

    By a sixteenth at least, so that adding takes linear time and what is allocated stays close to what is used. Nobody may
    hold views of the array.
    """
    if n > len(array):
        array.resize((max(n, len(array) + len(array) // 16), *array.shape[1:]), refcheck=False)


class InvertedLists:
    """Rows (any width and dtype, codes for one) with ids, in `nlist` lists; added to in blocks, in linear time.

    Rows lie in blocks of 16, transposed: scans read one value of 16 rows at a time. A row's slot is 16 times its block plus
    its place there. Blocks of a list are linked; blocks that get free are used again.

    Attributes:
        payload: (blocks, width, 16), the rows.
        ids: (blocks, 16) int64, -1 where there is no row.
        next: (blocks,) int32, the list's next block, -1 after its last.
        owner: (blocks,) int32, the list.
        first, last: (nlist,) int32, its first and last block, -1 where it is empty.
        counts: (nlist,) int64, its rows; all its blocks but the last are full.
        cache: what a backend keeps of a list, by its number or ~number, until the list changes.
    """

    def __init__(self, nlist: int, width: int, dtype: Any) -> None:
        self.payload = np.zeros((0, width, BLOCK), dtype)
        self.ids = np.zeros((0, BLOCK), np.int64)
        self.next, self.owner = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self.first, self.last = np.full(nlist, NOWHERE), np.full(nlist, NOWHERE)
        self.counts = np.zeros(nlist, np.int64)
        self.cache: dict[int, Any] = {}
        self._used = 0  # blocks that were ever handed out
        self._free: list[int] = []
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # ids in order and their slots

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, labels: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
        """Add rows (N, width) with ids (N,) to the lists `labels` (N,), in this order."""
        n, nlist = len(labels), len(self.counts)
        order = np.argsort(labels, kind="stable")
        lists = labels[order].astype(np.int64)
        more = np.bincount(lists, minlength=nlist)
        had = -(-self.counts // BLOCK)
        new = -(-(self.counts + more) // BLOCK) - had
        starts = np.cumsum(new) - new
        taken = self._take(int(new.sum()))
        place = np.arange(n) + (self.counts - (np.cumsum(more) - more))[lists]  # in the list
        number = place // BLOCK - had[lists]  # of the block, counted from the list's first new one
        block = self.last[lists].astype(np.int64)
        late = number >= 0
        block[late] = taken[(starts[lists] + number)[late]]
        self._link(taken, new, starts, had)
        slots = block * BLOCK + place % BLOCK
        step = max(1, PIECE // max(1, rows[:1].nbytes))
        for lo in range(0, n, step):
            some = order[lo : lo + step]
            self._write(slots[lo : lo + step], rows[some], ids[some])
        self.counts += more
        self._changed(np.flatnonzero(more))

    def _take(self, n: int) -> np.ndarray:
        """(n,) blocks that are free."""
        if n > MOST_BLOCKS - self._used + len(self._free):
            raise ValueError(f"an index holds at most {MOST_BLOCKS} blocks of {BLOCK} vectors: make another one")
        again = [self._free.pop() for _ in range(min(n, len(self._free)))]
        fresh = np.arange(self._used, self._used + n - len(again))
        self._used += len(fresh)
        for array in (self.payload, self.ids, self.next, self.owner):
            grow(array, self._used)
        taken = np.concatenate([np.array(again, np.int64), fresh])
        self.ids[taken] = -1
        return taken

    def _link(self, taken: np.ndarray, new: np.ndarray, starts: np.ndarray, had: np.ndarray) -> None:
        """Append the blocks `taken` to the lists: `new` (nlist,) each, from `starts` on, to the `had` there are."""
        self.owner[taken] = np.repeat(np.arange(len(new)), new)
        some = np.flatnonzero(new)
        heads, tails = taken[starts[some]], taken[starts[some] + new[some] - 1]
        self.next[taken[:-1]] = taken[1:]
        self.next[tails] = NOWHERE
        long = had[some] > 0
        self.next[self.last[some[long]]] = heads[long]
        self.first[some[~long]] = heads[~long]
        self.last[some] = tails

    def _write(self, slots: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
        block, lane = np.divmod(slots, BLOCK)
        self.payload[block, :, lane] = rows
        self.ids[block, lane] = ids

    def _changed(self, lists: np.ndarray) -> None:
        self._sorted = None
        for number in lists.tolist():
            self.cache.pop(number, None)
            self.cache.pop(~number, None)

    def remove(self, slots: np.ndarray) -> None:
        """Remove the rows there, distinct ones; a list's last rows move into the holes, as in faiss."""
        owners = self.owner[slots // BLOCK]
        touched = np.unique(owners)
        for number in touched.tolist():
            mine = self.slots(number)
            gone = np.isin(mine, slots[owners == number])
            left = len(mine) - int(gone.sum())
            holes, movers = mine[:left][gone[:left]], mine[left:][~gone[left:]]
            self._write(holes, self.rows(movers), self.ids.reshape(-1)[movers])
            self.ids.reshape(-1)[mine[left:]] = -1
            self.counts[number] = left
            chain, keep = self._chain(number), -(-left // BLOCK)
            self._free += chain[keep:]
            self.first[number] = chain[0] if keep else NOWHERE
            self.last[number] = chain[keep - 1] if keep else NOWHERE
            if keep:
                self.next[chain[keep - 1]] = NOWHERE
        self._changed(touched)

    def _chain(self, number: int) -> list[int]:
        """The blocks of a list."""
        chain, block = [], int(self.first[number])
        while block >= 0:
            chain.append(block)
            block = int(self.next[block])
        return chain

    def slots(self, number: int) -> np.ndarray:
        """(count,) int64: the slots of a list, in order."""
        blocks = np.array(self._chain(number), np.int64)
        return (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[: self.counts[number]]

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """(M, width): the rows there."""
        block, lane = np.divmod(slots, BLOCK)
        return self.payload[block, :, lane]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """(M,) int64: the slots of ids >= 0, -1 for those that are nowhere. The first call after a change sorts them all."""
        known = self._sorted
        if known is None:
            flat = self.ids[: self._used].reshape(-1)
            slots = np.flatnonzero(flat >= 0)
            slots = slots[np.argsort(flat[slots])]
            known = self._sorted = flat[slots], slots
        if not len(known[0]):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(known[0], ids), len(known[0]) - 1)
        return np.where(known[0][place] == ids, known[1][place], -1)

    def state(self) -> dict[str, np.ndarray]:
        """The lists one after another, without gaps: how many rows each has, rows (N, width) and ids (N,)."""
        slots = np.concatenate([self.slots(number) for number in range(len(self.counts))])
        return {"counts": self.counts, "rows": self.rows(slots), "ids": self.ids.reshape(-1)[slots]}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Fill empty lists from a state, which may be damaged: KeyError or ValueError then."""
        counts, rows, ids = arrays["counts"], arrays["rows"], arrays["ids"]
        width, dtype = self.payload.shape[1], self.payload.dtype
        if counts.shape != self.counts.shape or counts.dtype != np.int64 or counts.min() < 0 or counts.sum() != len(ids):
            raise ValueError(f"counts of shape {counts.shape} do not fit {len(self.counts)} lists of {ids.shape} ids")
        if rows.shape != (len(ids), width) or rows.dtype != dtype:
            raise ValueError(f"rows of shape {rows.shape} and dtype {rows.dtype} must be {(len(ids), width)} of {dtype}")
        if dtype.kind == "f" and not np.isfinite(rows).all():
            raise ValueError("rows are not finite")
        if ids.ndim != 1 or ids.dtype != np.int64 or len(np.unique(ids)) < len(ids) or (len(ids) and ids.min() < 0):
            raise ValueError("ids must be distinct and >= 0")
        self.add(np.repeat(np.arange(len(counts)), counts), rows, ids)
