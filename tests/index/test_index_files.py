"""Indexes in files: whole again anywhere, or refused with the reason."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import MAKE, NLIST, D, X, fingerprint, trained, with_gaps

from flash_kmeans_mlx.files import atomic, models
from flash_kmeans_mlx.index import IndexFlat, IndexIVFFlat, IndexPQ, index_file, load_index

# Every kind of index with a metric, and a few with another.
CASES = [
    *((kind, "euclidean") for kind in MAKE),
    ("flat", "l1"),
    ("ivf", "cosine"),
    ("pq", "cosine"),
    ("opq,ivfpq", "dot"),
]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_what_was_saved_is_loaded(kind: str, metric: str, tmp_path: Path) -> None:
    index, path = with_gaps(kind, metric), tmp_path / "index"
    index.save(path)
    again = load_index(path)
    assert type(again) is type(index) and type(index).load(str(path)).ntotal == index.ntotal
    assert fingerprint(again) == fingerprint(index)
    for change in (lambda i: i.add(X[200:]), lambda i: i.remove_ids(np.arange(1100))):
        for one in (index, again):
            change(one)
        np.testing.assert_array_equal(index.search(X[-20:], 5)[1], again.search(X[-20:], 5)[1])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_indexes_without_vectors(kind: str, metric: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    for index in (MAKE[kind](metric), trained(kind, metric)):
        index.save(path)
        again = load_index(path)
        assert again.is_trained == index.is_trained and again.ntotal == 0
    index.add(X[:50])
    index.remove_ids(np.arange(50))
    index.save(path)
    again = load_index(path)
    again.add(X[:1])
    assert again.search(X[:1], 1)[1] == 50, "ids are not given twice"


def test_another_class_is_refused(tmp_path: Path) -> None:
    IndexFlat(3).save(tmp_path / "index")
    with pytest.raises(
        ValueError, match=r"cannot load '.*index': it holds an IndexFlat, not an IndexIVFFlat"
    ):
        IndexIVFFlat.load(tmp_path / "index")


def test_a_crash_keeps_the_previous_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, path = with_gaps("ivf"), tmp_path / "index"
    index.save(path)
    before = path.read_bytes()
    index.add(X[200:])

    def crash(_: int) -> None:
        raise OSError("no power")

    monkeypatch.setattr(atomic.os, "fsync", crash)
    with pytest.raises(OSError, match="no power"):
        index.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_every_flipped_bit_is_noticed(kind: str, metric: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    with_gaps(kind, metric).save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    for where in rng.integers(header, len(content), 40).tolist():
        damaged = bytearray(content)
        damaged[where] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError,
            match=r"cannot load '.*index': it is damaged: its sum is wrong; copy the file again",
        ):
            load_index(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with_gaps("ivf").save(path)
    content = path.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cannot load '.*index': "):
            load_index(path)


@pytest.mark.parametrize(
    ("parameters", "arrays", "message"),
    [
        (
            {"nlist": 8},
            {},
            "damaged IndexIVFFlat .centroids of shape .5, 8. do not fit nlist=8, d=8.; save it again",
        ),
        ({"nprobe": 0}, {}, "damaged IndexIVFFlat .nprobe=0 must be >= 1."),
        ({"next_id": -1}, {}, "damaged IndexIVFFlat .next_id=-1 must be >= 0"),
        ({"width": 3}, {}, "damaged IndexIVFFlat .*unexpected keyword"),
        (
            {},
            {"counts": np.zeros(5, np.int64)},
            "damaged IndexIVFFlat .counts of shape .5,. do not fit 5 lists",
        ),
        ({}, {"ids": None}, "damaged IndexIVFFlat .'ids'"),
        ({"next_id": 1e30}, {}, "next_id=1e.30 must be an integer"),
        (
            {"next_id": 10**30},
            {},
            r"next_id=1000000000000000000000000000000 must be <= 2\*\*63 - 1",
        ),
        ({"nlist": 200_000_000}, {}, "centroids of shape .5, 8. do not fit nlist=200000000, d=8"),
        ({"d": 10**15}, {}, "centroids of shape .5, 8. do not fit nlist=5, d=1000000000000000"),
        ({"d": 1e15}, {}, "d=1000000000000000.0 must be an integer"),
        ({"d": -64}, {}, "d=-64 must be >= 1"),
        ({"backend": "abacus"}, {}, "backend='abacus'"),
        ({}, {"ids": lambda ids: ids - 5}, "ids must be distinct and >= 0"),
        ({}, {"ids": lambda ids: ids // 2}, "ids must be distinct and >= 0"),
        ({}, {"ids": np.ravel}, "ids of shape .192,. and dtype int64 must be up to"),
        ({}, {"payload": lambda rows: rows + np.inf}, "rows are not finite"),
        ({}, {"payload": lambda rows: rows[1:]}, "payload of shape .11, 8, 16. and dtype float32"),
        (
            {},
            {"ids": lambda ids: ids + (2**63 - 1 - ids.max())},
            "ids must be < 2..63 - 1, got 9223372036854775807",
        ),
        (
            {},
            {"counts": np.array([2**62] * 4 + [140])},
            "a list of 4611686018427387904 vectors must have <= 192",
        ),
        (
            {},
            {"centroids": np.full((NLIST, D), np.nan, np.float32)},
            "damaged IndexIVFFlat .centroids",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    parameters: dict[str, Any], arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    index = with_gaps("ivf")
    own, held = index.state()
    changed: dict[str, Any] = {
        key: new(held[key]) if callable(new) else new for key, new in arrays.items()
    }
    kept: dict[str, Any] = {
        key: array for key, array in (held | changed).items() if array is not None
    }
    index_file.write(tmp_path / "index", "IndexIVFFlat", own | parameters, kept)
    with pytest.raises(ValueError, match=message):
        load_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"class": "FlashKMeans"}, "it holds no index"),
        ({"class": "IndexFlat", "parameters": "{", "crc32": "{}"}, "it holds no index"),
        (
            {"class": "IndexFlat", "parameters": "[]", "crc32": "{}"},
            "it holds no index .no JSON object",
        ),
        ({"class": "IndexFlat", "parameters": '{"a":' * 100_000}, "it holds no index"),
        (
            {"class": "Path", "parameters": "{}", "crc32": "{}"},
            "no class of indexes is called 'Path'",
        ),
    ],
)
def test_other_files_are_refused(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    models.write(path, {}, metadata)
    with pytest.raises(ValueError, match=f"cannot load '.*index': .*{message}"):
        load_index(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with_gaps("flat").save(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["format_version"] = "4"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(
        ValueError, match="its format_version=4 must be <= 3; upgrade flash-kmeans-mlx"
    ):
        load_index(path)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("IndexIVFFlat", {"nlist": 200_000_000}, r"nlist=200000000 must be <= 2\*\*22=4194304"),
        ("IndexIVFFlat", {"d": 10**15}, r"d=1000000000000000 must be <= 2\*\*22"),
        ("IndexPQ", {"d": 10**15}, r"d=1000000000000000 must be <= 2\*\*22"),
        ("IndexPQ", {"d": 10**30}, r"must be <= 2\*\*22"),
        ("IndexFlat", {"d": 10**30}, r"d=.* must be <= 2\*\*22"),
        ("IndexIVFFlat", {"next_id": -1}, "next_id=-1 must be >= 0"),
    ],
)
def test_sizes_of_an_index_without_arrays(
    name: str, parameters: dict[str, Any], message: str, tmp_path: Path
) -> None:
    own: dict[str, Any] = {
        "IndexIVFFlat": IndexIVFFlat(8, 4).state()[0],
        "IndexPQ": IndexPQ(8, 4).state()[0],
        "IndexFlat": IndexFlat(8).state()[0],
    }[name]
    index_file.write(tmp_path / "index", name, own | parameters, {})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            load_index(tmp_path / "index")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["IndexFlat", "IndexPQ"])
def test_dimensions_that_the_arrays_do_not_have(name: str, tmp_path: Path) -> None:
    index = trained("flat" if name == "IndexFlat" else "pq")
    index.add(X[:100])
    own, arrays = index.state()
    for d in (65, 10**15, 10**30):
        index_file.write(tmp_path / "index", name, own | {"d": d}, arrays)
        with pytest.raises(ValueError, match=rf"(rows|codebooks) of shape .* do not fit d={d}"):
            load_index(tmp_path / "index")
    index_file.write(tmp_path / "index", name, own | {"next_id": 2**63 - 1}, arrays)
    assert load_index(tmp_path / "index").ntotal == 100
