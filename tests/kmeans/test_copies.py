"""Fits of sources that are slow to read: they are copied to disk once, with the same bits, and no file is left."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import vector_files as files
from helpers import FITS, every_metric
from memory import check_cap

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu import streamed
from flash_kmeans_mlx.shards import copied as copies
from flash_kmeans_mlx.shards.copied import CopiedSource, copied
from flash_kmeans_mlx.shards.source import open_source

N, D = 9000, 33
SLOW = (".parquet", "fortran", "chunks", "mixed")


class Chunks:
    """Chunks of an array, anew in every pass."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.passes = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.passes += 1
        yield from np.array_split(self.x, 13)


def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 4 * rng.standard_normal((30, D), np.float32)
    return centres[rng.integers(30, size=N)] + rng.standard_normal((N, D), np.float32)


def slow_source(kind: str, folder: Path, x: np.ndarray) -> Any:
    """Return a source of x that is slow to read."""
    if kind == "chunks":
        return Chunks(x)
    if kind == "fortran":
        np.save(folder / "x.npy", np.asfortranarray(x))
        return folder / "x.npy"
    if kind == "mixed":
        np.save(folder / "a.npy", x[:100])
        x = x[100:]
    pytest.importorskip("pyarrow")
    files.parquet(folder / "x.parquet", x, dtype="float32", rows=1000)
    return [folder / "a.npy", folder / "x.parquet"] if kind == "mixed" else folder / "x.parquet"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that temporary files are in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets what `copied` returns."""
    found: list[Any] = []

    def watched(*args: Any) -> Any:
        found.append(copied(*args))
        return found[-1]

    monkeypatch.setattr(streamed, "copied", watched)
    return found


def same(a: Any, b: Any) -> None:
    found, wanted = helpers.bits(a), helpers.bits(b)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", SLOW)
@every_metric
def test_the_bits(
    kind: str,
    threads: int,
    metric: str,
    temporary: Path,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", str(threads))
    monkeypatch.setattr(copies, "PIECE_BYTES", 10_000)
    x = points()
    source = slow_source(kind, temporary.parent, x)
    same(FITS[metric](source, 40, 6), FITS[metric](x, 40, 6, backend="cpu"))
    assert isinstance(seen[0], CopiedSource)
    assert list(temporary.iterdir()) == []
    monkeypatch.setattr(copies, "LEAST_PASSES", 1000)
    same(FITS[metric](source, 40, 6), FITS[metric](x, 40, 6, backend="cpu"))
    assert not isinstance(seen[1], CopiedSource)


def test_what_is_copied(temporary: Path, seen: list[Any]) -> None:
    """Slow sources that are read often; they give their rows once."""
    x = points()
    np.save(temporary.parent / "x.npy", x)
    chunks = Chunks(x)
    fk.batch_kmeans_Euclid(chunks, 5, 20)
    assert chunks.passes == 2  # one counts the rows
    fk.batch_kmeans_Euclid(chunks, 5, 0, init_centroids=x[:5])
    fk.batch_kmeans_Euclid(temporary.parent / "x.npy", 5, 20)
    assert [isinstance(source, CopiedSource) for source in seen] == [True, False, False]


def test_an_iterable_is_read_by_all_threads(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "3")
    threads = []
    enter = streamed.StreamedCpuPoints.open_rows

    def watched(self: Any) -> Any:
        threads.append(self.plan.threads)
        return enter(self)

    monkeypatch.setattr(streamed.StreamedCpuPoints, "open_rows", watched)
    fk.batch_kmeans_Euclid(Chunks(points()), 5, 20)
    fk.batch_kmeans_Euclid(Chunks(points()), 5, 1)
    assert threads == [4, 1]


@pytest.mark.parametrize("error", [InterruptedError, KeyboardInterrupt])
def test_no_file_after_an_error(temporary: Path, error: type[BaseException]) -> None:
    def stop(_: Any) -> None:
        assert list(temporary.iterdir()) == []  # it has no name
        raise error

    with pytest.raises(error):
        fk.batch_kmeans_Euclid(Chunks(points()), 5, callback=stop)
    assert list(temporary.iterdir()) == []


def test_no_file_after_a_kill(tmp_path: Path) -> None:
    code = """
import os, signal, sys
import numpy as np
import flash_kmeans_mlx as fk
class Chunks:
    passes = 0
    def __iter__(self):
        self.passes += 1
        for i in range(9):
            yield np.random.default_rng(i).standard_normal((900, 7), np.float32)
            if sys.argv[1] == "copying" and self.passes == 2 and i == 5:
                os.kill(os.getpid(), signal.SIGKILL)
kill = lambda _: os.kill(os.getpid(), signal.SIGKILL)
fk.batch_kmeans_Euclid(Chunks(), 5, callback=kill)
"""
    for when in ("copying", "fitting"):
        run = subprocess.run(
            [sys.executable, "-c", code, when],
            check=False,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        assert run.returncode == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []


def mounts(folder: Path, kind: str) -> str:
    escaped = str(folder).replace(" ", r"\040")
    return f"""\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:5 / /dev rw,nosuid shared:2 - devtmpfs none rw,size=9k
