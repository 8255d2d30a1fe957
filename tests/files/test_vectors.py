"""Every format round-trips, whatever the size of the chunks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import to_float64
from vector_files import (
    CASES,
    FLOATS,
    WHOLE,
    expected,
    npy,
    safetensors,
    vecs,
    write,
)

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files import (
    FORMATS,
    Cursor,
    Vectors,
    ahead,
    contents,
    is_source,
    open_vectors,
    value_dtype,
)
from flash_kmeans_mlx.files.flat import FlatVectors
from flash_kmeans_mlx.kmeans.lloyd import Iteration


@pytest.mark.parametrize(
    ("name", "writer", "dtype"), CASES, ids=lambda v: getattr(v, "__name__", v)
)
def test_a_format_round_trips(tmp_path: Path, name: str, writer: Any, dtype: str) -> None:
    vectors = open_vectors(write(tmp_path, name, writer, dtype))
    assert vectors.shape == (7, 3) and vectors.dtype == dtype
    for rows in (1, 2, 3, 7, 100):
        chunks = list(vectors.chunks(rows))
        assert max(map(len, chunks)) <= rows
        assert {str(chunk.dtype) for chunk in chunks} <= set(FLOATS)
        np.testing.assert_array_equal(np.concatenate(chunks).astype(np.float64), expected(dtype))
        assert (
            vectors.row_bytes >= 3 * chunks[0].itemsize
            and vectors.reading_bytes >= vectors.row_bytes
        )
    whole = vectors.array()
    assert isinstance(whole, mx.array) == (dtype == "bfloat16")
    np.testing.assert_array_equal(to_float64(whole), expected(dtype))


@pytest.mark.parametrize(
    ("name", "writer", "dtype"), CASES, ids=lambda v: getattr(v, "__name__", v)
)
def test_a_cursor_reads_any_rows(tmp_path: Path, name: str, writer: Any, dtype: str) -> None:
    vectors = open_vectors(write(tmp_path, name, writer, dtype))
    for buffers in (0, 1, 2):
        with vectors.cursor(buffers) as cursor:
            kept = []
            for lo, hi in ((2, 3), (3, 7), (6, 7), (0, 4), (0, 7), (1, 2), (5, 6)):
                kept.append((cursor.read(lo, hi), expected(dtype)[lo:hi]))
                for rows, values in kept[-buffers:]:  # with 0 all of them
                    assert rows.dtype == value_dtype(dtype)
                    np.testing.assert_array_equal(rows.astype(np.float64), values)
    rows = vectors.sample_rows(4)
    assert rows == sorted(set(rows)) and len(rows) >= 3 and 0 <= rows[0] <= rows[-1] < 7


def test_every_format_is_tested() -> None:
    assert {Path(name).suffix for name, _, _ in CASES} | {".pth", ".ipc"} == set(FORMATS)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", ">f2", ">i4", "<f8"])
def test_orders_of_npy(tmp_path: Path, dtype: str, order: Any) -> None:
    np.save(tmp_path / "x.npy", np.asarray(WHOLE.astype(dtype), order=order))
    vectors = open_vectors(tmp_path / "x.npy")
    for rows in (2, 7):
        np.testing.assert_array_equal(np.concatenate(list(vectors.chunks(rows))), WHOLE)
    np.testing.assert_array_equal(vectors.array(), WHOLE)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy(tmp_path: Path, version: Any) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, WHOLE, version)
    np.testing.assert_array_equal(open_vectors(str(tmp_path / "x.npy")).array(), WHOLE)


def test_headers_of_other_writers(tmp_path: Path) -> None:
    for text in (
        b"{'shape':(2,3),'descr':\"|u1\",'fortran_order':False}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 3L), }\n",
    ):
        (tmp_path / "x.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(range(6))
        )
        np.testing.assert_array_equal(
            open_vectors(tmp_path / "x.npy").array(), np.arange(6).reshape(2, 3)
        )


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "x.fvecs"])
def test_plain_files_are_mapped(tmp_path: Path, name: str) -> None:
    writer = {"x.npy": npy, "x.safetensors": safetensors, "x.fvecs": vecs}[name]
    x = open_vectors(write(tmp_path, name, writer, "float32")).array()
    assert isinstance(x, np.memmap) and not x.flags.writeable


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("part", [slice(None), slice(50, 4000), slice(None, None, 3)])
def test_memory_maps(tmp_path: Path, mode: Any, part: slice) -> None:
    x = np.random.default_rng(0).random((5000, 24), np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode != "r":
        x[77] = mapped[77] = 5
    vectors = open_vectors(mapped[part])
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(vectors.chunks(1111))), x[part])
        np.testing.assert_array_equal(
            np.concatenate([chunk.copy() for chunk in ahead(vectors, 700)]), x[part]
        )
    assert str(vectors) == str(tmp_path / "x.npy")


def test_tensors_of_torch_are_read_as_bytes_where_it_is_clear_which(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    saved = {
        "one": x,
        "part": {"a": x[2:], "b": torch.zeros(1)},
        "turned": x.T,
        "alike": {"a": x, "b": x + 1},
    }
    for name, tensors in saved.items():
        torch.save(tensors, tmp_path / "x.pt")
        values = list(tensors.values()) if isinstance(tensors, dict) else [tensors]
        names = (
            [f"{tmp_path / 'x.pt'}::{key}" for key in tensors]
            if isinstance(tensors, dict)
            else [str(tmp_path / "x.pt")]
        )
        vectors = open_vectors(names[0])
        assert isinstance(vectors, FlatVectors) == (name in {"one", "part"})
        np.testing.assert_array_equal(np.concatenate(list(vectors.chunks(4))), values[0].numpy())


def test_what_is_a_source(tmp_path: Path) -> None:
    vectors = open_vectors(write(tmp_path, "x.npy", npy, "float32"))
    assert all(map(is_source, ("x.npy", tmp_path, vectors, vectors.array())))
    assert not any(map(is_source, (WHOLE, mx.zeros(3), [[1.0]], None, b"x.npy")))
    assert open_vectors(vectors) is vectors


def test_named_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {
        name: {"dtype": "U8", "shape": [2, 3], "data_offsets": [6 * i, 6 * i + 6]}
        for i, name in enumerate(["a", "b::c"])
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(12)))
    np.testing.assert_array_equal(open_vectors(f"{path}::a").array(), np.arange(6).reshape(2, 3))
    assert str(open_vectors(f"{path}::a")) == f"{path}::a"
    with pytest.raises(
        VectorFileError, match=r"several arrays: append ::NAME to its path, one of a, b::c"
    ):
        open_vectors(path)
    with pytest.raises(VectorFileError, match=r"x.safetensors': it has no array 'd', only a, b::c"):
        open_vectors(f"{path}::d")
    path.rename(tmp_path / "odd::x.safetensors")
    assert set(contents(tmp_path / "odd::x.safetensors")) == {"a", "b::c"}


def test_ahead_reads_one_chunk_more_and_passes_errors_on() -> None:
    made: list[int] = []

    class Reader(Cursor):
        def read(self, lo: int, hi: int) -> np.ndarray:
            if lo == 5:
                raise VectorFileError("broken")
            made.append(lo)
            return np.array([lo])

    class Broken(Vectors):
        def cursor(self, buffers: int = 1) -> Cursor:
            return Reader()

    taken = []
    with pytest.raises(VectorFileError, match="broken"):  # noqa: PT012
        for chunk in ahead(Broken("x", "", (9, 1), "float32"), 1):
            taken.append(int(chunk[0]))
            assert len(made) <= taken[-1] + 2
    assert taken == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["x.npy", "x.fvecs", "x.bvecs"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_chunks_read_ahead_into_recycled_memory(tmp_path: Path, name: str, order: Any) -> None:
    x = (
        np.random.default_rng(0)
        .integers(0, 99, (50, 5))
        .astype("uint8" if name == "x.bvecs" else "float32")
    )
    {"x.npy": npy, "x.fvecs": vecs, "x.bvecs": vecs}[name](
        tmp_path / name, np.asarray(x, order=order)
    )
    for rows in (1, 7, 25, 49, 50, 90):
        read = [chunk.copy() for chunk in ahead(open_vectors(tmp_path / name), rows)]
        np.testing.assert_array_equal(np.concatenate(read), x)


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is mapped can't be truncated")
def test_a_map_of_a_file_that_became_smaller_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    rows = np.random.default_rng(0).standard_normal((50_000, 16)).astype(np.float32)

    def fresh() -> np.memmap:
        np.save(path, rows)
        return np.load(path, mmap_mode="r")

    def truncate(i: Iteration) -> None:
        if i.n_iter == 2:
            os.truncate(path, 4096)

    match = rf"cannot read '.*x\.npy': it has become smaller while it was mapped, \d+ bytes of {128 + rows.nbytes};"
    x = fresh()
    with pytest.raises(VectorFileError, match=match):
        fk.FlashKMeans(k=8, niter=20).fit(x, callback=truncate)
    x = fresh()
    chunks = iter(open_vectors(x).chunks(20_000))
    next(chunks)
    os.truncate(path, 4096)
    with pytest.raises(VectorFileError, match=match):
        next(chunks)
    x = fresh()[7:, ::2]
    os.truncate(path, rows.nbytes)
    calls = [
        lambda: fk.batch_kmeans_Euclid(x, 3),
        lambda: fk.assign(x[None], rows[:2, ::2]),
        lambda: fk.knn(x, x, 2),
        lambda: fk.knn(rows[:3, ::2], x, 2),
        lambda: fk.KNN(x).query(rows[:3, ::2]),
    ]
    for call in calls:
        with pytest.raises(VectorFileError, match=match):
            call()
    x = fresh()
    path.unlink()  # what is mapped stays
    assert fk.assign(x, rows[:2]).shape == (50_000,)


def test_which_arrow_columns_are_read_without_pyarrow(tmp_path: Path) -> None:
    """Those whose values are in the file as they are; the others are read, or refused, as before."""
    pa = pytest.importorskip("pyarrow")
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    lists = pa.FixedSizeListArray.from_arrays
    columns = {
        "plain": lists(pa.array(x.ravel()), 3),
        "bools": lists(pa.array(x.ravel() % 2 > 0), 3),
        "words": lists(pa.array(list("abcdefghij") * 6), 3),
        "missing": pa.array([[1.0, 2.0, 3.0]] * 19 + [None], pa.list_(pa.float32(), 3)),
        "holes": lists(pa.array([None, *x.ravel()[1:]], pa.float32()), 3),
    }
    table = pa.table(columns)
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.slice(0, 3))
        writer.write_batch(pa.RecordBatch.from_pylist([], schema=table.schema))
        writer.write_table(table.slice(3), max_chunksize=7)
    found = {name: open_vectors(f"{path}::{name}") for name in columns if name != "words"}
    assert isinstance(contents(path)["words"], str)
    assert [name for name, v in found.items() if isinstance(v, FlatVectors)] == ["plain"]
    for rows in (1, 5, 20):
        np.testing.assert_array_equal(np.concatenate(list(found["plain"].chunks(rows))), x)
        np.testing.assert_array_equal(np.concatenate(list(found["bools"].chunks(rows))), x % 2)
    np.testing.assert_array_equal(found["plain"].array(), x)
    for name in ("missing", "holes"):
        with pytest.raises(VectorFileError, match=f"column '{name}' has missing values"):
            found[name].array()
