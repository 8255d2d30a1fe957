"""Inverted lists: rows of all lists in one pool of blocks, with their ids."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np

__all__ = ["BLOCK", "Growing", "InvertedLists"]

BLOCK = 16  # rows of a block: SIMD lanes
PIECE = 1 << 21  # bytes of rows that are copied at a time
NOWHERE = np.int32(-1)
MOST_BLOCKS = 1 << 28  # scans rank slots by 32 bits


class Growing:
    """An array with room for more rows. Whoever shares it writes only rows that no reader knows of.

    Attributes:
        array: (capacity, ...).
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def reserve(self, n: int) -> None:
        """Make room for n rows.

        In place where nobody else holds the array: by a sixteenth at least, so that adding takes
        linear time and what is allocated stays close to what is used. Otherwise the others keep
        it, and a copy takes its place, larger by half so that it is seldom made.
        """
        have, *rest = self.array.shape
        if n <= have:
            return
        try:
            self.array.resize((max(n, have + have // 16), *rest))
        except ValueError:  # somebody holds it
            larger = np.empty((max(n, have + have // 2), *rest), self.array.dtype)
            larger[:have] = self.array
            self.array = larger


class _Version:
    """A state of the lists between two removals; alive while somebody reads this or an older one."""

    __slots__ = ("__weakref__", "newer")


class InvertedLists:
    """Rows (any width and dtype, codes for one) with ids, in `nlist` lists.

    They never change: `added` and `removed` return other lists, which share memory with these, in
    linear time. Only the newest may be asked for others, by one thread at a time.

    Rows lie in blocks of 16, transposed: scans read one value of 16 rows at a time. A row's slot is
    16 times its block plus its place there. Blocks of a list are linked; blocks that get free are
    used again when nobody reads lists that hold them.

    Attributes:
        payload: (blocks, width, 16), the rows.
        ids: (blocks, 16) int64; anything where there is no row.
        next: (blocks,) int32, the list's next block, -1 after its last.
        owner: (blocks,) int32, the list.
        first, last: (nlist,) int32, its first and last block, -1 where it is empty.
        counts: (nlist,) int64, its rows; all its blocks but the last are full.
        cache: what a backend keeps of a list, by its number or ~number, until the list changes.
    """

    def __init__(self, nlist: int, width: int, dtype: Any) -> None:
        self._payload = Growing(np.zeros((0, width, BLOCK), dtype))
        self._ids = Growing(np.zeros((0, BLOCK), np.int64))
        self._owner = Growing(np.zeros(0, np.int32))
        self.next = np.zeros(0, np.int32)
        self.first, self.last = np.full(nlist, NOWHERE), np.full(nlist, NOWHERE)
        self.counts = np.zeros(nlist, np.int64)
        self.cache: dict[int, Any] = {}
        self._used = 0  # blocks that were ever handed out
        self._free = np.zeros(0, np.int64)
        # Blocks that older lists hold, and what is alive while somebody reads those.
        self._retired: tuple[tuple[weakref.ref[_Version], np.ndarray], ...] = ()
        self._version = _Version()
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # ids in order and their slots

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def payload(self) -> np.ndarray:
        return self._payload.array

    @property
    def ids(self) -> np.ndarray:
        return self._ids.array

    @property
    def owner(self) -> np.ndarray:
        return self._owner.array

    def added(self, labels: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> InvertedLists:
        """Return the lists with rows (N, width) and ids (N,) at the ends of lists `labels` (N,)."""
        n, nlist = len(labels), len(self.counts)
        order = np.argsort(labels, kind="stable")
        lists = labels[order].astype(np.int64)
        more = np.bincount(lists, minlength=nlist)
        had = -(-self.counts // BLOCK)
        new = -(-(self.counts + more) // BLOCK) - had
        starts = np.cumsum(new) - new
        after = copy.copy(self)
        taken = after._take(int(new.sum()))
        place = np.arange(n) + (self.counts - (np.cumsum(more) - more))[lists]  # in the list
        number = place // BLOCK - had[lists]  # of the block, counted from the list's first new one
        block = self.last[lists].astype(np.int64)
        late = number >= 0
        block[late] = taken[(starts[lists] + number)[late]]
        after._link(taken, new, starts, had)
        slots = block * BLOCK + place % BLOCK
        step = max(1, PIECE // max(1, rows[:1].nbytes))
        for lo in range(0, n, step):
            some = order[lo : lo + step]
            after._write(slots[lo : lo + step], rows[some], ids[some])
        after.counts = self.counts + more
        after._forget(np.flatnonzero(more))
        return after

    def _take(self, n: int) -> np.ndarray:
        """(n,) blocks that are free."""
        if not n:
            return self._free[:0]
        free, retired = [self._free], []
        for reader, blocks in self._retired:
            if reader() is None:
                free.append(blocks)
            else:
                retired.append((reader, blocks))
        again = np.concatenate(free)
        used = self._used + max(0, n - len(again))
        if used > MOST_BLOCKS:
            raise ValueError(
                f"an index holds at most {MOST_BLOCKS} blocks of {BLOCK} vectors: make another one"
            )
        for array in (self._payload, self._ids, self._owner):
            array.reserve(used)
        taken = np.concatenate([again[:n], np.arange(self._used, used)])
        self._free, self._retired, self._used = again[n:], tuple(retired), used
        return taken

    def _link(
        self, taken: np.ndarray, new: np.ndarray, starts: np.ndarray, had: np.ndarray
    ) -> None:
        """Append the blocks `taken`: `new` (nlist,) to each list, from `starts` on, after `had`."""
        if not len(taken):
            return
        self.owner[taken] = np.repeat(np.arange(len(new)), new)
        some = np.flatnonzero(new)
        heads, tails = taken[starts[some]], taken[starts[some] + new[some] - 1]
        long = had[some] > 0
        if long.any() or len(self.next) < self._used:  # readers follow the links of their blocks
            self._own_links()
        self.next[taken[:-1]] = taken[1:]
        self.next[tails] = NOWHERE
        self.next[self.last[some[long]]] = heads[long]
        self.first, self.last = self.first.copy(), self.last.copy()
        self.first[some[~long]] = heads[~long]
        self.last[some] = tails

    def _own_links(self) -> None:
        """Copy the links, with room for as many as there may be blocks."""
        links = np.empty(len(self.payload), np.int32)
        links[: len(self.next)] = self.next
        self.next = links

    def _write(self, slots: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
        block, lane = np.divmod(slots, BLOCK)
        self.payload[block, :, lane] = rows
        self.ids[block, lane] = ids

    def _forget(self, lists: np.ndarray) -> None:
        """Begin anew with what is derived from the rows of these lists."""
        self._sorted = None
        self.cache = self.cache.copy()  # readers go on to fill the other one
        for number in lists.tolist() if self.cache else ():
            self.cache.pop(number, None)
            self.cache.pop(~number, None)

    def removed(self, slots: np.ndarray) -> InvertedLists:
        """Return the lists without the rows there, distinct ones.

        A list's last rows move into the holes, as in faiss. Blocks that change are copied.
        """
        if not len(slots):
            return self
        gone = np.zeros(self._used * BLOCK, bool)
        gone[slots] = True
        touched = np.unique(self.owner[slots // BLOCK])
        counts, n_kept = self.counts.copy(), np.zeros(len(touched), np.int64)
        chains, stale, holes, movers, dropped = [], [], [], [], []
        start = 0
        for i, number in enumerate(touched.tolist()):
            blocks = self._chain(number)
            mine = _slots(blocks, int(counts[number]))
            lost = gone[mine]
            left = len(mine) - np.count_nonzero(lost)
            keep = -(-left // BLOCK)
            hole = np.flatnonzero(lost[:left])
            changed = np.zeros(keep, bool)
            changed[hole // BLOCK] = True
            changed[left // BLOCK :] = True  # the last block, if it has room for rows to come
            chains.append(blocks[:keep])
            stale.append(changed)
            holes.append(start * BLOCK + hole)
            movers.append(mine[left:][~lost[left:]])
            dropped.append(blocks[keep:])
            counts[number], n_kept[i] = left, keep
            start += keep
        chain, hole, mover = (np.concatenate(parts) for parts in (chains, holes, movers))
        copied = np.flatnonzero(np.concatenate(stale))
        after, old = copy.copy(self), chain[copied]
        chain[copied] = after._take(len(old))
        after._copy_blocks(old, chain[copied])
        hole = chain[hole // BLOCK] * BLOCK + hole % BLOCK
        step = max(1, PIECE // self.payload[:1, :, 0].nbytes)
        for lo in range(0, len(hole), step):
            some = mover[lo : lo + step]
            after._write(hole[lo : lo + step], self.rows(some), self.ids.reshape(-1)[some])
        after._relink(touched, chain, n_kept)
        after.counts = counts
        after._version = self._version.newer = _Version()
        retired = weakref.ref(self._version), np.concatenate([old, *dropped])
        after._retired = (*after._retired, retired)
        after._forget(touched)
        return after

    def _copy_blocks(self, old: np.ndarray, new: np.ndarray) -> None:
        """Copy blocks, with their lists."""
        step = max(1, PIECE // (self.payload[:1].nbytes))
        for lo in range(0, len(old), step):
            some, to = old[lo : lo + step], new[lo : lo + step]
            self.payload[to], self.ids[to] = self.payload[some], self.ids[some]
        self.owner[new] = self.owner[old]

    def _relink(self, lists: np.ndarray, chain: np.ndarray, lengths: np.ndarray) -> None:
        """Make the blocks `chain` the only ones of `lists` (M,): `lengths` (M,) each, in order."""
        ends, some = np.cumsum(lengths), lengths > 0
        lasts = chain[ends[some] - 1]
        self._own_links()
        self.next[chain[:-1]] = chain[1:]
        self.next[lasts] = NOWHERE
        self.first, self.last = self.first.copy(), self.last.copy()
        self.first[lists] = self.last[lists] = NOWHERE
        self.first[lists[some]] = chain[(ends - lengths)[some]]
        self.last[lists[some]] = lasts

    def _chain(self, number: int) -> np.ndarray:
        """Return the blocks (M,) int64 of a list."""
        links, block = self.next.data, int(self.first[number])
        blocks = []
        while block >= 0:
            blocks.append(block)
            block = links[block]
        return np.array(blocks, np.int64)

    def slots(self, number: int) -> np.ndarray:
        """(count,) int64: the slots of a list, in order."""
        return _slots(self._chain(number), int(self.counts[number]))

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """(M, width): the rows there."""
        block, lane = np.divmod(slots, BLOCK)
        return self.payload[block, :, lane]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the slots (M,) int64 of ids, -1 for those that are nowhere.

        The first call sorts all ids.
        """
        known = self._sorted
        if known is None:
            real = np.ones((self._used, BLOCK), bool)
            for blocks in (self._free, *(blocks for _, blocks in self._retired)):
                real[blocks] = False
            some = self.counts > 0
            real[self.last[some]] = np.arange(BLOCK) <= (self.counts[some, None] - 1) % BLOCK
            slots, flat = np.flatnonzero(real), self.ids.reshape(-1)
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

    def restored(self, arrays: dict[str, np.ndarray]) -> InvertedLists:
        """Return empty lists filled from a state, which may be damaged: KeyError or ValueError then."""
        counts, rows, ids = arrays["counts"], arrays["rows"], arrays["ids"]
        width, dtype = self.payload.shape[1], self.payload.dtype
        if (
            counts.shape != self.counts.shape
            or counts.dtype != np.int64
            or counts.min() < 0
            or counts.sum() != len(ids)
        ):
            raise ValueError(
                f"counts of shape {counts.shape} do not fit {len(self.counts)} lists of {ids.shape} ids"
            )
        if rows.shape != (len(ids), width) or rows.dtype != dtype:
            raise ValueError(
                f"rows of shape {rows.shape} and dtype {rows.dtype} must be {(len(ids), width)} of {dtype}"
            )
        if dtype.kind == "f" and not np.isfinite(rows).all():
            raise ValueError("rows are not finite")
        if (
            ids.ndim != 1
            or ids.dtype != np.int64
            or len(np.unique(ids)) < len(ids)
            or (len(ids) and ids.min() < 0)
        ):
            raise ValueError("ids must be distinct and >= 0")
        return self.added(np.repeat(np.arange(len(counts)), counts), rows, ids)


def _slots(blocks: np.ndarray, n: int) -> np.ndarray:
    """Return the first n slots of blocks (M,)."""
    return (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[:n]
