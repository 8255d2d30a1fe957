"""Results in files: every format keeps every field, a failed write leaves what was there, damaged files are refused."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files import open_vectors
from flash_kmeans_mlx.files.results import RESULT_FORMATS, check_output, read_npz, write

ARRAYS = {
    "indices": np.arange(12).reshape(4, 3),
    "scores": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
}
FIELDS: dict[str, str | int] = {"queries_path": "näme.npy", "k": 3}


def read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        return {
            name: array if array.ndim else array.item()
            for name, array in read_npz(str(path)).items()
        }
    if path.suffix == ".safetensors":
        arrays, fields = mx.load(str(path), return_metadata=True)
        assert isinstance(arrays, dict) and isinstance(fields, dict)
        return {name: np.asarray(array) for name, array in arrays.items()} | {
            **fields,
            "k": int(fields["k"]),
        }
    torch = pytest.importorskip("torch")
    loaded = torch.load(path, weights_only=True)
    return {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in loaded.items()
    }


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_a_format_keeps_arrays_and_fields(tmp_path: Path, suffix: str) -> None:
    if suffix == ".pt":
        pytest.importorskip("torch")
    path = tmp_path / f"r{suffix}"
    for _ in range(2):  # the second one replaces the first
        write(path, ARRAYS, FIELDS)
    found = read(path)
    assert {name: found[name] for name in FIELDS} == FIELDS
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert list(tmp_path.iterdir()) == [path]


def test_labels(tmp_path: Path) -> None:
    labels = np.arange(5, dtype=np.uint32)
    write(tmp_path / "l.npy", {"labels": labels})
    np.testing.assert_array_equal(np.load(tmp_path / "l.npy"), labels)
    assert set(RESULT_FORMATS) == {".npz", ".safetensors", ".pt", ".npy"}


def test_results_are_vectors_too(tmp_path: Path) -> None:
    write(tmp_path / "r.safetensors", ARRAYS, FIELDS)
    np.testing.assert_array_equal(
        open_vectors(f"{tmp_path / 'r.safetensors'}::scores").array(), ARRAYS["scores"]
    )


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=type
)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, suffix: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"r{suffix}"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write(path, {"scores": ARRAYS["scores"]}, FIELDS)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_outputs_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        VectorFileError,
        match=r"cannot write 'r.csv': results are written to .npz, .safetensors, .pt, .npy",
    ):
        check_output("r.csv")
    with pytest.raises(FileNotFoundError, match="none"):
        check_output(tmp_path / "none" / "r.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        check_output(tmp_path / "folder.npz")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(PermissionError):
            check_output(tmp_path / "r.npz")
    check_output(tmp_path / "r.npz", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 999))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(OSError, match=r"r\.npz") as caught:
        check_output(tmp_path / "r.npz", 1000)
    assert caught.value.errno == errno.ENOSPC


def test_damaged_npz_files(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    write(path, ARRAYS, FIELDS)
    content = path.read_bytes()
    for data in (b"", content[:-9], content[:99], content.replace(b"NUMPY", b"NUMPI")):
        path.write_bytes(data)
        with pytest.raises(VectorFileError, match=r"it is no \.npz file, or damaged"):
            read_npz(str(path))
    np.savez(path, x=np.array([{}], object))
    with pytest.raises(VectorFileError, match="allow_pickle=False"):
        read_npz(str(path))
