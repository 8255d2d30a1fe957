"""Sources of files: what names them, what does not fit together, changes, other processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from vector_files import arrow, npy, parquet, safetensors, vecs
from vector_sources import INTEGERS, Chunks, X, check_reads

from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files import open_vectors
from flash_kmeans_mlx.shards.source import Cursor, is_source, open_source


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


def test_cursors_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Cursor()  # pyright: ignore[reportAbstractUsage]
