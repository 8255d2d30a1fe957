"""Inverted lists: the rows of all lists in one pool of blocks, with their ids.

Lists are immutable, so that searches read them without a lock (see base.py). The lists before and
after a change share the pool:

- New rows go to free places behind the last rows of their lists, which no older lists count.
- A removal moves rows, and so copies the blocks that it changes. The blocks that it replaces are
  retired: they are used again when the lists that have them are no longer referred to.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..files.mapped import is_mapped
from .free_blocks import FreeBlocks, Version
from .growing import Growing
from .list_blocks import links_of, rows_in_blocks, without_old_rows
from .list_checks import check_blocks, check_counts, check_finite, check_ids, check_part
from .list_removal import planned

__all__ = ["BLOCK", "InvertedLists"]

BLOCK = 16  # rows of a block: SIMD lanes
PIECE = 1 << 21  # bytes of rows that are copied at a time
NOWHERE = np.int32(-1)
MOST_BLOCKS = 1 << 28  # scans rank slots by 32 bits


class InvertedLists:
    """Rows (any width and dtype, codes for one) with ids, in `nlist` lists.

    `added` and `removed` return other lists, in time that is linear in the rows they concern. Only
    the newest lists may be asked for others, by one thread at a time.

    Rows lie in blocks of 16, transposed: scans read one value of 16 rows at a time. A row's slot is
    16 times its block plus its place there. The blocks of a list are linked.

    Attributes:
        payload: (blocks, width, 16), the rows.
        ids: (blocks, 16) int64; undefined where there is no row.
        next: (blocks,) int32, the next block of the same list, -1 after its last.
        owner: (blocks,) int32, the list of each block.
        first, last: (nlist,) int32, the first and last block of each list, -1 where it is empty.
        counts: (nlist,) int64, the rows of each list; all its blocks but the last are full.
        n_rows: The rows of all lists.
        cache, parts: What a backend keeps of a list, by its number or ~number, and of all of them.
    """

    def __init__(self, nlist: int, width: int, dtype: Any) -> None:
        self._payload = Growing(np.zeros((0, width, BLOCK), dtype))
        self._ids = Growing(np.zeros((0, BLOCK), np.int64))
        self._owner = Growing(np.zeros(0, np.int32))
        self.next = np.zeros(0, np.int32)
        self.first = np.full(nlist, NOWHERE)
        self.last = np.full(nlist, NOWHERE)
        self.counts = np.zeros(nlist, np.int64)
        self.n_rows = 0
        self.cache: dict[int, Any] = {}
        self.parts: Any = None
        self._blocks = FreeBlocks()
        self._version = Version()
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # ids in order and their slots

    def __len__(self) -> int:
        return self.n_rows

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
        n = len(labels)
        order = np.argsort(labels, kind="stable")
        lists = labels[order].astype(np.int64)
        n_new = np.bincount(lists, minlength=len(self.counts))
        n_blocks = -(-self.counts // BLOCK)
        n_new_blocks = -(-(self.counts + n_new) // BLOCK) - n_blocks
        starts = np.cumsum(n_new_blocks) - n_new_blocks
        after = copy.copy(self)
        taken = after._take(int(n_new_blocks.sum()))
        # The place of each row in its list, and its block counted from the list's first new one.
        place = np.arange(n) + (self.counts - (np.cumsum(n_new) - n_new))[lists]
        number = place // BLOCK - n_blocks[lists]
        block = self.last[lists].astype(np.int64)
        is_new = number >= 0
        block[is_new] = taken[(starts[lists] + number)[is_new]]
        after._link(taken, n_new_blocks, starts, n_blocks)
        slots = block * BLOCK + place % BLOCK
        step = max(1, PIECE // max(1, rows[:1].nbytes))
        for lo in range(0, n, step):
            part = order[lo : lo + step]
            after._write(slots[lo : lo + step], rows[part], ids[part])
        after.counts = self.counts + n_new
        after.n_rows = self.n_rows + n
        after._forget(np.flatnonzero(n_new))
        return after

    def _take(self, n: int) -> np.ndarray:
        """Return n blocks (n,) int64 that no lists have."""
        if not n:
            return np.zeros(0, np.int64)
        taken, blocks = self._blocks.take(n)
        if blocks.n_used > MOST_BLOCKS:
            raise ValueError(
                f"an index holds at most {MOST_BLOCKS} blocks of {BLOCK} vectors: make another one"
            )
        for array in (self._payload, self._ids, self._owner):
            array.reserve(blocks.n_used)
        self._blocks = blocks
        return taken

    def _link(
        self, taken: np.ndarray, n_new: np.ndarray, starts: np.ndarray, n_blocks: np.ndarray
    ) -> None:
        """Append blocks to lists.

        Args:
            taken: (M,) int64, the blocks, those of one list after another.
            n_new: (nlist,) int64, how many go to each list.
            starts: (nlist,) int64, where those of each list begin.
            n_blocks: (nlist,) int64, how many each list has.
        """
        if not len(taken):
            return
        self.owner[taken] = np.repeat(np.arange(len(n_new)), n_new)
        lists = np.flatnonzero(n_new)
        heads = taken[starts[lists]]
        tails = taken[starts[lists] + n_new[lists] - 1]
        has_blocks = n_blocks[lists] > 0
        # Searches follow the links of the blocks that they know: these change only in a copy.
        if has_blocks.any() or len(self.next) < self._blocks.n_used:
            self._copy_links()
        self.next[taken[:-1]] = taken[1:]
        self.next[tails] = NOWHERE
        self.next[self.last[lists[has_blocks]]] = heads[has_blocks]
        self.first = self.first.copy()
        self.last = self.last.copy()
        self.first[lists[~has_blocks]] = heads[~has_blocks]
        self.last[lists] = tails

    def _copy_links(self) -> None:
        """Replace the links by a copy, with room for as many as there may be blocks."""
        links = np.empty(len(self.payload), np.int32)
        links[: len(self.next)] = self.next
        self.next = links

    def _write(self, slots: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> None:
        """Write rows (M, width) and ids (M,) to slots (M,)."""
        block, lane = np.divmod(slots, BLOCK)
        self.payload[block, :, lane] = rows
        self.ids[block, lane] = ids

    def _forget(self, lists: np.ndarray) -> None:
        """Drop what was derived from the rows of these lists (M,)."""
        self._sorted = None
        self.parts = None
        # Searches with older lists continue to fill the present dict.
        self.cache = self.cache.copy()
        if self.cache:
            for number in lists.tolist():
                self.cache.pop(number, None)
                self.cache.pop(~number, None)

    def removed(self, slots: np.ndarray) -> InvertedLists:
        """Return the lists without the rows at distinct slots (M,).

        The last rows of a list move to the places of removed ones, as in faiss. Blocks that change
        are copied.
        """
        if not len(slots):
            return self
        touched = np.unique(self.owner[slots // BLOCK])
        lists = (self.slots(number) for number in touched.tolist())
        plan = planned(slots, lists, self._blocks.n_used, BLOCK)
        after = copy.copy(self)
        chain = plan.chain
        old = chain[plan.changed]
        chain[plan.changed] = after._take(len(old))
        after._copy_blocks(old, chain[plan.changed])
        holes = chain[plan.holes // BLOCK] * BLOCK + plan.holes % BLOCK
        step = max(1, PIECE // self.payload[:1, :, 0].nbytes)
        for lo in range(0, len(holes), step):
            part = plan.movers[lo : lo + step]
            after._write(holes[lo : lo + step], self.rows(part), self.ids.reshape(-1)[part])
        after._relink(touched, chain, plan.lengths)
        after.counts = self.counts.copy()
        after.counts[touched] = plan.counts
        after.n_rows = self.n_rows - len(slots)
        after._version = Version()
        self._version.newer = after._version
        after._blocks = after._blocks.retire(np.append(old, plan.dropped), self._version)
        after._forget(touched)
        return after

    def _copy_blocks(self, old: np.ndarray, new: np.ndarray) -> None:
        """Copy blocks `old` (M,) to blocks `new` (M,), with ids and owners."""
        step = max(1, PIECE // (self.payload[:1].nbytes))
        for lo in range(0, len(old), step):
            source = old[lo : lo + step]
            target = new[lo : lo + step]
            self.payload[target] = self.payload[source]
            self.ids[target] = self.ids[source]
        self.owner[new] = self.owner[old]

    def _relink(self, lists: np.ndarray, chain: np.ndarray, lengths: np.ndarray) -> None:
        """Make the blocks `chain` the only ones of `lists` (M,): `lengths` (M,) each, in order."""
        ends = np.cumsum(lengths)
        has_blocks = lengths > 0
        lasts = chain[ends[has_blocks] - 1]
        self._copy_links()
        self.next[chain[:-1]] = chain[1:]
        self.next[lasts] = NOWHERE
        self.first = self.first.copy()
        self.last = self.last.copy()
        self.first[lists] = NOWHERE
        self.last[lists] = NOWHERE
        self.first[lists[has_blocks]] = chain[(ends - lengths)[has_blocks]]
        self.last[lists[has_blocks]] = lasts

    def _chain(self, number: int) -> np.ndarray:
        """Return the blocks (M,) int64 of a list."""
        links = self.next.data
        block = int(self.first[number])
        blocks = []
        while block >= 0:
            blocks.append(block)
            block = links[block]
        return np.array(blocks, np.int64)

    def slots(self, number: int) -> np.ndarray:
        """Return the slots (count,) int64 of a list, in order."""
        return _slots(self._chain(number), int(self.counts[number]))

    def rows(self, slots: np.ndarray) -> np.ndarray:
        """Return the rows (M, width) at slots (M,)."""
        block, lane = np.divmod(slots, BLOCK)
        return self.payload[block, :, lane]

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the slots (M,) int64 of ids, -1 for those that are nowhere.

        The first call sorts all ids.
        """
        sorted_ids, slots = self.sorted_ids()
        if not len(sorted_ids):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
        return np.where(sorted_ids[place] == ids, slots[place], -1)

    def sorted_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all ids (N,) int64 in ascending order, and their slots (N,); kept for reuse."""
        if self._sorted is None:
            self._sorted = self._sort_ids()
        return self._sorted

    def part(self, slots: np.ndarray) -> dict[str, np.ndarray]:
        """Return what `merged` takes of the rows at slots (M,): lists, rows (M, width) and ids."""
        labels = self.owner[slots // BLOCK].astype(np.int64)
        return {
            "labels": labels,
            "rows": self.rows(slots),
            "ids": self.ids.reshape(-1)[slots],
        }

    def only(self, slots: np.ndarray, lists: np.ndarray) -> InvertedLists:
        """Return other lists, of copies of the rows at those slots (M,) that are in `lists`."""
        is_given = np.zeros(len(self.counts), bool)
        is_given[lists] = True
        copies = InvertedLists(len(self.counts), self.payload.shape[1], self.payload.dtype)
        return copies.added(**self.part(slots[is_given[self.owner[slots // BLOCK]]]))

    def _sort_ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all ids (N,) in order, and their slots (N,)."""
        has_row = np.ones((self._blocks.n_used, BLOCK), bool)
        has_row[self._blocks.unlisted()] = False
        not_empty = self.counts > 0
        n_in_last = (self.counts[not_empty, None] - 1) % BLOCK + 1
        has_row[self.last[not_empty]] = np.arange(BLOCK) < n_in_last
        slots = np.flatnonzero(has_row)
        ids = self.ids.reshape(-1)
        slots = slots[np.argsort(ids[slots])]
        return ids[slots], slots

    def state(self) -> dict[str, np.ndarray]:
        """Return counts (nlist,), and payload and ids of the blocks of list after list."""
        if is_mapped(self.ids):
            return {"counts": self.counts, "payload": self.payload, "ids": self.ids}
        chain = np.concatenate([self._chain(number) for number in range(len(self.counts))])
        return without_old_rows(self.counts, self.payload[chain], self.ids[chain])

    def restored(self, arrays: dict[str, np.ndarray]) -> InvertedLists:
        """Return these lists, which are empty, with the rows of a state.

        Blocks that are mapped stay where they are, and are not read.

        Raises:
            KeyError, ValueError: The state is damaged.
        """
        # In memory, as scans find rows by them: the file may change after they were checked.
        counts = arrays["counts"].copy()
        ids = arrays["ids"]
        if "rows" in arrays:  # (N, width), as in older files
            check_counts(counts, len(self.counts), ids)
            return self.merged(arrays | {"labels": np.repeat(np.arange(len(counts)), counts)})
        payload = arrays["payload"]
        check_blocks(counts, payload, ids, len(self.counts), self.payload, MOST_BLOCKS)
        if not is_mapped(ids):
            check_finite(payload)
            check_ids(ids[rows_in_blocks(counts, BLOCK)])
            payload, ids = payload.copy(), ids.copy()
        lists = copy.copy(self)
        lists.cache = {}
        lists._payload = Growing(payload)
        lists._ids = Growing(ids)
        owner, lists.next, lists.first, lists.last = links_of(counts, BLOCK)
        lists._owner = Growing(owner)
        lists._blocks = FreeBlocks(len(ids))
        lists.counts = counts
        lists.n_rows = int(counts.sum())
        return lists

    def merged(self, part: dict[str, np.ndarray]) -> InvertedLists:
        """Return the lists with a part of a state, whose ids are new.

        Raises:
            KeyError, ValueError: The part is damaged.
        """
        labels, rows, ids = part["labels"], part["rows"], part["ids"]
        payload = self.payload
        check_part(labels, rows, ids, len(self.counts), payload.shape[1], payload.dtype)
        return self.added(labels, rows, ids)


def _slots(blocks: np.ndarray, n: int) -> np.ndarray:
    """Return the first n slots of blocks (M,)."""
    return (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[:n]
