"""Sources read the same rows however reads are cut, and refuse what changed or does not fit together."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from memory import peak
from vector_files import arrow, npy, parquet, pt, safetensors, vecs

from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files import open_vectors
from flash_kmeans_mlx.shards.source import Cursor, Source, is_source, open_source

RNG = np.random.default_rng(0)
X = RNG.standard_normal((97, 5)).astype(np.float32)
INTEGERS = RNG.integers(0, 99, (97, 5))


def fortran(path: Path, x: np.ndarray, **_: Any) -> None:
    np.save(path, np.asfortranarray(x))


def swapped(path: Path, x: np.ndarray, **_: Any) -> None:
    np.save(path, x.astype(x.dtype.newbyteorder(">")))


def compressed(path: Path, x: np.ndarray, **_: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    table = pa.table({"other": list(range(len(x))), "vector": column})
    with pa.OSFile(str(path), "wb") as sink:
        new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
        with new(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=30)


def turned(path: Path, x: np.ndarray, **_: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(x.T.copy()).T, path)


FORMATS = [
    ("x.npy", npy, "float32"),
    ("x.npy", npy, "float64"),
    ("x.npy", npy, "uint8"),
    ("x.npy", fortran, "float16"),
    ("x.npy", fortran, "int64"),
    ("x.npy", swapped, "float32"),
    ("x.safetensors", safetensors, "float32"),
    ("x.fvecs", vecs, "float32"),
    ("x.bvecs", vecs, "uint8"),
    ("x.ivecs", vecs, "int32"),
    ("x.parquet", parquet, "float32"),
    ("x.parquet", parquet, "int32"),
    ("x.arrow", arrow, "float16"),
    ("x.arrows", arrow, "float32"),
    ("x.feather", compressed, "float32"),
    ("x.arrows", compressed, "float32"),
    ("x.pt", pt, "float32"),
    ("x.pt", turned, "int32"),
]
ONE_FORMAT = pytest.mark.parametrize(
    ("name", "writer", "dtype"), FORMATS, ids=lambda v: getattr(v, "__name__", v)
)


def rows_of(dtype: str) -> np.ndarray:
    return (X if "float" in dtype else INTEGERS).astype(dtype)


def source_of(path: Path, writer: Any, dtype: str, x: np.ndarray | None = None) -> str:
    writer(path, rows_of(dtype) if x is None else x, dtype=dtype)
    return f"{path}::vectors" if writer is safetensors else str(path)


def check_reads(source: Source, expected: np.ndarray, seed: int = 0, reads: int = 60) -> None:
    """Read mostly ascending random runs, some of which skip rows or go back."""
    rng = np.random.default_rng(seed)
    n = len(expected)
    assert source.shape == expected.shape
    with source.cursor() as cursor:
        lo = 0
        for _ in range(reads):
            hi = lo + int(rng.integers(1, n - lo + 1) if rng.random() < 0.2 else 1)
            hi = min(n, hi + int(rng.integers(0, 9)))
            rows = cursor.read(lo, hi)
            assert rows.dtype == source.dtype and rows.strides[1] == rows.itemsize
            np.testing.assert_array_equal(rows, expected[lo:hi])
            lo = hi + int(rng.integers(0, 9)) * (rng.random() < 0.3)
            if lo >= n or rng.random() < 0.1:
                lo = int(rng.integers(0, n))
    index = rng.integers(0, n, 40)
    np.testing.assert_array_equal(source.take(index), expected[index])
    assert source.take([]).shape == (0, source.shape[1])


class Chunks:
    """Yields arrays anew in every pass."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        return iter(self.chunks)


@ONE_FORMAT
def test_any_splits_read_the_same_rows(tmp_path: Path, name: str, writer: Any, dtype: str) -> None:
    source = open_source(source_of(tmp_path / name, writer, dtype))
    for seed in range(4):
        check_reads(source, rows_of(dtype), seed)


