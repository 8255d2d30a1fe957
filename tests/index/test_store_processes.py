"""A store's directory under several processes and threads: killed ones, savers that wait, full disks, files of others."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import small_store, store_contents, store_with_lists

from flash_kmeans_mlx.files import atomic
from flash_kmeans_mlx.index import EmbeddingStore, IndexIVFFlat

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
    assert one._current.read().metadata == dict.fromkeys(range(number, number + n), number)
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
    small_store().save(tmp_path)
    new = store_with_lists()
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
    assert store_contents(EmbeddingStore.load(tmp_path)) == store_contents(small_store()), (
        "readers need no lock"
    )
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
        small_store().save(tmp_path)
    assert store_contents(EmbeddingStore.load(tmp_path)) == store_contents(small_store())
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
        small_store().save(tmp_path)
        store_with_lists().index.save(tmp_path / "model")  # pyright: ignore[reportOptionalMemberAccess]
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
        small_store().save(tmp_path)
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
    one = small_store()
    one.save(disk / "store")
    before = store_contents(one)
    one.add(np.ones((4500, 8)))
    with pytest.raises(OSError, match=r"No space left on device: .*store\.safetensors") as caught:
        one.save(disk / "store")
    assert caught.value.errno == errno.ENOSPC
    assert store_contents(EmbeddingStore.load(disk / "store")) == before
    assert {file.name for file in (disk / "store").iterdir()} == {"store.safetensors", "store.lock"}
    one.delete(np.arange(100, 4520))
    one.save(disk / "store")
    assert store_contents(EmbeddingStore.load(disk / "store")) == store_contents(one)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_is_read_only(tmp_path: Path) -> None:
    small_store().save(tmp_path)
    tmp_path.chmod(0o555)
    try:
        (tmp_path / "store.lock").chmod(0o444)
        assert store_contents(EmbeddingStore.load(tmp_path)) == store_contents(small_store())
        with pytest.raises(PermissionError, match=r"store\.lock"):
            small_store().save(tmp_path)
    finally:
        tmp_path.chmod(0o755)
