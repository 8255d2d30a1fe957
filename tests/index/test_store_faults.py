"""The store under faults: errors and interrupts anywhere, killed processes, several savers, full disks."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from old_formats import unpack

from flash_kmeans_mlx.files import atomic, models
from flash_kmeans_mlx.index import (
    EmbeddingStore,
    IndexIVFFlat,
    growth,
    index_file,
    metadata,
    store,
    store_file,
)

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
CODE = {
    module.__file__ for module in (atomic, models, index_file, store, store_file, metadata, growth)
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


def contents(one: EmbeddingStore) -> dict[int, Any]:
    """Embedding and metadata by id."""
    if one.index is None:
        return {}
    ids = sorted(one.index.state()[1]["ids"].tolist())
    rows = one.index.reconstruct_batch(ids).tolist() if ids else []
    return {key: (row, one._metadata.get(key)) for key, row in zip(ids, rows, strict=True)}


def empty() -> EmbeddingStore:
    return EmbeddingStore("euclidean")


def small() -> EmbeddingStore:
    one = empty()
    one.add(X[:20], ids=np.arange(20), metadata=list(range(20)))
    return one


@functools.cache
def trained() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    index = IndexIVFFlat(4, 2, "euclidean", 2)
    index.train(np.concatenate([X, X]))
    return index.state()


def lists() -> EmbeddingStore:
    one = EmbeddingStore(index=IndexIVFFlat.restore(*trained()))
    one.add(X[:20], ids=np.arange(20), metadata=list(range(20)))
    return one


NEW = {"ids": np.arange(100, 105), "metadata": [{"a": "new"}] * 5}
CHANGES: dict[str, tuple[Callable[[], EmbeddingStore], Callable[[EmbeddingStore], Any]]] = {
    "first add": (empty, lambda one: one.add(X[:5], **NEW)),
    "add": (small, lambda one: one.add(X[:5], **NEW)),
    "add without metadata": (small, lambda one: one.add(X[:5])),
    "add to lists": (lists, lambda one: one.add(X[:5], **NEW)),
    "add that grows": (
        small,
        lambda one: one.add(X[20:], ids=np.arange(100, 140), metadata=["new"] * 40),
    ),
    "delete": (small, lambda one: one.delete([3, 4, 5, 700])),
    "delete from lists": (lists, lambda one: one.delete([3, 4, 5, 700])),
}


def works_still(one: EmbeddingStore) -> None:
    """The store takes changes, and no metadata is left of ids that it does not hold."""

    new = [key for key in (3, 4, 100, 139, 999) if key not in contents(one)]
    thread = threading.Thread(target=one.add, args=(X[: len(new)], new), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a lock is held"
    found = contents(one)
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
    before = contents(one)
    with fault(0, error) as count:
        change(one)
    after = contents(one)
    assert isinstance(one.index, IndexIVFFlat) == ("lists" in name or "grows" in name)
    assert before != after and count[0] > 10
    seen = set()
    for at in places(error, count[0]):
        one = make()
        with contextlib.suppress(error), fault(at, error):
            change(one)
        found = contents(one)
        assert found in (before, after), at
        seen.add(found == after)
        works_still(one)
    assert seen == {True, False} or error is not KeyboardInterrupt


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("old", [False, True])
def test_a_save_is_made_or_not(error: type[BaseException], old: bool, tmp_path: Path) -> None:
    one = small()
    unpack(tmp_path / "old")
    other = empty()
    other.add(X[30:])
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
    before, after, seen = contents(EmbeddingStore.load(folder(-1))), contents(one), set()
    for at in places(error, count[0]):
        path = folder(at)
        with contextlib.suppress(error), fault(at, error):
            one.save(path)
        found = contents(EmbeddingStore.load(path))
        assert found in (before, after) and contents(one) == after, at
        seen.add(found == after)
        one.save(path)
        assert {file.name for file in path.iterdir()} == {"store.safetensors", "store.lock"}, at
    assert (seen == {True, False} or error is not KeyboardInterrupt) and count[0] > 100


@pytest.mark.parametrize("error", ERRORS)
def test_a_load_that_fails_can_be_repeated(error: type[BaseException], tmp_path: Path) -> None:
    small().save(tmp_path)
    with fault(0, error) as count:
        EmbeddingStore.load(tmp_path)
    for at in places(error, count[0]):
        with contextlib.suppress(error, ValueError), fault(at, error):
            EmbeddingStore.load(tmp_path)
    assert contents(EmbeddingStore.load(tmp_path)) == contents(small())


# One process makes all others by fork, so that the package is imported once.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from flash_kmeans_mlx.index import EmbeddingStore

def version(number):
    one = EmbeddingStore("euclidean", seed=number)
    n = 300 + 900 * (number % 2)
    one.add(np.full((n, 32), number), ids=np.arange(n) + number, metadata=[number] * n)
    return one

def check(path):
    one = EmbeddingStore.load(path)
    number, arrays = one.seed, one.index.state()[1]
    n = 300 + 900 * (number % 2)
    assert (arrays["rows"] == number).all() and (arrays["ids"] == np.arange(n) + number).all()
    assert one._metadata == dict.fromkeys(range(number, number + n), number)
    return number

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

path, rng = Path(sys.argv[1]), random.Random(0)
versions = [version(number) for number in range(1, 5)]
versions[0].save(path)

def save_until(end, mine):
    while time.monotonic() < end:
        for one in mine:
            one.save(path)

def load_until(end):
    while time.monotonic() < end:
        seen.add(check(path))

def kill(times):
    left = 0
    for _ in range(times):
        pid = process(lambda: save_until(time.monotonic() + 60, versions))
        time.sleep(rng.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        check(path)
        left += len(list(path.glob(".*.tmp")))
        versions[0].save(path)
        assert check(path) == 1
        assert sorted(os.listdir(path)) == ["store.lock", "store.safetensors"], os.listdir(path)
    print("killed:", times, "left behind:", left)

def compete(seconds):
    end = time.monotonic() + seconds
    pids = [process(lambda mine=mine: save_until(end, mine)) for mine in (versions[:2], versions[2:])]
    pids.append(process(lambda: load_until(end)))
    load_until(end)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    check(path)
    assert sorted(os.listdir(path)) == ["store.lock", "store.safetensors"], os.listdir(path)
    assert len(seen) > 1
    print("loaded:", sorted(seen))

seen = set()
{"kill": kill, "compete": compete}[sys.argv[2]](int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(
    ("what", "much", "expected"), [("kill", 40, "killed: 40"), ("compete", 2, "loaded: ")]
)
def test_processes(what: str, much: int, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), what, str(much)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr


def test_a_saver_waits_for_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().save(tmp_path)
    new = lists()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with atomic.locked(tmp_path / "store.lock"):
            held.set()
            free.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "WAIT", 0.1)
        with pytest.raises(
            TimeoutError,
            match=r"another process has been writing for more than 0\.1 s; try again.*store\.lock",
        ):
            new.save(tmp_path)
    assert contents(EmbeddingStore.load(tmp_path)) == contents(small()), "readers need no lock"
    saver = threading.Thread(target=new.save, args=(tmp_path,))
    saver.start()
    free.set()
    saver.join(30)
    other.join(30)
    assert isinstance(EmbeddingStore.load(tmp_path).index, IndexIVFFlat)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    dead = tmp_path / f".flash-kmeans-{32 * 'a'}.tmp"
    dead.write_bytes(b"")
    for _ in range(2):
        small().save(tmp_path)
    assert contents(EmbeddingStore.load(tmp_path)) == contents(small())
    assert dead.exists(), "nobody knows whether its writer lives"


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    names = [
        "index-backup.safetensors",
        f"index-{32 * 'a'}.safetensors",
        "metadata-of-mine.json",
        f"metadata-{32 * 'a'}.json",
        ".other.tmp",
        f".{32 * 'a'}.tmp",
        ".flash-kmeans-mine.tmp",
        "store.json",
    ]
    for name in names:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        small().save(tmp_path)
        lists().index.save(tmp_path / "model")  # pyright: ignore[reportOptionalMemberAccess]
    assert {file.name for file in tmp_path.iterdir()} == {
        *names,
        "store.safetensors",
        "store.lock",
        "model",
    }
    assert all((tmp_path / name).read_text() == "mine" for name in names)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_temporary_files_of_dead_writers_go(tmp_path: Path) -> None:
    dead, alive = (tmp_path / f".flash-kmeans-{32 * letter}.tmp" for letter in "ab")
    dead.write_bytes(b"x")
    with atomic.locked(alive), atomic.replacing(tmp_path / "first") as file:
        file.write(b"first")
        small().save(tmp_path)
        assert not dead.exists() and alive.exists() and Path(file.name).exists()
    assert (tmp_path / "first").read_bytes() == b"first"
    with atomic.replacing(tmp_path / "first") as file:
        file.write(b"second")
    assert {path.name for path in tmp_path.iterdir()} == {
        "first",
        "store.safetensors",
        "store.lock",
    }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk(disk: Path) -> None:
    one = small()
    one.save(disk / "store")
    before = contents(one)
    one.add(np.ones((9000, 4)))
    with pytest.raises(OSError, match=r"No space left on device: .*store\.safetensors") as caught:
        one.save(disk / "store")
    assert caught.value.errno == errno.ENOSPC
    assert contents(EmbeddingStore.load(disk / "store")) == before
    assert {file.name for file in (disk / "store").iterdir()} == {"store.safetensors", "store.lock"}
    one.delete(np.arange(100, 9020))
    one.save(disk / "store")
    assert contents(EmbeddingStore.load(disk / "store")) == contents(one)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_is_read_only(tmp_path: Path) -> None:
    small().save(tmp_path)
    tmp_path.chmod(0o555)
    try:
        (tmp_path / "store.lock").chmod(0o444)
        assert contents(EmbeddingStore.load(tmp_path)) == contents(small())
        with pytest.raises(PermissionError, match=r"store\.lock"):
            small().save(tmp_path)
    finally:
        tmp_path.chmod(0o755)
