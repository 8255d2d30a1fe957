"""Inverted lists against lists of Python's, through a long life of adds and removes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.index import lists as module
from flash_kmeans_mlx.index.lists import BLOCK, InvertedLists


def content(lists: InvertedLists) -> list[dict[int, tuple[Any, ...]]]:
    """{id: row} of every list; checks that the arrays agree with one another meanwhile."""
    found = []
    for number, count in enumerate(lists.counts.tolist()):
        slots = lists.slots(number)
        ids = lists.ids.reshape(-1)[slots]
        assert len(slots) == count == len(set(ids.tolist()))
        assert (lists.owner[slots // BLOCK] == number).all()
        assert (lists.find(ids) == slots).all()
        found.append(dict(zip(ids.tolist(), map(tuple, lists.rows(slots).tolist()), strict=True)))
    assert sum(map(len, found)) == len(lists)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_long_life(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    nlist, width, next_id = 7, 5, 0
    lists = InvertedLists(nlist, width, dtype)
    expected: list[dict[int, tuple[Any, ...]]] = [{} for _ in range(nlist)]
    for step in range(60):
        n = int(rng.choice([1, 3, 40, 300]))
        labels = rng.integers(nlist - (step < 30), size=n).astype(np.uint32)
        rows = rng.integers(256, size=(n, width)).astype(dtype)
        ids = next_id + rng.permutation(n)
        next_id += n
        lists = lists.added(labels, rows, ids)
        for label, row, own in zip(labels.tolist(), rows.tolist(), ids.tolist(), strict=True):
            expected[label][own] = tuple(row)
        gone = rng.choice(next_id, int(rng.choice([0, 1, 50, next_id])), replace=False)
        slots = lists.find(gone)
        assert sorted(gone[slots >= 0].tolist()) == sorted(
            {*gone.tolist()} & {own for one in expected for own in one}
        )
        lists = lists.removed(slots[slots >= 0])
        for one in expected:
            for own in gone.tolist():
                one.pop(own, None)
        assert content(lists) == expected


def test_rows_keep_the_order_they_were_added_in() -> None:
    lists = InvertedLists(2, 1, np.float32)
    for lo in range(0, 100, 7):
        ids = np.arange(lo, lo + 7)
        lists = lists.added(ids % 2, ids[:, None].astype(np.float32), ids)
    for number in (0, 1):
        np.testing.assert_array_equal(
            lists.rows(lists.slots(number))[:, 0], np.arange(number, 105, 2)
        )


def test_free_blocks_are_used_again() -> None:
    rng = np.random.default_rng(0)
    lists = InvertedLists(5, 3, np.float32)
    for step in range(30):
        lists = lists.added(
            rng.integers(5, size=500), rng.random((500, 3), np.float32), np.arange(500) + 500 * step
        )
        if step:
            lists = lists.removed(lists.find(np.arange(500) + 500 * (step - 1)))
    # 1,000 rows after an add, and copies of the blocks that the removal changes.
    assert len(lists) == 500 and len(lists.payload) * BLOCK < 1750


def test_more_blocks_than_slots_have_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BLOCKS", 10)
    lists, rows = InvertedLists(1, 2, np.float32), np.ones((160, 2), np.float32)
    lists = lists.added(np.zeros(150, np.int64), rows[:150], np.arange(150))
    before = content(lists)
    with pytest.raises(
        ValueError, match="an index holds at most 10 blocks of 16 vectors: make another one"
    ):
        lists.added(np.zeros(11, np.int64), rows[:11], np.arange(200, 211))
    assert content(lists) == before
    lists = lists.added(np.zeros(10, np.int64), rows[:10], np.arange(200, 210))
    assert len(lists) == 160


def test_memory_stays_close_to_what_is_held() -> None:
    rng = np.random.default_rng(0)
    lists = InvertedLists(20, 6, np.float32)
    for lo in range(0, 100_000, 5000):
        lists = lists.added(
            rng.integers(20, size=5000), rng.random((5000, 6), np.float32), np.arange(lo, lo + 5000)
        )
    held = sum(array.nbytes for array in (lists.payload, lists.ids, lists.next, lists.owner))
    assert held < 1.1 * 100_000 * (6 * 4 + 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.array([1, 1], np.int64)}, "do not fit 2 lists of"),
        ({"counts": np.array([4, -1], np.int64)}, "do not fit 2 lists of"),
        ({"rows": np.zeros((3, 3), np.float32)}, r"must be \(3, 2\) of float32"),
        ({"rows": np.full((3, 2), np.nan, np.float32)}, "rows are not finite"),
        ({"ids": np.array([1, 2, 1])}, "ids must be distinct"),
        ({"ids": np.array([1, 2, -1])}, "ids must be distinct and >= 0"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str) -> None:
    state = {
        "counts": np.array([2, 1], np.int64),
        "rows": np.ones((3, 2), np.float32),
        "ids": np.arange(3),
    }
    InvertedLists(2, 2, np.float32).restored(state)
    with pytest.raises(ValueError, match=message):
        InvertedLists(2, 2, np.float32).restored(state | change)