@ONE_FORMAT
def test_pieces_in_steps_and_buffers(
    tmp_path: Path, name: str, writer: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("columns", "flat"):
        monkeypatch.setattr(f"flash_kmeans_mlx.files.{module}.STEP_VALUES", 20)
    given = source_of(tmp_path / name, writer, dtype)
    check_reads(open_source(given), rows_of(dtype))
    with open_vectors(given).cursor(2) as cursor:
        first = cursor.read(0, 50)
        second = cursor.read(50, 97)
        np.testing.assert_array_equal(np.concatenate([first, second]), rows_of(dtype))
        third = cursor.read(3, 40)
        assert np.shares_memory(first, third) and not np.shares_memory(second, third)


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_rows_of_plain_files_are_copied_once(tmp_path: Path, name: str) -> None:
    writer = npy if name == "x.npy" else safetensors
    with open_source(source_of(tmp_path / name, writer, "float32")).cursor() as cursor:
        first = cursor.read(0, 50)
        address = first.ctypes.data
        assert first.flags.c_contiguous
        assert all(cursor.read(lo, lo + 40).ctypes.data == address for lo in (50, 3))


def test_files_one_after_another(tmp_path: Path) -> None:
    cuts = [0, 1, 2, 30, 33, 70, 97]
    paths = []
    for i, (name, writer, dtype) in enumerate(
        [("npy", npy, "float32"), ("fvecs", vecs, "float32"), ("parquet", parquet, "float16")] * 2
    ):
        part = X.astype(np.float16)[cuts[i] : cuts[i + 1]].astype(dtype)
        paths.append(tmp_path / f"{i}.{name}")
        writer(paths[-1], part, dtype=dtype)
    expected = X.astype(np.float16).astype(np.float32)
    for given in (paths, tuple(map(str, paths)), tmp_path, str(tmp_path / "[0-9].*")):
        source = open_source(given)
        assert source.dtype == np.float32 and not source.one_cursor
        for seed in range(3):
            check_reads(source, expected, seed)
    assert str(open_source(paths)) == f"{paths[0]} and 5 more files"
    assert str(open_source(tmp_path)) == f"{tmp_path} (6 files)"
    assert str(open_source(paths[0])) == str(paths[0])
    assert source.place(31) == f"{str(paths[3])!r}, row 1"
    assert source.reading_bytes(10) >= 10 * 5 * 4 * 2
    np.save(tmp_path / "6.npy", X.astype(np.float64))
    source = open_source(tmp_path)
    assert source.dtype == np.float64
    check_reads(source, np.concatenate([expected.astype(np.float64), X]))


def test_threads_have_cursors_of_their_own(tmp_path: Path) -> None:
    paths = []
    for i, (name, writer, dtype) in enumerate(FORMATS):
        if "float" in dtype and writer is not pt:
            path = tmp_path / f"{i}{name[1:]}"
            paths.append(source_of(path, writer, "float32", X))
    source = open_source(paths)
    expected = np.concatenate([X] * len(paths))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: check_reads(source, expected, seed), range(4)))


def test_folders_and_patterns(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match=r"it is a folder without files of \.npy"):
        open_source(tmp_path)
    with pytest.raises(VectorFileError, match="no files match this pattern"):
        open_source(tmp_path / "*.npy")
    vecs(tmp_path / "a.fvecs", X)
    npy(tmp_path / "b.npy", X)
    for name in (".hidden.npy", "c.NPY"):
        (tmp_path / name).write_bytes((tmp_path / "b.npy").read_bytes())
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "notes.txt").write_text("no vectors")
    source = open_source(tmp_path)
    assert [source.place(row).split("'")[1] for row in (0, 97, 200)] == [
        str(tmp_path / name) for name in ("a.fvecs", "b.npy", "c.NPY")
    ]
    assert open_source(f"{tmp_path}/?.*[yY]").shape == (194, 5)
    with pytest.raises(VectorFileError, match=r"a.fvecs': it has no array 'vectors'"):
        open_source(f"{tmp_path}::vectors")


