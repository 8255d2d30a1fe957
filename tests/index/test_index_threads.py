"""Searches while another thread adds and removes: they see the index before or after a change, never within."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.index import Index, IndexFlat, IndexHNSW, IndexIVFFlat, IndexPQ, IndexRefine

BLOCK, BLOCKS = 150, 30


@pytest.mark.parametrize(
    "make",
    [
        lambda: IndexFlat(8),
        lambda: IndexIVFFlat(8, 6, nprobe=6),
        lambda: IndexHNSW(8, 4, 20),
        lambda: IndexRefine(IndexPQ(8, 4, 4)),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "portable"])
def test_searching_while_adding(backend: str, make: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BLOCK * BLOCKS, 8)).astype(np.float32)
    index: Index = make()
    index.backend = backend
    index.train(x)
    # The vectors of a block are equal, so that their number in a result says whether all were there.
    x = np.repeat(x[:BLOCKS], BLOCK, axis=0)
    windows = {0} | {
        sum(1 << b for b in range(max(0, last - 3 + kept), last + 1))
        for last in range(BLOCKS)
        for kept in (0, 1)
    }
    seen: list[int] = []
    done = threading.Event()

    def change() -> None:
        for block in range(BLOCKS):
            index.add(x[block * BLOCK : (block + 1) * BLOCK])
            if block >= 3:
                assert index.remove_ids(np.arange(BLOCK) + BLOCK * (block - 3)) == BLOCK
            before = len(seen)
            while len(seen) == before and not done.is_set():
                time.sleep(1e-4)

    def search() -> None:
        while not done.is_set():
            distances, ids = index.search(x[::BLOCK], BLOCK)
            own = ids // BLOCK == np.arange(BLOCKS)[:, None]
            assert np.isin(own.sum(1), (0, BLOCK)).all() and (distances[own] == 0).all()
            seen.append(sum(1 << b for b in np.flatnonzero(own[:, 0]).tolist()))

    with ThreadPoolExecutor(3) as pool:
        searches, changes = [pool.submit(search), pool.submit(search)], pool.submit(change)
        for future in searches:
            future.add_done_callback(lambda _: done.set())
        try:
            changes.result()
        finally:
            done.set()
        for future in searches:
            future.result()
    assert index.ntotal == 3 * BLOCK
    assert set(seen) <= windows and len(set(seen)) > BLOCKS // 2


def test_an_error_lets_the_next_one_in() -> None:
    index = IndexIVFFlat(4, 2)
    index.train(np.random.default_rng(0).random((100, 4)))
    index.add(np.ones((2, 4)))
    for wrong in (
        lambda: index.add(np.ones((1, 4)), [0]),
        lambda: index.reconstruct(9),
        lambda: index.search(np.ones((1, 4)), 1, nprobe=0),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()
    index.add(np.ones((1, 4)))
    assert index.ntotal == 3
