"""Logs of changes that are torn, damaged, crafted or of another file, and disks that are full."""

from __future__ import annotations

import errno
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_stores import check_load, saved_store
from small_indexes import D, X, store_contents

from flash_kmeans_mlx.index import EmbeddingStore, saving, store_log


def with_changes(path: Path) -> list[tuple[int, dict[int, Any]]]:
    """A store with three changes: where each ends in the file, and what there is then."""
    one = saved_store(path, n=200)
    states = [(0, store_contents(one))]
    for i in range(3):
        one.upsert([i, 900 + i], X[i : i + 2], ["a", i])
        one.delete([50 + i])
        one.save(path)
        states.append(((path / "store.changes").stat().st_size, store_contents(one)))
    return states


def test_a_torn_end_is_left_out_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_log, "WAIT", 0.0)
    states = with_changes(tmp_path)
    log = tmp_path / "store.changes"
    content = log.read_bytes()
    one = EmbeddingStore.load(tmp_path)
    for number in (1, 2):
        (begin, before), (end, _) = states[number : number + 2]
        for at in [*range(begin + 1, begin + 20), *range(begin + 20, end, 211), end - 1]:
            for tail in (content[begin:at], bytes(at - begin)):
                log.write_bytes(content[:begin] + tail)
                with pytest.warns(UserWarning, match=r"store\.changes' was not written to its end"):
                    one = EmbeddingStore.load(tmp_path)
                assert store_contents(one) == before
        one.upsert([1], X[7:8], ["after"])
        one.save(tmp_path)
        assert log.read_bytes()[:begin] == content[:begin]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_load(tmp_path, one)


def test_a_damaged_change_is_refused(tmp_path: Path) -> None:
    states = with_changes(tmp_path)
    log = tmp_path / "store.changes"
    content = log.read_bytes()
    rng = random.Random(0)
    heads = [at + i for at, _ in states[1:-1] for i in range(16)]
    for at in [*range(80), *heads, *rng.sample(range(len(content)), 60)]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.randrange(8)
        log.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"cannot load '.*store\.changes': it is damaged at byte"
        ):
            EmbeddingStore.load(tmp_path)
    log.write_bytes(content + b"more")
    with pytest.raises(ValueError, match=rf"damaged at byte {len(content)} \(no record begins"):
        EmbeddingStore.load(tmp_path)
    log.unlink()
    assert store_contents(EmbeddingStore.load(tmp_path)) == states[0][1]


def test_crafted_changes_are_refused(tmp_path: Path) -> None:
    """Records with right checksums, whose content does not fit."""
    one = saved_store(tmp_path, "ivf", n=200)
    one.upsert([1, 900], X[:2])
    one.save(tmp_path)
    log = tmp_path / "store.changes"
    token = saving.store_file._token(tmp_path)
    assert token is not None
    ((arrays, texts),) = store_log.read(log, token).records
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"index.ids": np.array([1, 1])}, "ids must be distinct"),
        ({"index.ids": np.array([1, 5])}, "vectors of other ids than it touches"),
        ({"index.ids": np.array([1, -5]), "touched": np.array([1, -5])}, "ids must be distinct"),
        ({"index.labels": np.array([0, 77])}, "labels must be 2 of 5 lists"),
        ({"index.rows": np.ones((2, 3), np.float32)}, r"rows of shape \(2, 3\)"),
        ({"index.rows": np.full((2, D), np.nan, np.float32)}, "rows are not finite"),
        ({"metadata": np.frombuffer(b"[]", np.uint8)}, "no JSON object"),
        ({"names": np.frombuffer(b'{"1": "a"}', np.uint8)}, "one for each id"),
        ({"names": np.frombuffer(b'{"1": 5}', np.uint8)}, "names must be strings, got 5"),
        ({"parameters": texts["parameters"].replace("IndexIVFFlat", "IndexFlat")}, "follows an"),
        ({"parameters": "[]"}, "no JSON object"),
        ({"parameters": texts["parameters"].replace('"nlist": 5', '"nlist": 7')}, "do not fit"),
    ]
    for change, message in wrong:
        strings = {name: value for name, value in change.items() if isinstance(value, str)}
        others = {name: value for name, value in change.items() if name not in strings}
        record = store_log.models.to_buffers(arrays | others, texts | strings)
        store_log.append(log, token, 0, record)
        with pytest.raises(ValueError, match=f"cannot load '.*': .*{message}"):
            EmbeddingStore.load(tmp_path)
    for missing in ("touched", "metadata", "index.rows", "index.ids"):
        some = {name: array for name, array in arrays.items() if name != missing}
        store_log.append(log, token, 0, store_log.models.to_buffers(some, texts))
        with pytest.raises(
            ValueError, match=f"cannot load '.*': '{missing.removeprefix('index.')}'"
        ):
            EmbeddingStore.load(tmp_path)


def test_changes_of_a_file_that_was_replaced_do_not_count(tmp_path: Path) -> None:
    with_changes(tmp_path)
    log = tmp_path / "store.changes"
    old = log.read_bytes()
    one = EmbeddingStore.load(tmp_path)
    one.delete([100])
    one.compact()
    log.write_bytes(old)  # as after a crash before it was removed
    check_load(tmp_path, one)
    one.upsert([7], X[:1])
    one.save(tmp_path)
    check_load(tmp_path, one)


def test_a_full_disk_leaves_the_changes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = with_changes(tmp_path)
    one = EmbeddingStore.load(tmp_path)
    one.upsert([5], X[:1])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_log.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*store\.changes"):
            one.save(tmp_path)
    assert (tmp_path / "store.changes").stat().st_size == states[-1][0]
    assert store_contents(EmbeddingStore.load(tmp_path)) == states[-1][1]
    one.save(tmp_path)
    check_load(tmp_path, one)
