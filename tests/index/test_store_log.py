"""Saves that append what has changed: what they write, how much, and when all is written again."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from saved_stores import ROWS, check_load, saved_store
from small_indexes import X, trained

from flash_kmeans_mlx.index import EmbeddingStore, IndexIVFFlat, growth, saving

FILES = {"store.safetensors", "store.lock"}


def files(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


@pytest.mark.parametrize("kind", [None, "ivf"])
def test_a_save_writes_what_has_changed(kind: str | None, tmp_path: Path) -> None:
    one = saved_store(tmp_path, kind)
    base = (tmp_path / "store.safetensors").read_bytes()
    one.add(X[:30], metadata=[{"row": i} for i in range(30)])
    one.save(tmp_path)
    assert (tmp_path / "store.safetensors").read_bytes() == base
    size = (tmp_path / "store.changes").stat().st_size
    assert size < 0.01 * len(base) + 2000
    one.save(tmp_path)
    assert (tmp_path / "store.changes").stat().st_size == size, "nothing has changed"
    again = check_load(tmp_path, one)
    again.delete([5])
    again.save(tmp_path)
    assert (tmp_path / "store.safetensors").read_bytes() == base
    assert size < (tmp_path / "store.changes").stat().st_size < size + 2000
    check_load(tmp_path, again)
    again.max_memory_gb = 5.0
    again.save(tmp_path)
    assert EmbeddingStore.load(tmp_path).max_memory_gb == 5
    again.save(tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == FILES


def test_settings_of_the_index_are_saved_too(tmp_path: Path) -> None:
    one = saved_store(tmp_path, "ivf")
    assert isinstance(one.index, IndexIVFFlat)
    one.index.nprobe = 2
    one.delete(np.arange(2990, 3000))
    one.save(tmp_path)
    again = EmbeddingStore.load(tmp_path)
    assert isinstance(again.index, IndexIVFFlat) and again.index.nprobe == 2
    assert again.add(X[:1]).tolist() == [3000], "ids are not given twice"
    assert "store.changes" in files(tmp_path)


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("kind", [None, "ivf", "pq", "opq,ivfpq"])
def test_random_changes(kind: str | None, strings: bool, tmp_path: Path) -> None:
    rng = random.Random(str((kind, strings)))
    one = EmbeddingStore("euclidean", index=None if kind is None else trained(kind))
    n, seen = 0, set()
    for step in range(25):
        held, verb = list(one), rng.choice(["add", "add", "update", "upsert", "delete", "metadata"])
        m = rng.randrange(1, 300 if step < 3 else 12)
        rows = ROWS[rng.sample(range(3000), m)]
        new = [f"id {n + i}" for i in range(m)] if strings else list(range(n, n + m))
        old = rng.sample(held, min(m, len(held)))
        notes = [step] * m if rng.random() < 0.5 else None
        if verb == "add" or not held:
            one.add(rows, new, notes)
            n += m
        elif verb == "update":
            one.update(old, rows[: len(old)], notes and notes[: len(old)])
        elif verb == "metadata":
            one.update(old, metadata=[[step]] * len(old))
        elif verb == "upsert":
            ids = [*old, *new][:m]
            rng.shuffle(ids)
            one.upsert(ids, rows, notes)
            n += m
        else:
            one.delete(old[: len(held) - 1])
        if rng.random() < 0.7:
            one.save(tmp_path)
            seen.add("store.changes" in files(tmp_path))
            again = check_load(tmp_path, one)
            one = again if rng.random() < 0.3 else one
    assert seen == {True, False}


def test_a_log_that_is_too_long_is_written_with_the_rest(tmp_path: Path) -> None:
    one = saved_store(tmp_path, n=1000)
    base = tmp_path / "store.safetensors"
    sizes, rewritten = [], 0
    for i in range(40):
        before = base.read_bytes()
        one.upsert(np.arange(i, i + 50), X[:50], [i] * 50)
        one.save(tmp_path)
        if base.read_bytes() == before:
            sizes.append((tmp_path / "store.changes").stat().st_size / len(before))
        else:
            rewritten += 1
            assert files(tmp_path) == FILES
    assert 1 < rewritten < 10 and 0.3 < max(sizes) <= saving.MOST_CHANGES
    one.upsert([1], X[:1])
    one.save(tmp_path)
    check_load(tmp_path, one)
    one.compact()
    assert files(tmp_path) == FILES
    check_load(tmp_path, one).compact()
    check_load(tmp_path, one)


def test_a_store_of_an_older_version_is_saved_whole_once(tmp_path: Path) -> None:
    one = saved_store(tmp_path, n=300)
    file = tmp_path / "store.safetensors"
    name, parameters, arrays = saving.store_file.index_file.read(file)
    del parameters["token"]
    saving.store_file.index_file.write(file, name, parameters, arrays)
    one = EmbeddingStore.load(tmp_path)
    for expected in (FILES, {*FILES, "store.changes"}):
        one.upsert([3], X[:1])
        one.save(tmp_path)
        assert files(tmp_path) == expected
        check_load(tmp_path, one)


@pytest.mark.filterwarnings("ignore:.*training vectors")
def test_growth_is_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 3010)
    one = saved_store(tmp_path)
    one.add(X[:20])
    one.save(tmp_path)
    assert files(tmp_path) == FILES and isinstance(check_load(tmp_path, one).index, IndexIVFFlat)
    one.add(X[:20])
    one.save(tmp_path)
    assert "store.changes" in files(tmp_path)
    check_load(tmp_path, one)
