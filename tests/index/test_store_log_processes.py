"""Saves that append changes beside other writers and readers, some of which are killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from saved_stores import check_load, saved_store
from small_indexes import X

from flash_kmeans_mlx.index import EmbeddingStore


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """The one that saves last is what is there, whole; nothing is mixed."""
    first = saved_store(tmp_path, n=500)
    second = EmbeddingStore.load(tmp_path)
    for i in range(6):
        first.upsert([i], X[:1], [f"first {i}"])
        second.upsert([i + 100], X[1:2], [f"second {i}"])
        for one in (first, second, second) if i % 2 else (second, first, first):
            one.save(tmp_path)
            check_load(tmp_path, one)
    shutil.rmtree(tmp_path)
    first.upsert([1], X[:1])
    first.save(tmp_path)
    check_load(tmp_path, first)


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
