"""Indexes of vectors in files: the same as of the same vectors in memory, all or nothing, and a few MB of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory import peak
from small_indexes import MAKE, D, X

from flash_kmeans_mlx.index import Index, IndexFlat, IndexIVFFlat, OPQMatrix, ProductQuantizer
from flash_kmeans_mlx.index import sources as pieces


class Chunks:
    """Chunks of an array, anew in every pass."""

    def __init__(self, x: np.ndarray, rows: int = 70) -> None:
        self.x, self.rows = x, rows

    def __iter__(self) -> Iterator[np.ndarray]:
        for lo in range(0, len(self.x), self.rows):
            yield self.x[lo : lo + self.rows]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with X in x.npy and in the folder parts; rows are added 37 at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 37 * 4 * D)
    np.save("x.npy", X)
    Path("parts").mkdir()
    for i, part in enumerate(np.split(X, [100, 333])):
        np.save(f"parts/{i}.npy", part)
    return tmp_path


def sources() -> dict[str, Any]:
    return {
        "path": "x.npy",
        "folder": Path("parts"),
        "map": np.load("x.npy", mmap_mode="r"),
        "iterable": Chunks(X),
        "float64": Chunks(X.astype(np.float64)),
    }


def check_same(found: Index, wanted: Index) -> None:
    parameters, arrays = found.state()
    assert parameters == wanted.state()[0]
    for name, array in wanted.state()[1].items():
        if name.startswith("index.") or name == "matrix":
            np.testing.assert_allclose(arrays[name], array, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(arrays[name], array, err_msg=name)


@pytest.mark.filterwarnings("ignore:.* training vectors")
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
@pytest.mark.parametrize("kind", MAKE)
def test_files_give_what_arrays_give(kind: str, metric: str, folder: Path) -> None:
    wanted = MAKE[kind](metric)
    wanted.train(X)
    trained = wanted.state()[1]
    wanted.add(X)
    for source in sources().values():
        index = MAKE[kind](metric)
        index.train(source)
        for name, array in index.state()[1].items():
            np.testing.assert_allclose(array, trained[name], rtol=1e-4, atol=1e-4)
        index.add(source)
        assert index.ntotal == len(X)
        if kind in ("flat", "ivf", "pq", "ivfpq"):
            check_same(index, wanted)
        distances, ids = index.search(X[:50], 7)
        expected = wanted.search(X[:50], 7)
        np.testing.assert_allclose(distances, expected[0], rtol=1e-3, atol=1e-3)
        assert (ids == expected[1]).mean() > 0.95


@pytest.mark.parametrize("ids", ["ascending", "shuffled"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_ids(kind: str, ids: str, folder: Path) -> None:
    given = 5 + 3 * np.arange(len(X))
    if ids == "shuffled":
        given = np.random.default_rng(0).permutation(given)
    found, wanted = MAKE[kind]("euclidean"), MAKE[kind]("euclidean")
    for index, x in ((found, "parts"), (wanted, X)):
        index.train(X)
        index.add(x, given)
        index.add(x)
    check_same(found, wanted)
    with pytest.raises(ValueError, match=r"ids must have shape \(N,\)=\(400,\)"):
        found.add("x.npy", given[:9])
    with pytest.raises(ValueError, match="ids must be new, got 5"):
        found.add("x.npy", np.sort(given))


def test_samples(folder: Path) -> None:
    """Training reads the rows that it would draw from an array."""
    for make in (
        lambda: IndexIVFFlat(D, 5, max_points_per_centroid=40),
        lambda: ProductQuantizer(D, 4, 2, max_points_per_centroid=50),
        lambda: OPQMatrix(D, 4, 2, niter=2, max_points_per_centroid=50),
    ):
        learned = []
        for x in (X, "parts"):
            trained: Any = make()
            trained.train(x)
            name = {"IndexIVFFlat": "centroids", "OPQMatrix": "matrix"}.get(
                type(trained).__name__, "codebooks"
            )
            learned.append(getattr(trained, name))
        np.testing.assert_array_equal(*learned, strict=True)


@pytest.mark.filterwarnings("ignore:.* training vectors")
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("wrong", ["not finite", "truncated", "interrupted"])
def test_all_or_nothing(kind: str, wrong: str, folder: Path) -> None:
    """After an error in a late piece, the index is as it was, and what is added then is right."""
    index, other = MAKE[kind]("euclidean"), MAKE[kind]("euclidean")
    for one in (index, other):
        one.train(X)
        one.add(X[:50])
    before = index.state()

    class Failing(Chunks):
        passes = 0

        def __iter__(self) -> Iterator[np.ndarray]:
            self.passes += 1
            for i, chunk in enumerate(super().__iter__()):
                if self.passes > 1 and i == 4:
                    if wrong == "interrupted":
                        raise KeyboardInterrupt
                    return
                yield chunk

    x = X.copy()
    if wrong == "not finite":
        x[321, 3] = np.nan
        np.save("x.npy", x)
        source: Any = ["parts/0.npy", "x.npy"]
        error: Any = pytest.raises(ValueError, match=r"NaN or Inf in '.*x\.npy', row 321 ")
    else:
        source = Failing(x)
        error = pytest.raises(
            KeyboardInterrupt if wrong == "interrupted" else ValueError,
            match=None if wrong == "interrupted" else "it ended after 4 chunks",
        )
    with error:
        index.add(source)
    after = index.state()
    assert index.ntotal == 50 and after[0] == before[0]
    for name, array in before[1].items():
        np.testing.assert_array_equal(after[1][name], array)
    for one in (index, other):
        one.add("parts")
        one.remove_ids(np.arange(30, 90))
    for name, array in other.state()[1].items():
        np.testing.assert_array_equal(index.state()[1][name], array)


def test_what_is_wrong(folder: Path) -> None:
    index = IndexFlat(D + 1)
    for verb in (index.add, index.train):
        with pytest.raises(
            ValueError, match=r"x must have shape \(N, D\)=\(N, 9\), got \(400, 8\)"
        ):
            verb("x.npy")
        with pytest.raises(FileNotFoundError):
            verb("none.npy")
        with pytest.raises(TypeError, match="yields its rows only once"):
            verb(iter(Chunks(X)))
    with pytest.raises(ValueError, match="training vectors for 5000 centroids"):
        IndexIVFFlat(D, 5000).train("x.npy")


@pytest.mark.parametrize("as_map", [False, True])
def test_memory(tmp_path: Path, as_map: bool) -> None:
    """64 MB of rows: the flat index takes as much, and little more; training takes little more than its sample."""
    x = np.random.default_rng(0).standard_normal((250_000, 64), np.float32)
    path = tmp_path / "x.npy"
    np.save(path, x)
    size = x.nbytes
    source: Any = np.load(path, mmap_mode="r") if as_map else path

    def add() -> None:
        IndexFlat(64).add(source)

    assert peak(add) < size + 8 * len(x) * 3 + (16 << 20)

    def train() -> None:
        IndexIVFFlat(64, 16, max_points_per_centroid=64, niter=2).train(source)

    assert peak(train) < 16 << 20