def test_names_of_arrays_in_files(tmp_path: Path) -> None:
    for name in "ab":
        safetensors(tmp_path / f"{name}.safetensors", X, "float32")
    for given in (
        f"{tmp_path}::vectors",
        f"{tmp_path}/*.safetensors::vectors",
        [f"{tmp_path / name}.safetensors::vectors" for name in "ab"],
    ):
        check_reads(open_source(given), np.concatenate([X, X]))
    with pytest.raises(VectorFileError, match="it has no array 'none', only other, vectors"):
        open_source(f"{tmp_path}::none")
    check_reads(open_source(open_vectors(f"{tmp_path}/a.safetensors::vectors")), X)


def test_what_is_a_source(tmp_path: Path) -> None:
    npy(tmp_path / "x.npy", X)
    source = open_source(tmp_path)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    sources = ["x.npy", tmp_path, ["a", tmp_path], ("a",), source, open_vectors(tmp_path / "x.npy")]
    assert all(map(is_source, [*sources, Chunks(X), (x for x in [X]), iter([X])]))
    arrays = [X, mapped, mx.array(X), [X, X], [[1.0]], [], (), X.tolist(), None, 3, b"x", Chunks]
    assert not any(map(is_source, [*arrays, {"a": X}, {1}, range(3), memoryview(b"x")]))
    assert open_source(source) is source
    check_reads(open_source(mapped[3:, ::2]), X[3:, ::2])
    with pytest.raises(TypeError, match="is a memory map, which stays in its process"):
        pickle.dumps(open_source(mapped))
    assert json.dumps(open_source(mapped).signature())


def test_what_does_not_fit_together(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a.npy", "b.npy", "c.npy"))
    for path, x in ((a, X), (b, X[:, :4]), (c, INTEGERS)):
        npy(path, x)
    with pytest.raises(ValueError, match=r"same D: '.*a.npy' has shape \(97, 5\), '.*b.npy' \(97,"):
        open_source([a, b])
    with pytest.raises(ValueError, match=r"'.*a.npy' has dtype float32, '.*c.npy' int64"):
        open_source([a, c])
    with pytest.raises(TypeError, match=r"data\[1\]=array.* must be a path"):
        open_source([a, X], "data")
    with pytest.raises(TypeError, match=r"x must name files or be an iterable .*, got ndarray"):
        open_source(X)
    with pytest.raises(FileNotFoundError, match=r"none.npy"):
        open_source([a, tmp_path / "none.npy"])
    np.save(c, X[:0])
    with pytest.raises(VectorFileError, match="it is empty"):
        open_source([a, c])
    source = open_source(a)
    for lo, hi in ((-1, 3), (3, 3), (90, 98)):
        with pytest.raises(IndexError, match=rf"rows {lo}:{hi} must be some of the 97 rows of"):
            source.cursor().read(lo, hi)
    for index in ([0, 97], [-1, 3]):
        with pytest.raises(
            IndexError, match=rf"index must be in 0..96, .*, got {97 if 97 in index else -1}"
        ):
            source.take(index)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    for name, writer in (("x.npy", npy), ("x.fvecs", vecs), ("x.arrow", arrow)):
        path = tmp_path / name
        writer(path, X)
        with open_source(path).cursor() as cursor:
            cursor.read(0, 10)
            os.truncate(path, 1000)
            with pytest.raises(VectorFileError, match=rf"{name}': it (ended|has become smaller)"):
                cursor.read(10, 97)


def test_a_file_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    npy(path, X)
    source = open_source(path)
    check_reads(source, X)
    signature = source.signature()
    assert json.loads(json.dumps(signature)) == open_source(path).signature() == signature
    assert signature[0][:4] == [str(path), [97, 5], "float32", path.stat().st_size]
    changed = X.copy()
    changed[0, 0] += 1
    npy(path, changed)
    assert source.signature()[0][5] != signature[0][5]
    check_reads(source, changed)
    for other in (X[:50], X.astype(np.float64), X[:, :3]):
        npy(path, other)
        with pytest.raises(VectorFileError, match=r"x.npy': it has changed: its shape and dtype"):
            source.cursor().read(0, 3)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        source.take([0])


CHILD = """
import pickle, sys
source = pickle.load(open(sys.argv[1], "rb"))
assert source._opened == {}
with source.cursor() as cursor:
    pickle.dump((cursor.read(3, 150).copy(), source.take([99, 5]), str(source)), open(sys.argv[2], "wb"))
"""


def test_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for i, (name, writer) in enumerate([("npy", npy), ("parquet", parquet), ("arrow", arrow)]):
        writer(tmp_path / f"{i}.{name}", X)
    source = open_source(["0.npy", "1.parquet", "2.arrow"])
    source.take([0, 100, 200])
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "source"), str(tmp_path / "read")]
    subprocess.run(command, check=True, cwd=tmp_path / "elsewhere")
    expected = np.concatenate([X, X, X])
    rows, taken, text = pickle.loads((tmp_path / "read").read_bytes())
    np.testing.assert_array_equal(rows, expected[3:150])
    np.testing.assert_array_equal(taken, expected[[99, 5]])
    assert text == str(source)
    (tmp_path / "0.npy").unlink()
    there = pickle.loads((tmp_path / "source").read_bytes())
    assert there.shape == (291, 5) and there.dtype == np.float32
    with pytest.raises(FileNotFoundError, match=r"0.npy"):
        there.cursor().read(0, 1)