23 21 0:6 / {escaped} rw - ext4 /dev/vdb rw
24 21 0:7 / {escaped} rw shared:9 master:1 - {kind} none rw,size=12k
25 21 0:8 / {escaped}-other rw - ext4 /dev/vdc rw
"""


def test_no_copy_in_memory(
    tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder" / "in it"
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(copies, "MOUNTS", tmp_path / "mountinfo")
    for kind in ("tmpfs", "ramfs", "xfs"):
        (tmp_path / "mountinfo").write_text(mounts(folder.parent, kind))
        fk.batch_kmeans_Euclid(Chunks(points()), 5)
    (tmp_path / "mountinfo").unlink()  # systems without it
    fk.batch_kmeans_Euclid(Chunks(points()), 5)
    assert [isinstance(source, CopiedSource) for source in seen] == [False, False, True, True]


def test_a_disk_without_room(
    temporary: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = points()
    wanted = fk.batch_kmeans_Euclid(x, 5, backend="cpu")
    usage = shutil.disk_usage(temporary)._replace(free=2 * x.nbytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    same(fk.batch_kmeans_Euclid(Chunks(x), 5), wanted)
    assert not isinstance(seen[-1], CopiedSource)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * x.nbytes))
    same(fk.batch_kmeans_Euclid(Chunks(x), 5), wanted)
    assert isinstance(seen[-1], CopiedSource)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("kind", ["chunks", ".parquet"])
def test_a_disk_that_becomes_full(
    kind: str, code: int, temporary: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = points()
    source = slow_source(kind, temporary.parent, x)
    monkeypatch.setattr(copies, "PIECE_BYTES", 50_000)
    pwrite = os.pwrite

    def some(file: int, data: Any, begin: int) -> int:
        if begin > x.nbytes // 2:
            raise OSError(code, os.strerror(code))
        return pwrite(file, data[: len(data) // 2 + 1], begin)  # a write may be short

    monkeypatch.setattr(os, "pwrite", some)
    wanted = fk.batch_kmeans_Euclid(x, 5, 9, backend="cpu")
    same(fk.batch_kmeans_Euclid(source, 5, 9), wanted)
    assert not isinstance(seen[0], CopiedSource)
    assert list(temporary.iterdir()) == []


def test_a_folder_that_cannot_be_written(
    temporary: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    fk.batch_kmeans_Euclid(Chunks(points()), 5)
    assert not isinstance(seen[0], CopiedSource)


def test_a_source_that_changes(temporary: Path) -> None:
    class Changing(Chunks):
        def __iter__(self) -> Iterator[np.ndarray]:
            yield from Chunks(self.x + self.passes)
            self.passes += 1

    with pytest.raises(ValueError, match="each pass over x must yield the same rows: chunk 0"):
        fk.batch_kmeans_Euclid(Changing(points()), 5)
    path = slow_source(".parquet", temporary.parent, points())
    source = open_source(path)
    slow_source(".parquet", temporary.parent, points()[:8000])
    with pytest.raises(fk.VectorFileError, match=r"x\.parquet.*': it has changed"):
        fk.batch_kmeans_Euclid(source, 5)
    assert list(temporary.iterdir()) == []


def test_a_copy_stands_for_its_source(tmp_path: Path, temporary: Path) -> None:
    x = points()
    x[4321, 5] = np.inf
    source = open_source(slow_source(".parquet", tmp_path, x))
    copy = copied(source, 10, 2)
    assert isinstance(copy, CopiedSource)
    assert (copy.shape, copy.dtype, str(copy)) == (source.shape, source.dtype, str(source))
    assert (copy.place(4321), copy.signature()) == (source.place(4321), source.signature())
    assert copy.magnitude == np.inf
    index = np.random.default_rng(0).integers(N, size=500)
    np.testing.assert_array_equal(copy.take(index), x[index])
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(copy)
    with pytest.raises(ValueError, match=r"NaN or Inf in '.*x\.parquet.*', row 4321 "):
        fk.batch_kmeans_Euclid(source, 5)
    copy.file.truncate(500_000)
    with copy.cursor() as cursor, pytest.raises(fk.VectorFileError, match="copy has become"):
        cursor.read(0, N)
    copy.close()


def test_a_cap(temporary: Path, seen: list[Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60_000, 16), np.float32)
    for options in ({}, {"sample_weight": rng.random(len(x), np.float32), "n_init": 2}):
        result = check_cap(
            lambda cap, options=options: fk.batch_kmeans_Euclid(
                Chunks(x), 90, 5, max_mem_gb=cap, **options
            )
        )
        same(result, fk.batch_kmeans_Euclid(x, 90, 5, backend="cpu", **options))
        assert all(isinstance(source, CopiedSource) for source in seen)
    assert not isinstance(copied(open_source(Chunks(x)), 10, 2, 1000), CopiedSource)
