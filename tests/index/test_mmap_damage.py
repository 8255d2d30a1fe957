"""Damaged files of indexes, mapped: refused or searched, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Array
from small_indexes import MAKE, X, trained, with_gaps

from flash_kmeans_mlx.index import index_file, load_index

QUERIES = X[-9:]

# Their sums are not checked, so a change of any byte gets as far as it can.


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], pad: int = 0) -> None:
    """Change the header of a file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for kind in MAKE:
        with_gaps(kind).save(path)
        content = path.read_bytes()
        for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"cannot load '.*index': "):
                load_index(path, mmap=True)
        path.write_bytes(content + b"more")
        with pytest.raises(ValueError, match="4 bytes follow its last array"):
            load_index(path, mmap=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": lambda counts: counts[:-1]}, "counts of shape .4,. do not fit 5 lists"),
        ({"counts": lambda counts: counts + 16}, "counts of shape .5,. do not fit 5 lists"),
        ({"counts": lambda counts: -counts}, "counts of shape .5,. do not fit 5 lists"),
        ({"counts": lambda counts: counts + 2**62}, "a list of .* vectors must have <= 192"),
        ({"counts": lambda counts: counts.astype(np.float64)}, "counts of shape"),
        ({"counts": lambda counts: counts[:0]}, "zero-size array"),
        ({"ids": lambda ids: ids[1:]}, "counts of shape .5,. do not fit 5 lists of 11 blocks"),
        ({"ids": np.ravel}, "ids of shape .192,. and dtype int64 must be"),
        ({"ids": lambda ids: ids.astype(np.float64)}, "ids of shape .* and dtype float64 must be"),
        ({"payload": lambda rows: rows[1:]}, "payload of shape .11, 8, 16. .* must be .12, 8, 16."),
        ({"payload": lambda rows: rows[:, 1:]}, "payload of shape .12, 7, 16."),
        ({"payload": lambda rows: rows.view(np.uint32)}, "payload .* dtype uint32 must be"),
        ({"centroids": lambda rows: rows * np.nan}, "centroids of shape"),
        ({"payload": None}, "damaged IndexIVFFlat .'payload'"),
        ({"ids": None}, "damaged IndexIVFFlat .'ids'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    changes: dict[str, Callable[[Array], Array] | None], message: str, tmp_path: Path
) -> None:
    own, arrays = with_gaps("ivf").state()
    for name, change in changes.items():
        array = arrays.pop(name)
        if change is not None:
            arrays[name] = np.ascontiguousarray(change(array))
    index_file.write(tmp_path / "index", "IndexIVFFlat", own, arrays)
    with pytest.raises(ValueError, match=rf"cannot load '.*index': .*{message}"):
        load_index(tmp_path / "index", mmap=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": lambda ids: ids[1:]}, "rows of shape .140, 8. do not fit d=8, .139,. ids"),
        ({"ids": lambda ids: ids.astype(np.float64)}, "rows of shape"),
        ({"rows": lambda rows: rows.astype(np.float64)}, "rows of shape"),
        ({"rows": lambda rows: rows[:, 1:]}, "rows of shape .140, 7. do not fit d=8"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    changes: dict[str, Callable[[Array], Array]], message: str, tmp_path: Path
) -> None:
    own, arrays = with_gaps("flat").state()
    for name, change in changes.items():
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
    index_file.write(tmp_path / "index", "IndexFlat", own, arrays)
    with pytest.raises(ValueError, match=rf"cannot load '.*index': .*{message}"):
        load_index(tmp_path / "index", mmap=True)


def test_more_blocks_than_scans_can_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gaps("ivf").save(tmp_path / "index")
    monkeypatch.setattr("flash_kmeans_mlx.index.lists.MOST_BLOCKS", 11)
    with pytest.raises(ValueError, match="must be up to 11 blocks of 16"):
        load_index(tmp_path / "index", mmap=True)


def test_arrays_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with_gaps("ivf").save(path)
    rewritten(path, lambda header: None, pad=1)
    with pytest.raises(ValueError, match=r"array '.*' is not aligned"):
        load_index(path, mmap=True)


def test_shapes_that_overflow(tmp_path: Path) -> None:
    path = tmp_path / "index"
    trained("ivf").save(path)

    def change(header: dict[str, Any]) -> None:
        header["payload"]["shape"] = [0, 1 << 47, 1 << 47]

    rewritten(path, change)
    with pytest.raises(ValueError, match="array 'payload' cannot have the shape"):
        load_index(path, mmap=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "hnsw"])
def test_any_damage_ends_in_an_error_or_in_results(kind: str, tmp_path: Path) -> None:
    """Never in a crash."""
    path = tmp_path / "index"
    with_gaps(kind).save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(len(kind))
    refused = 0
    for trial in range(300):
        damaged = bytearray(content)
        end = header if trial % 2 else len(content)
        for at in rng.integers(end, size=rng.choice([1, 3, 200])).tolist():
            digit = trial % 4 == 1
            damaged[at] = rng.choice(list(b"0123456789")) if digit else rng.integers(256)
        path.write_bytes(damaged)
        try:
            index = load_index(path, mmap=True)
            assert index.search(QUERIES[:2], 3)[1].shape == (2, 3)
        except (ValueError, OSError):
            refused += 1
    assert 100 < refused < 300