def test_row_groups_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    parquet(tmp_path / "x.parquet", X)  # row groups of 3 rows
    monkeypatch.setattr("flash_kmeans_mlx.files.columns.STEP_VALUES", 10)
    begun = []
    iter_batches = pq.ParquetFile.iter_batches

    def counted(self: Any, size: int, groups: Any, *args: Any, **options: Any) -> Any:
        begun.append(groups[0])
        return iter_batches(self, size, groups, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    source = open_source(tmp_path / "x.parquet")
    with source.cursor() as cursor:
        for lo in range(0, 90, 7):
            cursor.read(lo, lo + 7)
        assert begun == [0]
        cursor.read(90, 91)
        cursor.read(95, 97)  # another row group: nothing between is decoded
        cursor.read(30, 31)
        cursor.read(32, 35)
        assert begun == [0, 31, 10]
    begun.clear()
    monkeypatch.setattr("flash_kmeans_mlx.shards.base._GAP_BYTES", 1)
    source.take([80, 1, 2, 81, 0])
    assert begun == [0, 26]


def test_memory_stays_within_what_is_said(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((40_000, 32), np.float32)
    for name, writer in (
        ("x.npy", npy),
        ("i.npy", npy),
        ("x.fvecs", vecs),
        ("f.npy", fortran),
    ):
        writer(tmp_path / name, (9 * x).astype(np.uint8) if name == "i.npy" else x)
    for given in (
        *(tmp_path / name for name in ("x.npy", "i.npy", "x.fvecs", "f.npy")),
        [tmp_path / "x.npy", tmp_path / "x.fvecs"],
    ):
        source = open_source(given)

        def read(source: Source = source) -> None:
            with source.cursor() as cursor:
                for lo in range(0, source.shape[0] - 3001, 3000):
                    cursor.read(lo, lo + 3000)

        assert peak(read) <= source.reading_bytes(3000) + (1 << 16)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="counts pages as Linux does")
@pytest.mark.parametrize("writer", [arrow, compressed])
def test_pages_of_arrow_files_are_released(
    tmp_path: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.feather

    x = np.random.default_rng(0).random((200_000, 48), np.float32)  # 38 MB
    if writer is arrow:  # one batch
        table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 48)})
        pyarrow.feather.write_feather(
            table, tmp_path / "x.arrow", compression="uncompressed", chunksize=len(x)
        )
        del table
    else:
        writer(tmp_path / "x.arrow", x)
    source = open_source(tmp_path / "x.arrow")
    before = pa.total_allocated_bytes()
    with source.cursor() as cursor:
        for lo in range(0, 190_000, 10_000):
            np.testing.assert_array_equal(cursor.read(lo, lo + 10_000), x[lo : lo + 10_000])
        assert pa.total_allocated_bytes() - before < 4e6
        maps = Path("/proc/self/smaps").read_text().split("x.arrow\n")[1:]
        resident = [next(line for line in m.splitlines() if line.startswith("Rss:")) for m in maps]
        assert all(int(line.split()[1]) < 8e3 for line in resident)
        assert bool(resident) == (writer is compressed)  # otherwise it is no map that is read


