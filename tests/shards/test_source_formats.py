"""Sources of every format: the same rows however reads are cut, decoded once, in little memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory import peak
from vector_files import arrow, npy, parquet, pt, safetensors, vecs
from vector_sources import INTEGERS, X, check_reads

from flash_kmeans_mlx.files import open_vectors
from flash_kmeans_mlx.shards.source import Source, open_source


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
