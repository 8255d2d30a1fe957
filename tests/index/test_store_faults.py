"""Errors and interrupts anywhere in a store's code: a change or a save is made in full or not at all."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from old_formats import unpack
from small_indexes import X, empty_store, small_store, store_contents, store_with_lists

from flash_kmeans_mlx.files import atomic, models, safetensors
from flash_kmeans_mlx.index import (
    EmbeddingStore,
    IndexIVFFlat,
    contents,
    current,
    growth,
    index_file,
    metadata,
    saving,
    store,
    store_file,
    store_log,
    string_ids,
)

CODE = {
    module.__file__
    for module in (
        *(atomic, models, safetensors, index_file, metadata, growth),
        *(contents, current, saving, store, store_file, store_log, string_ids),
    )
}
ERRORS = [KeyboardInterrupt, MemoryError, OSError]
# An interrupt between the instructions of `with open(...)` leaves the file to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed file:ResourceWarning",
)


@contextlib.contextmanager
def fault(at: int, error: type[BaseException]) -> Iterator[list[int]]:
    """Raise an error at the `at`-th call or return in the code of stores and files, or of what it calls."""
    count = [0]

    def profile(frame: FrameType, event: str, _: Any) -> None:
        files = {frame.f_code.co_filename}
        if event in ("call", "return") and frame.f_back is not None:
            files.add(frame.f_back.f_code.co_filename)
        if files & CODE:
            count[0] += 1
            if count[0] == at:
                raise error(errno.EIO, "a fault")

    sys.setprofile(profile)
    try:
        yield count
    finally:
        sys.setprofile(None)


def places(error: type[BaseException], count: int) -> range:
    """Where to raise it: all errors end a call in the same way, so that others than Ctrl-C take turns."""
    return (
        range(1, count + 1)
        if error is KeyboardInterrupt
        else range(ERRORS.index(error), count + 1, 4)
    )


NEW = {"ids": np.arange(100, 105), "metadata": [{"a": "new"}] * 5}
CHANGES: dict[str, tuple[Callable[[], EmbeddingStore], Callable[[EmbeddingStore], Any]]] = {
    "first add": (empty_store, lambda one: one.add(X[:5], **NEW)),
    "add": (small_store, lambda one: one.add(X[:5], **NEW)),
    "add without metadata": (small_store, lambda one: one.add(X[:5])),
    "add to lists": (store_with_lists, lambda one: one.add(X[:5], **NEW)),
    "add that grows": (
        small_store,
        lambda one: one.add(X[20:60], ids=np.arange(100, 140), metadata=["new"] * 40),
    ),
    "update": (small_store, lambda one: one.update([3, 4], X[50:52], ["a", "b"])),
    "update of metadata": (small_store, lambda one: one.update([3, 4], metadata=["a", "b"])),
    "upsert in lists": (store_with_lists, lambda one: one.upsert([3, 100], X[50:52], ["a", "b"])),
    "delete": (small_store, lambda one: one.delete([3, 4, 5, 700])),
    "delete from lists": (store_with_lists, lambda one: one.delete([3, 4, 5, 700])),
}


def works_still(one: EmbeddingStore) -> None:
    """The store takes changes, and no metadata is left of ids that it does not hold."""

    new = [key for key in (3, 4, 100, 139, 999) if key not in store_contents(one)]
    thread = threading.Thread(target=one.add, args=(X[: len(new)], new), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a lock is held"
    found = store_contents(one)
    assert {key: found[key][1] for key in new} == dict.fromkeys(new)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:.*training vectors")
def test_a_change_is_made_or_not(
    name: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "FIRST_LISTS_AT", 60)
    monkeypatch.setattr(growth, "LISTS_PER_PROBE", 4)
    make, change = CHANGES[name]
    one = make()
    before = store_contents(one)
    with fault(0, error) as count:
        change(one)
    after = store_contents(one)
    assert isinstance(one.index, IndexIVFFlat) == ("lists" in name or "grows" in name)
    assert before != after and count[0] > 10
    seen = set()
    for at in places(error, count[0]):
        one = make()
        with contextlib.suppress(error), fault(at, error):
            change(one)
        found = store_contents(one)
        assert found in (before, after), at
        seen.add(found == after)
        works_still(one)
    assert seen == {True, False} or error is not KeyboardInterrupt


@contextlib.contextmanager
def interrupt(at: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at the `at`-th instruction of the code that puts contents in place."""
    count = [0]

    def trace(frame: FrameType, _event: str, _: Any) -> Any:
        if frame.f_code.co_filename != current.__file__:
            return None
        frame.f_trace_opcodes = True
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", ["add", "update"])
def test_an_interrupt_between_instructions(name: str) -> None:
    make, change = CHANGES[name]
    one = make()
    before = store_contents(one)
    with interrupt(0) as count:
        change(one)
    after = store_contents(one)
    seen = set()
    for at in range(1, count[0] + 1):
        one = make()
        with contextlib.suppress(KeyboardInterrupt), interrupt(at):
            change(one)
        hits = one.search(X[:20], 20)
        found = store_contents(one)
        assert found in (before, after), at
        assert {*hits.ids.reshape(-1).tolist()} - {-1} <= found.keys(), at
        seen.add(found == after)
        works_still(one)
    assert seen == {True, False} and count[0] > 50


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("old", [False, True])
def test_a_save_is_made_or_not(error: type[BaseException], old: bool, tmp_path: Path) -> None:
    one = small_store()
    unpack(tmp_path / "old")
    other = empty_store()
    other.add(X[30:60])
    other.save(tmp_path / "new")

    def folder(at: int) -> Path:
        path = tmp_path / str(at)
        if old:
            shutil.copytree(tmp_path / "old" / "store", path)
        else:
            shutil.copytree(tmp_path / "new", path)
        return path

    with fault(0, error) as count:
        one.save(folder(0))
    before, after, seen = (
        store_contents(EmbeddingStore.load(folder(-1))),
        store_contents(one),
        set(),
    )
    for at in places(error, count[0]):
        path = folder(at)
        with contextlib.suppress(error), fault(at, error):
            one.save(path)
        found = store_contents(EmbeddingStore.load(path))
        assert found in (before, after) and store_contents(one) == after, at
        seen.add(found == after)
        one.save(path)
        assert {file.name for file in path.iterdir()} == {"store.safetensors", "store.lock"}, at
    assert (seen == {True, False} or error is not KeyboardInterrupt) and count[0] > 100


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("n_before", [0, 1])
def test_a_change_is_appended_or_not(
    error: type[BaseException], n_before: int, tmp_path: Path
) -> None:
    """As the first record of the file of changes, and behind another one."""
    empty = empty_store()
    empty.add(X[:300], ids=np.arange(1000, 1300))
    empty.save(tmp_path / "start")
    start = EmbeddingStore.load(tmp_path / "start")
    for i in range(n_before):
        start.add(X[i : i + 1], ids=[i], metadata=["first"])
        start.save(tmp_path / "start")

    def changed(at: int) -> tuple[EmbeddingStore, Path]:
        path = tmp_path / str(at)
        shutil.copytree(tmp_path / "start", path)
        one = EmbeddingStore.load(path)
        one.upsert([5, 1000], X[:2], ["new", "other"])
        one.delete([1001])
        return one, path

    one, path = changed(0)
    before = store_contents(EmbeddingStore.load(path))
    with fault(0, error) as count:
        one.save(path)
    after = store_contents(one)
    assert store_contents(EmbeddingStore.load(path)) == after != before
    files = {"store.safetensors", "store.changes", "store.lock"}
    seen = set()
    every = 9 if error is KeyboardInterrupt else 4
    for at in places(error, count[0])[::every]:
        one, path = changed(at)
        with contextlib.suppress(error), fault(at, error):
            one.save(path)
        found = store_contents(EmbeddingStore.load(path))
        assert found in (before, after) and store_contents(one) == after, at
        seen.add(found == after)
        one.save(path)
        assert {file.name for file in path.iterdir()} - files == set(), at
        assert store_contents(EmbeddingStore.load(path)) == after, at
        shutil.rmtree(path)
    assert (seen == {True, False} or error is not KeyboardInterrupt) and count[0] > 100


@pytest.mark.parametrize("error", ERRORS)
def test_a_load_that_fails_can_be_repeated(error: type[BaseException], tmp_path: Path) -> None:
    small_store().save(tmp_path)
    with fault(0, error) as count:
        EmbeddingStore.load(tmp_path)
    for at in places(error, count[0]):
        with contextlib.suppress(error, ValueError), fault(at, error):
            EmbeddingStore.load(tmp_path)
    assert store_contents(EmbeddingStore.load(tmp_path)) == store_contents(small_store())