def test_iterables(tmp_path: Path) -> None:
    chunks = [X[:40], X[:0], mx.array(X[40:50]), X[50:96].astype(np.float64), X[96:].tolist()]
    source = open_source(Chunks(*chunks), "data")
    assert source.dtype == np.float64 and source.one_cursor
    for seed in range(4):
        check_reads(source, X.astype(np.float64), seed)
    assert source.place(41) == "chunk 2, row 1" and str(source) == "data, a Chunks of 5 chunks"
    assert json.dumps(source.signature()) and source.reading_bytes(9) > 9 * 5 * 8
    check_reads(pickle.loads(pickle.dumps(source)), X.astype(np.float64))
    with source.cursor():
        with pytest.raises(RuntimeError, match="one cursor at a time"):
            source.cursor()
        with pytest.raises(RuntimeError, match="one cursor at a time"):
            source.take([0])
    source.cursor().close()
    integers = open_source(Chunks(INTEGERS[:50], INTEGERS[50:]))
    assert integers.dtype == np.float32
    check_reads(integers, INTEGERS)


def test_chunks_that_take_the_same_memory() -> None:
    class Reused:
        def __iter__(self) -> Iterator[np.ndarray]:
            chunk = np.empty((10, 5), np.float32)
            for lo in range(0, 97, 10):
                rows = X[lo : lo + 10]
                chunk[: len(rows)] = rows
                yield chunk[: len(rows)]
            chunk[:] = np.nan

    source = open_source(Reused())
    for seed in range(4):
        check_reads(source, X, seed)
    with source.cursor() as cursor:
        np.testing.assert_array_equal(cursor.read(90, 97), X[90:])


def test_chunks_that_do_not_fit() -> None:
    def message(*chunks: Any) -> str:
        with pytest.raises((ValueError, TypeError)) as caught:
            open_source(Chunks(*chunks), "data")
        return str(caught.value)

    assert "chunk 0 has D=5, chunk 1 has shape (97, 4)" in message(X, X[:, :4])
    assert "chunk 1 of data must have shape (n, D), got 1 dimensions, (5,)" in message(X, X[0])
    assert "chunk 0 of data must have shape (n, D), got 3 dimensions" in message(X[None])
    assert "chunk 1 of data must hold real numbers" in message(X, X.astype(complex))
    assert "data must yield rows, got 0 chunks" in message()
    assert "data must yield rows, got 1 chunks" in message(X[:0])
    with pytest.raises(TypeError, match=r"data is an iterator \(generator\), which .* only once"):
        open_source((x for x in [X]), "data")


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([X[:40]], "it ended after 1 chunks, 40 rows"),
        ([], "it ended after 0 chunks, 0 rows"),
        ([X[:40], X[40:96]], r"chunk 1 had shape \(57, 5\) and has \(56, 5\) now"),
        ([X[:40, :4], X[40:]], r"chunk 0 had shape \(40, 5\) and has \(40, 4\) now"),
        ([X[:40], X[40:], X[:1]], "chunk 2 follows the 97 rows"),
        ([X[:40], X[39:96]], "chunk 1 begins with another row now"),
    ],
)
def test_iterables_that_change(later: list[np.ndarray], message: str) -> None:
    chunks = Chunks(X[:40], X[40:])
    source = open_source(chunks)
    check_reads(source, X)
    match = f"each pass over x must yield the same rows: {message}"
    with source.cursor() as cursor:
        chunks.chunks = tuple(later)
        with pytest.raises(ValueError, match=match):
            cursor.read(0, 97)
        chunks.chunks = (X[:40], X[40:])
        np.testing.assert_array_equal(cursor.read(3, 9), X[3:9])  # by another pass


def test_cursors_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Cursor()  # pyright: ignore[reportAbstractUsage]
