"""Rotations for product quantization, indexes of rotated vectors, and indexes by their descriptions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import Array, digits, low_rank, unit

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import (
    IndexFlat,
    IndexIVFFlat,
    IndexIVFPQ,
    IndexPQ,
    IndexPreTransform,
    OPQMatrix,
    ProductQuantizer,
    index_factory,
    load_index,
)

X = digits()


def error(x: Array, m: int) -> float:
    quantizer = ProductQuantizer(x.shape[1], m, 4)
    quantizer.train(x)
    return float(np.square(quantizer.decode(quantizer.encode(x)) - x.astype(np.float64)).sum())


def test_a_rotation_lowers_the_error() -> None:
    x = low_rank(3000, 32, 8)
    rotation = OPQMatrix(32, 8, 4, niter=10)
    rotation.train(x)
    assert rotation.matrix is not None and rotation.matrix.dtype == np.float32
    np.testing.assert_allclose(rotation.matrix @ rotation.matrix.T, np.eye(32), atol=1e-5)
    turned = rotation.apply(x)
    np.testing.assert_allclose(turned, x @ rotation.matrix.T, atol=1e-4)
    np.testing.assert_allclose(rotation.reverse_transform(turned), x, atol=1e-3)
    assert error(turned, 8) < 0.7 * error(x, 8)
    assert isinstance(rotation.apply(mx.array(x)), mx.array)


def test_the_same_seed_gives_the_same_rotation() -> None:
    first, again, other = (OPQMatrix(64, 8, 4, niter=2, seed=seed) for seed in (0, 0, 1))
    first.train(X)
    again.train(mx.array(X))
    other.train(X)
    np.testing.assert_array_equal(again.matrix, first.matrix)  # pyright: ignore[reportArgumentType]
    assert (other.matrix != first.matrix).any()


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_an_index_of_rotated_vectors(metric: str, tmp_path: Any) -> None:
    index = IndexPreTransform(OPQMatrix(64, 8, 3, niter=3), IndexIVFPQ(64, 6, 8, 3, metric))
    assert not index.is_trained
    index.train(X)
    ids = np.arange(1797)[::-1] + 5
    index.add(X, ids)
    assert index.is_trained and index.ntotal == 1797
    rows = index.reconstruct_batch(ids)
    target = unit(X.astype(np.float64)) if metric == "cosine" else X
    assert np.square(rows - target).sum() < 0.6 * np.square(target - target.mean(0)).sum()
    flat = IndexFlat(64, metric)
    flat.add(rows, ids)
    found, expected = index.search(X[:40], 5, nprobe=6), flat.search(X[:40], 5)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    index.nprobe = 6
    np.testing.assert_array_equal(index.search(X[:40], 5)[1], found[1])
    lims, _, inside = index.range_search(X[:2], float(found[0][0, 4]))
    assert set(inside[: lims[1]]) <= set(found[1][0])
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    np.testing.assert_array_equal(again.search(X[:40], 5)[0], index.search(X[:40], 5)[0])
    assert again.remove_ids(ids[:7]) == 7 and again.ntotal == 1790
    again.add(X[:1])
    np.testing.assert_allclose(again.reconstruct(1802), rows[0], rtol=1e-5, atol=1e-5)


def test_a_trained_rotation_is_kept() -> None:
    rotation = OPQMatrix(64, 8, 3, niter=2)
    rotation.train(X)
    before = rotation.matrix
    index = IndexPreTransform(rotation, IndexPQ(64, 8, 3))
    index.train(X)
    assert rotation.matrix is before


def test_arguments_of_rotations() -> None:
    with pytest.raises(ValueError, match="m=5 must divide d=64"):
        OPQMatrix(64, 5)
    with pytest.raises(fk.NotFittedError, match="apply needs a trained OPQMatrix"):
        OPQMatrix(64, 8).apply(X)
    with pytest.raises(ValueError, match=r"index.d=32 must be transform.d_out=64"):
        IndexPreTransform(OPQMatrix(64, 8), IndexFlat(32))
    with pytest.raises(ValueError, match="metric='l1' must be one of"):
        IndexPreTransform(OPQMatrix(64, 8), IndexFlat(64, "l1"))
    with pytest.raises(TypeError, match=r"transform must be an OPQMatrix or .*, got str"):
        IndexPreTransform("OPQ", IndexFlat(64))  # pyright: ignore[reportArgumentType]
    index = IndexPreTransform(OPQMatrix(64, 8), IndexFlat(64))
    with pytest.raises(fk.NotFittedError, match="add needs a trained index"):
        index.add(X)


def test_descriptions() -> None:
    assert type(index_factory(64, "Flat", "l1")) is IndexFlat
    index: Any = index_factory(64, "IVF256,Flat", "dot", seed=3)
    assert (type(index), index.nlist, index.metric, index.seed) == (IndexIVFFlat, 256, "dot", 3)
    index = index_factory(64, "PQ16")
    assert (type(index), index.pq.m, index.pq.nbits) == (IndexPQ, 16, 8)
    index = index_factory(64, "PQ16x4", backend="reference")
    assert (index.pq.nbits, index.backend) == (4, "reference")
    index = index_factory(64, "IVF32,PQ8x5", "cosine")
    assert (type(index), index.nlist, index.m, index.nbits, index.metric) == (
        IndexIVFPQ,
        32,
        8,
        5,
        "cosine",
    )
    index = index_factory(64, "OPQ16,IVF256,PQ16")
    assert (type(index), type(index.index), index.transform.m) == (
        IndexPreTransform,
        IndexIVFPQ,
        16,
    )
    assert type(index_factory(64, "OPQ16,Flat").index) is IndexFlat  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("description", "wrong"),
    [
        ("HNSW", "'HNSW'"),
        ("HNSW32,PQ8", "'PQ8'"),
        ("IVF256,HNSW32", "'HNSW32'"),
        ("IVF256,SQ4", "'SQ4'"),
        ("HNSW32,SQ8", "'SQ8'"),
        ("SQ8,Flat", "its end"),
        ("IVF256", "its end"),
        ("", "''"),
        ("PQ16,Flat", "its end"),
        ("Flat,PQ16", "'PQ16'"),
        ("PQ16,IVF256", "'IVF256'"),
        ("PQx4", "'PQx4'"),
        ("IVF256,PQ16nq", "'PQ16nq'"),
    ],
)
def test_descriptions_that_are_not_understood(description: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"description='{description}': {wrong} is not understood"):
        index_factory(64, description)


def test_descriptions_of_impossible_indexes() -> None:
    with pytest.raises(ValueError, match="m=7 must divide d=64"):
        index_factory(64, "PQ7")
    with pytest.raises(ValueError, match="nbits=12 must be <= 8"):
        index_factory(64, "PQ8x12")
    with pytest.raises(TypeError, match="description=3 must be a string"):
        index_factory(64, 3)  # pyright: ignore[reportArgumentType]
