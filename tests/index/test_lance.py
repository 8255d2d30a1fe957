"""Vector indexes of Lance, trained by us: as good as those it trains, and every refusal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_neighbours import truth
from helpers import Array, low_rank
from test_docs import ROOT, blocks

from flash_kmeans_mlx.index import ProductQuantizer, lance_centroids, train_lance
from flash_kmeans_mlx.kmeans.assign import assign
from flash_kmeans_mlx.metrics import unit_rows

# It warns of every search that does not name its distances, before the log can be changed.
os.environ.setdefault("LANCE_LOG", "error")
lance = pytest.importorskip("lance", reason="pip install -e '.[lance]'")
pa = pytest.importorskip("pyarrow")

D = 16
X = low_rank(4060, D, 6, noise=0.1)
QUERIES, X = X[:60], X[60:]
NAMES = {"l2": "euclidean", "cosine": "cosine", "dot": "dot"}
pytestmark = pytest.mark.filterwarnings("ignore:.* training vectors for .*:UserWarning")


def vectors(x: Array) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def table(**columns: Any) -> Any:
    return pa.table({"v": vectors(X), "i": np.arange(len(X))} | columns)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Any]:
    return lambda table, **options: lance.write_dataset(table, tmp_path / "x.lance", **options)


@pytest.fixture
def dataset(write: Callable[..., Any]) -> Any:
    return write(table())


def recall(dataset: Any, metric: str, nprobes: int, k: int = 50) -> float:
    distances = truth(QUERIES.astype(np.float64), X.astype(np.float64), NAMES[metric])
    hits = 0
    for query, row in zip(QUERIES, np.argsort(distances, axis=1, kind="stable"), strict=True):
        nearest = {"column": "v", "q": query, "k": k, "nprobes": nprobes}
        found = dataset.to_table(nearest=nearest, columns=["i", "_distance"])["i"].to_pylist()
        hits += len(set(found) & set(row[:k].tolist()))
    return hits / (k * len(QUERIES))


def about(dataset: Any) -> dict[str, Any]:
    return dataset.stats.index_stats("v_idx")["indices"][0]


@pytest.mark.parametrize("num_sub_vectors", [4, None], ids=["IVF_PQ", "IVF_FLAT"])
@pytest.mark.parametrize("metric", list(NAMES))
def test_recall_is_that_of_lances_own_training(
    dataset: Any, metric: str, num_sub_vectors: int | None
) -> None:
    kind = "IVF_FLAT" if num_sub_vectors is None else "IVF_PQ"
    dataset.create_index(
        "v", kind, metric=metric, num_partitions=8, num_sub_vectors=num_sub_vectors
    )
    theirs = recall(dataset, metric, 3)
    ours = train_lance(dataset, "v", 8, num_sub_vectors, metric, replace=True)
    stats = about(ours)
    assert stats["index_type"] == kind and stats["metric_type"] == metric
    sizes = [part["size"] for part in stats["partitions"]]
    assert sum(sizes) == len(X) and max(sizes) < 3 * len(X) / 8
    assert recall(ours, metric, 3) > theirs - 0.03
    if num_sub_vectors is None:
        assert recall(ours, metric, 8) == 1


def test_lance_encodes_residuals_but_for_dot(dataset: Any) -> None:
    """With codebooks of zeros, distances are those to centroids; codebooks are fitted to that."""
    query = unit_rows(QUERIES[0]).astype(np.float32)
    centroid = X[:1]
    expected = {
        "l2": np.square(query - centroid).sum(),
        "cosine": np.square(query - centroid).sum(),
        "dot": 1.0,
    }
    for metric, distance in expected.items():
        zeros = np.zeros((4, 256, 4), np.float32)
        dataset.create_index(
            "v",
            "IVF_PQ",
            metric=metric,
            num_partitions=1,
            num_sub_vectors=4,
            ivf_centroids=centroid,
            pq_codebook=zeros,
            replace=True,
        )
        found = dataset.to_table(nearest={"column": "v", "q": query, "k": 3})["_distance"]
        np.testing.assert_allclose(found.to_numpy(), distance, rtol=1e-4)


@pytest.mark.parametrize("metric", list(NAMES))
def test_codebooks_are_fitted_to_what_lance_encodes(write: Callable[..., Any], metric: str) -> None:
    x = X + np.float32(4)
    dataset = write(pa.table({"v": vectors(x)}))
    centroids, codebooks = lance_centroids(dataset, "v", 8, 4, metric, max_iters=8)
    assert codebooks is not None
    encoded = unit_rows(x).astype(np.float32) if metric == "cosine" else x
    if metric == "dot":
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    else:
        encoded = encoded - centroids[assign(encoded, centroids)]

    def error(codebooks: Array | None) -> float:
        quantizer = ProductQuantizer(D, 4)
        if codebooks is None:
            quantizer.learn(encoded, max_iters=8)
        else:
            quantizer.codebooks = codebooks
        return np.square(quantizer.decode(quantizer.encode(encoded)) - encoded).sum()

    assert error(codebooks) < 1.05 * error(None)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_training_only(write: Callable[..., Any], bits: int) -> None:
    dtype = np.dtype(f"f{bits // 8}")
    dataset = write(pa.table({"v": vectors(X.astype(dtype)), "i": np.arange(len(X))}))
    centroids, codebooks = lance_centroids(dataset, "v", 5, 8, seed=3, max_iters=4)
    assert codebooks is not None and not dataset.has_index
    assert centroids.shape == (5, D) and codebooks.shape == (8, 256, D // 8)
    assert centroids.dtype == codebooks.dtype == dtype
    again = lance_centroids(dataset, "v", 5, 8, seed=3, max_iters=4)
    np.testing.assert_array_equal(centroids, again[0])
    np.testing.assert_array_equal(codebooks, again[1])
    assert (lance_centroids(dataset, "v", 5, seed=4, max_iters=4)[0] != centroids).any()
    train_lance(dataset, "v", 5, 8, "L2", name="mine", seed=3, max_iters=4)
    stats = dataset.stats.index_stats("mine")["indices"][0]
    np.testing.assert_allclose(stats["centroids"], centroids, rtol=1e-6)
    nearest = {"column": "v", "q": X[7].astype(dtype), "k": 1, "refine_factor": 20}
    assert dataset.to_table(nearest=nearest)["i"].to_pylist() == [7]


def test_only_the_sample_is_read(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[list[int], list[str]]] = []
    take = lance.LanceDataset.take

    def spied(self: Any, indices: list[int], columns: list[str]) -> Any:
        taken.append((indices, columns))
        return take(self, indices, columns)

    monkeypatch.setattr(lance.LanceDataset, "take", spied)
    monkeypatch.delattr(lance.LanceDataset, "to_table")
    for seed in (0, 0, 1):
        lance_centroids(dataset, "v", 9, 4, seed=seed, max_points_per_centroid=3, max_iters=1)
    (first, columns), (second, _), (other, _) = taken
    assert len(first) == len(set(first)) == 3 * 256 and first == sorted(first)
    assert columns == ["v"] and first == second != other


def test_deleted_rows_are_no_training_vectors(write: Callable[..., Any]) -> None:
    x = np.concatenate([X, np.full((300, D), 1e6, np.float32)])
    x = x[np.random.default_rng(0).permutation(len(x))]
    dataset = write(pa.table({"v": vectors(x), "far": x[:, 0] > 1e5}), max_rows_per_file=900)
    dataset.delete("far")
    centroids, _ = lance_centroids(dataset, "v", 4, max_points_per_centroid=500)
    assert np.abs(centroids).max() < 100


def nulls(rows: bool) -> Any:
    if not rows:
        values = pa.array([*X.ravel().tolist()[:-1], None], pa.float32())
        return pa.FixedSizeListArray.from_arrays(values, D)
    return pa.array([*X[:-1].tolist(), None], pa.list_(pa.float32(), D))


def odd(value: float) -> Any:
    x = X.astype(np.float64)
    x[77, 3] = value
    return vectors(x)


COLUMNS = {
    "a null row": (nulls(rows=True), "column='bad' must have no nulls, got one in row 3999"),
    "a null value": (nulls(rows=False), "column='bad' must have no nulls, got one in row 3999"),
    "nan": (odd(np.nan), "column must be finite, got NaN or Inf in row 77 of 'bad'"),
    "inf": (odd(np.inf), "column must be finite, got NaN or Inf in row 77 of 'bad'"),
    "large": (odd(1e300), "column must fit in float32, got a magnitude of 1e[+]300 in row 77"),
    "integers": (
        vectors(X.astype(np.int32)),
        "column='bad' must hold fixed-size lists of floats, got fixed_size_list<item: int32",
    ),
    "numbers": (X[:, 0], "column='bad' must hold fixed-size lists of floats, got float"),
    "lists": (
        pa.array(X.tolist()),
        "column='bad' must hold fixed-size lists of floats, got list<",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_are_refused(write: Callable[..., Any], case: str) -> None:
    bad, message = COLUMNS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        train_lance(write(table(bad=bad)), "bad", 4, 4)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "dataset": ({"dataset": "x.lance"}, "dataset must be a lance.LanceDataset, got str"),
    "column": ({"column": "w"}, "column='w' must be one of 'v', 'i'"),
    "metric": ({"metric": "hamming"}, "metric='hamming' must be one of 'l2', 'euclidean',"),
    "no metric": ({"metric": None}, "metric=None must be one of 'l2', 'euclidean',"),
    "no lists": ({"num_partitions": 0}, "num_partitions=0 must be >= 1"),
    "many lists": (
        {"num_partitions": 4001},
        "num_partitions=4001 must be <= rows of the dataset=4000",
    ),
    "half a list": ({"num_partitions": 2.5}, "num_partitions=2.5 must be an integer"),
    "no parts": ({"num_sub_vectors": 0}, "num_sub_vectors=0 must be >= 1"),
    "odd parts": (
        {"num_sub_vectors": 3},
        "num_sub_vectors=3 must divide the 16 dimensions of column='v'",
    ),
    "many parts": ({"num_sub_vectors": 32}, "num_sub_vectors=32 must be <= dimensions=16"),
    "seed": ({"seed": -1}, "seed=-1 must be >= 0"),
    "sample": ({"max_points_per_centroid": 0}, "max_points_per_centroid=0 must be >= 1"),
    "replace": ({"replace": 1}, "replace=1 must be True or False"),
    "max_iters": ({"max_iters": -1}, "max_iters=-1 must be >= 0"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(dataset: Any, case: str) -> None:
    given, message = ARGUMENTS[case]
    right: dict[str, Any] = {
        "dataset": dataset,
        "column": "v",
        "num_partitions": 4,
        "num_sub_vectors": 4,
    }
    with pytest.raises((TypeError, ValueError), match=message):
        train_lance(**(right | given))
    assert not dataset.has_index


def test_few_rows(write: Callable[..., Any]) -> None:
    dataset = write(table().slice(0, 255))
    with pytest.raises(ValueError, match=r"dataset must have N >= 256 rows .*, got N=255"):
        train_lance(dataset, "v", 4, 4)
    assert lance_centroids(dataset, "v", 4)[1] is None
    with pytest.warns(UserWarning, match="255 training vectors for 8 centroids: 312 or more"):
        lance_centroids(dataset, "v", 8)


def test_lance_is_needed(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ImportError, match="lance is not installed: pip install pylance"):
        train_lance(dataset, "v", 4)


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_docs.py leaves out what needs Lance."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "flash_kmeans_mlx" / "index" / "README.md"
    found = [block for block in blocks(page.read_text()) if "lance" in (block.reason or "")]
    names: dict[str, Any] = {}
    for block in found:
        exec(compile(block.code, str(page), "exec"), names)
    assert found and len(names["hits"]) == 10
    first = (tmp_path / "centroids.csv").read_text().splitlines()[0]
    assert first.startswith('0,,"[')
