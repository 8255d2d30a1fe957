"""Saves that append changes: their size, damage, torn ends, readers and writers in other processes."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import D, X, store_contents, trained

from flash_kmeans_mlx.index import EmbeddingStore, IndexIVFFlat, growth, saving, store_log

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((3000, D)).astype(np.float32)
FILES = {"store.safetensors", "store.lock"}


def saved(path: Path, kind: str | None = None, n: int = 3000) -> EmbeddingStore:
    one = EmbeddingStore("euclidean", index=None if kind is None else trained(kind))
    one.add(ROWS[:n], metadata=[{"row": i} for i in range(n)])
    one.save(path)
    return one


def files(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def same(path: Path, one: EmbeddingStore) -> EmbeddingStore:
    """A load gives the same store."""
    again = EmbeddingStore.load(path)
    assert list(again) == list(one)
    mine, other = (each.get(list(each)) for each in (one, again))
    assert mine.metadata == other.metadata
    np.testing.assert_array_equal(mine.embeddings, other.embeddings)
    assert again._current.read().names == one._current.read().names
    # Metadata of ids that are gone are gone too.
    assert again._current.read().metadata == one._current.read().metadata
    hits, others = one.search(X[:5], 7), again.search(X[:5], 7)
    np.testing.assert_array_equal(hits.ids, others.ids)
    np.testing.assert_array_equal(hits.distances, others.distances)
    assert hits.metadata == others.metadata
    return again


@pytest.mark.parametrize("kind", [None, "ivf"])
def test_a_save_writes_what_has_changed(kind: str | None, tmp_path: Path) -> None:
    one = saved(tmp_path, kind)
    base = (tmp_path / "store.safetensors").read_bytes()
    one.add(X[:30], metadata=[{"row": i} for i in range(30)])
    one.save(tmp_path)
    assert (tmp_path / "store.safetensors").read_bytes() == base
    size = (tmp_path / "store.changes").stat().st_size
    assert size < 0.01 * len(base) + 2000
    one.save(tmp_path)
    assert (tmp_path / "store.changes").stat().st_size == size, "nothing has changed"
    again = same(tmp_path, one)
    again.delete([5])
    again.save(tmp_path)
    assert (tmp_path / "store.safetensors").read_bytes() == base
    assert size < (tmp_path / "store.changes").stat().st_size < size + 2000
    same(tmp_path, again)
    again.max_memory_gb = 5.0
    again.save(tmp_path)
    assert EmbeddingStore.load(tmp_path).max_memory_gb == 5
    again.save(tmp_path / "elsewhere")
    assert files(tmp_path / "elsewhere") == FILES


def test_settings_of_the_index_are_saved_too(tmp_path: Path) -> None:
    one = saved(tmp_path, "ivf")
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
            again = same(tmp_path, one)
            one = again if rng.random() < 0.3 else one
    assert seen == {True, False}


def test_a_log_that_is_too_long_is_written_with_the_rest(tmp_path: Path) -> None:
    one = saved(tmp_path, n=1000)
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
    same(tmp_path, one)
    one.compact()
    assert files(tmp_path) == FILES
    same(tmp_path, one).compact()
    same(tmp_path, one)


def with_changes(path: Path) -> list[tuple[int, dict[int, Any]]]:
    """A store with three changes: where each ends in the file, and what there is then."""
    one = saved(path, n=200)
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
            same(tmp_path, one)


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
    one = saved(tmp_path, "ivf", n=200)
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
    same(tmp_path, one)
    one.upsert([7], X[:1])
    one.save(tmp_path)
    same(tmp_path, one)


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """The one that saves last is what is there, whole; nothing is mixed."""
    first = saved(tmp_path, n=500)
    second = EmbeddingStore.load(tmp_path)
    for i in range(6):
        first.upsert([i], X[:1], [f"first {i}"])
        second.upsert([i + 100], X[1:2], [f"second {i}"])
        for one in (first, second, second) if i % 2 else (second, first, first):
            one.save(tmp_path)
            same(tmp_path, one)
    shutil.rmtree(tmp_path)
    first.upsert([1], X[:1])
    first.save(tmp_path)
    same(tmp_path, first)


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
    same(tmp_path, one)


SCRIPT = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import numpy as np
from flash_kmeans_mlx.index import EmbeddingStore

# Version v has the ids 0 to 999 and v to v + 49, with v as metadata of the latter.
def write(one, v):
    one.delete([key for key in one if 1000 <= key < v])
    one.upsert(np.arange(v, v + 50), np.full((50, 8), v), [v] * 50)
    one.save(path)

def check():
    one = EmbeddingStore.load(path)
    ids = np.array(list(one))
    v = int(ids[1000]) if len(ids) > 1000 else 0
    if v:
        found = one.get(np.arange(v, v + 50))
        assert found.metadata == [v] * 50 and (found.embeddings == v).all(), v
        assert ids[1000:].tolist() == [*range(v, v + 50)], v
    return v

def process(work):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)

path, how = Path(sys.argv[1]), sys.argv[2]
one = EmbeddingStore("euclidean")
one.add(np.ones((1000, 8)))
one.save(path)

def write_until(end):
    mine = EmbeddingStore.load(path)
    v = max(mine)
    while time.monotonic() < end:
        v += 50
        write(mine, v)

def read_until(end):
    last, seen = 0, set()
    while time.monotonic() < end or len(seen) < 4:
        v = check()
        assert v >= last, (v, last)
        last = v
        seen.add(v)

if how == "read":
    warnings.simplefilter("error")
    end = time.monotonic() + 1.0
    writer, reader = process(lambda: write_until(end + 60)), process(lambda: read_until(end))
    read_until(end)
    assert os.waitpid(reader, 0)[1] == 0
    os.kill(writer, signal.SIGKILL)
    assert os.waitpid(writer, 0)[1] == signal.SIGKILL
else:
    warnings.simplefilter("ignore")
    rng, last, rounds = random.Random(0), 0, 0
    while rounds < 12 or last < 3000:
        rounds += 1
        pid = process(lambda: write_until(time.monotonic() + 60))
        time.sleep(rng.random() * 0.01 * (rounds + 4))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        v = check()
        assert v >= last
        last = v
print("done", check())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("how", ["read", "kill"])
def test_processes(how: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), how],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stdout + done.stderr


def test_a_store_of_an_older_version_is_saved_whole_once(tmp_path: Path) -> None:
    one = saved(tmp_path, n=300)
    file = tmp_path / "store.safetensors"
    name, parameters, arrays = saving.store_file.index_file.read(file)
    del parameters["token"]
    saving.store_file.index_file.write(file, name, parameters, arrays)
    one = EmbeddingStore.load(tmp_path)
    for expected in (FILES, {*FILES, "store.changes"}):
        one.upsert([3], X[:1])
        one.save(tmp_path)
        assert files(tmp_path) == expected
        same(tmp_path, one)


@pytest.mark.filterwarnings("ignore:.*training vectors")
def test_growth_is_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 3010)
    one = saved(tmp_path)
    one.add(X[:20])
    one.save(tmp_path)
    assert files(tmp_path) == FILES and isinstance(same(tmp_path, one).index, IndexIVFFlat)
    one.add(X[:20])
    one.save(tmp_path)
    assert "store.changes" in files(tmp_path)
    same(tmp_path, one)
