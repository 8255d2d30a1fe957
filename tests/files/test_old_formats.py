"""Files of versions 1 and 2 of our formats, in old_formats.zip with what they hold, are read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from old_formats import unpack

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import EmbeddingStore, load_index

INDEXES = {
    "flat": "IndexFlat",
    "ivf": "IndexIVFFlat",
    "pq": "IndexPQ",
    "ivfpq": "IndexIVFPQ",
    "opq": "IndexPreTransform",
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    unpack(tmp_path)
    return tmp_path


def expected(old: Path, name: str) -> np.ndarray:
    with np.load(old / "expected.npz") as arrays:
        return arrays[name]


def assert_same(old: Path, name: str, distances: Any, ids: Any) -> None:
    np.testing.assert_array_equal(ids, expected(old, f"{name}.ids"))
    np.testing.assert_allclose(distances, expected(old, f"{name}.distances"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["model", "batch"])
def test_models(name: str, old: Path) -> None:
    path = old / f"{name}.safetensors"
    for _ in range(2):
        model = fk.FlashKMeans.load(path)
        np.testing.assert_array_equal(model.centroids, expected(old, f"{name}.centroids"))
        np.testing.assert_array_equal(
            np.atleast_1d(model.inertia_), expected(old, f"{name}.inertia")
        )
        model.save(path)
    assert b'"format_version":"3"' in path.read_bytes()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", INDEXES)
def test_indexes(name: str, version: int, old: Path) -> None:
    old = old / "2" if version == 2 else old
    path = old / f"{name}.safetensors"
    assert f'"format_version":"{version}"'.encode() in path.read_bytes()
    with pytest.raises(
        ValueError,
        match=rf"its format_version={version} cannot be mapped: load it without mmap=True and save",
    ):
        load_index(path, mmap=True)
    for _ in range(2):
        index = load_index(path)
        assert type(index).__name__ == INDEXES[name]
        assert_same(old, name, *index.search(expected(old, "queries"), 4))
        index.save(path)
    assert b'"format_version":"3"' in path.read_bytes()


def test_an_index_before_training(old: Path) -> None:
    index = load_index(old / "untrained.safetensors")
    assert not index.is_trained and index.d == 8


def test_sums_of_an_old_index(old: Path) -> None:
    path = old / "ivf.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-9] + b"x" + content[-8:], content.replace(b"crc32", b"crc33")):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"the sum of array '\w+' is wrong|it holds no index .'crc32'"
        ):
            load_index(path)


@pytest.mark.parametrize("name", ["store", "pqstore"])
def test_stores(name: str, old: Path) -> None:
    folder = old / name
    mine = [
        f"index-{32 * 'a'}.safetensors",
        "index-mine.safetensors",
        f"metadata-{32 * 'b'}.json",
        "metadata-mine.json",
    ]
    for file in mine:
        (folder / file).write_bytes(b"mine")
    for _ in range(2):
        one = EmbeddingStore.load(folder)
        hits = one.search(expected(old, "queries"), 4)
        assert_same(old, name, hits.distances, hits.ids)
        notes = {key: {"row": key, "naïve": [None, 1.5, "é"]} for key in range(40) if key != 3}
        assert one._current.read().metadata == (notes if name == "store" else {})
        assert (one._grows, one.seed, one.max_memory_gb) == (
            (True, 3, 1) if name == "store" else (False, 0, 0)
        )
        one.save(folder)
        assert {file.name for file in folder.iterdir()} == {
            *mine,
            "store.safetensors",
            "store.lock",
        }
    assert EmbeddingStore.load(folder).add(expected(old, "x")[:1]).tolist() == [120]


def test_a_store_of_version_2(old: Path) -> None:
    """With lists, names, and changes in its second file."""
    folder = old / "2" / "store"
    for _ in range(2):
        one = EmbeddingStore.load(folder)
        hits = one.search(expected(old / "2", "queries"), 4)
        np.testing.assert_array_equal(hits.distances, expected(old / "2", "store.distances"))
        found = [[str(own["row"]) for own in row] for row in hits.metadata]
        assert found == expected(old / "2", "store.rows").astype(str).tolist()
        assert len(one) == 98 and "page 3" not in one
        one.compact()
        one.save(folder)
    assert b'"format_version":"3"' in (folder / "store.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "its format is 'x', not 'flash-kmeans-mlx store'"),
        ({"format_version": 2}, "its format_version=2 must be <= 1; upgrade flash-kmeans-mlx"),
        ({"format_version": "1"}, "format_version='1' must be an integer"),
        ({"crc32": 1}, "the sum of metadata-.* is wrong; copy the store again"),
        ({"grows": 1}, "grows=1 must be True or False"),
        ({"seed": -1}, "seed=-1 must be >= 0"),
        ({"index": 3}, "expected str"),
    ],
)
def test_a_damaged_store_is_refused(change: dict[str, Any], message: str, old: Path) -> None:
    head = old / "store" / "store.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | change))
    with pytest.raises(ValueError, match=rf"cannot load '.*': .*{message}"):
        EmbeddingStore.load(old / "store")


def test_a_truncated_store_is_refused(old: Path) -> None:
    head = old / "store" / "store.json"
    text = head.read_bytes()
    for length in range(0, len(text), 20):
        head.write_bytes(text[:length])
        with pytest.raises(ValueError, match=r"cannot load "):
            EmbeddingStore.load(old / "store")
    head.write_bytes(text)
    [index] = (old / "store").glob("index-*")
    index.unlink()
    with pytest.raises(FileNotFoundError, match=index.name):
        EmbeddingStore.load(old / "store")


def test_the_version_that_saved_last_counts(old: Path) -> None:
    one = EmbeddingStore()
    one.add(np.eye(3))
    one.save(old / "new")
    (old / "new" / "store.json").write_text("{}")  # another program's
    shutil.copytree(old / "store", old / "both")
    shutil.copy(old / "new" / "store.safetensors", old / "both")
    head, file = old / "both" / "store.json", old / "both" / "store.safetensors"
    for folder, seconds, n in (("new", 0, 3), ("both", -1, 3), ("both", 1, 58)):
        os.utime(head, ns=(0, file.stat().st_mtime_ns + seconds * 10**9))
        assert len(EmbeddingStore.load(old / folder)) == n
    one.save(old / "both")
    one.save(old / "new")
    assert len(EmbeddingStore.load(old / "both")) == 3 and not head.exists()
    assert (old / "new" / "store.json").read_text() == "{}"
