"""Indexes by faiss's descriptions, and transformations of vectors before them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_indexes import D, X, fingerprint

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index as ours
from flash_kmeans_mlx.index import (
    IndexPQ,
    index_factory,
)

Q = X[390:]

DESCRIPTIONS = [
    "IDMap,Flat",
    "IDMap2,IVF4,Flat",
    "IVF1k,Flat",
    "IVF1M,PQ4",
    "PQ4np",
    "IVF4,PQ4x4np",
    "OPQ4,IVF4k,PQ4",
    "Flat,IDMap",
    "PCA3,Flat",
    "L2norm,IVF4,Flat",
    "IDMap2,PCA4,PQ2",
    "OPQ2_4,PQ2",
    "SQ8",
    "IVF4,SQ8",
    "PCA4,SQfp16",
    "IVF4,SQfp16",
    "PQ4,RFlat",
    "PQ4x4fs",
    "IVF4,PQ4x4fs,RFlat",
    "IVF4,PQ4x4fsr",
    "IDMap,OPQ4,IVF4,PQ4,Refine(Flat)",
    "PCA4,HNSW8,RFlat",
]


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_descriptions(description: str) -> None:
    faiss = pytest.importorskip("faiss")
    if "x4np" in description:
        description = description.replace("x4np", "np")  # faiss takes 8 bits only with lists
    index, theirs = index_factory(D, description), faiss.index_factory(D, description)
    owners = [theirs]  # which free what is in them
    while type(theirs).__name__ in ("IndexIDMap", "IndexIDMap2"):
        theirs = faiss.downcast_index(theirs.index)
        owners.append(theirs)

    def is_same_kind() -> bool:
        name = type(theirs).__name__
        if isinstance(index, ours.IndexRefine):
            return name in ("IndexRefine", "IndexRefineFlat")
        for ending, replaced in (("FlatL2", "Flat"), ("HNSWFlat", "HNSW"), ("FastScan", "")):
            name = name.replace(ending, replaced)
        return type(index).__name__ == name

    assert is_same_kind()
    if isinstance(index, ours.IndexRefine):
        owners.append(theirs)
        index, theirs = index.base_index, faiss.downcast_index(theirs.base_index)
        assert is_same_kind()
    if isinstance(index, ours.IndexPreTransform):
        owners.append(theirs)
        theirs = faiss.downcast_index(theirs.index)
        while isinstance(index, ours.IndexPreTransform):
            index = index.index
    for name in ("nlist", "nprobe"):
        assert getattr(index, name, None) == getattr(theirs, name, None)
    if isinstance(index, (ours.IndexScalarQuantizer, ours.IndexIVFScalarQuantizer)):
        assert ours.ScalarQuantizer(D, theirs.sq.qtype).qtype == index.qtype
    if isinstance(index, (IndexPQ, ours.IndexIVFPQ)):
        assert (index.pq.m, index.pq.nbits) == (theirs.pq.M, theirs.pq.nbits)


@pytest.mark.parametrize(
    "description",
    [
        "",
        "IDMap",
        "IVF1G,Flat",
        "PQ4nq",
        "RFlat",
        "IVF4,IDMap3,Flat",
        "PQ4x5fs",
        "PQ4fs",
        "RFlat,PQ4",
    ],
)
def test_unknown_descriptions(description: str) -> None:
    with pytest.raises(ValueError, match="is not understood; after PCA, L2norm, OPQ and IVF"):
        index_factory(D, description)


@pytest.mark.parametrize("metric", ["METRIC_L2", "METRIC_INNER_PRODUCT"])
@pytest.mark.parametrize(
    "description", ["PCA3,Flat", "L2norm,Flat", "L2norm,PCA5,Flat", "PCA5,L2norm,Flat"]
)
def test_transformations_are_those_of_faiss(description: str, metric: str) -> None:
    faiss = pytest.importorskip("faiss")
    x = X * np.linspace(1, 3, D, dtype=np.float32)
    x -= x.mean(0)  # faiss subtracts the mean
    if description.startswith("L2norm,PCA"):
        x = np.concatenate([x, -x])
    found = []
    for lib in (ours, faiss):
        index = lib.index_factory(D, description, getattr(lib, metric))
        index.train(x)
        index.add(x)
        found.append((*index.search(x[:9], 4), index.reconstruct_n(0, 50)))
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "description",
    ["PCA4,IVF3,Flat", "L2norm,PQ4x3", "L2norm,PCA6,IVF3,PQ3x3", "OPQ2_4,PQ2x3", "PCA4,HNSW8"],
)
def test_indexes_of_transformed_vectors(description: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index: Any = index_factory(D, description, "dot")
    assert not index.is_trained and not pickle.loads(pickle.dumps(index)).is_trained
    index.train(X)
    index.add(X[:100])
    index.remove_ids([3])
    if "IVF" in description:
        index.nprobe = 3
    index.save(tmp_path / "index")
    for other in (ours.load_index(tmp_path / "index"), copy.deepcopy(index)):
        assert fingerprint(other) == fingerprint(index)
        other.merge_from(copy.copy(index), 500)
        assert (other.ntotal, index.ntotal, other.reconstruct(501).shape) == (198, 99, (D,))
    index.reset()
    index.add(X[:50])
    if "HNSW" in description:
        return  # which faiss can't take over
    found = ours.to_faiss(index).search(Q, 50)
    if "IVF" not in description:  # faiss looks at one list
        np.testing.assert_allclose(index.search(Q, 50)[0], found[0], rtol=1e-4, atol=1e-4)


def test_projections() -> None:
    pca = ours.PCAMatrix(D, 3, max_points_per_d=20)
    with pytest.raises(fk.NotFittedError, match="apply needs a trained PCAMatrix"):
        pca.apply(X)
    with pytest.raises(ValueError, match="N >= d_out=3 training vectors, got N=2"):
        pca.train(X[:2])
    pca.train(X)
    assert pca.matrix is not None
    projected = pca.apply(X)
    back = pca.reverse_transform(projected)
    np.testing.assert_allclose(pca.apply(back), projected, atol=1e-5)
    parameters, arrays = pca.state()
    again = ours.PCAMatrix.restore(parameters, arrays)
    np.testing.assert_array_equal(again.apply(X), projected)
    for wrong in (pca.matrix[:2], pca.matrix.astype(np.float64)):
        with pytest.raises(ValueError, match=r"must be \(3, 8\) of float32"):
            ours.PCAMatrix.restore(parameters, {"matrix": wrong})
    with pytest.raises(ValueError, match="does not have orthogonal rows"):
        ours.PCAMatrix.restore(parameters, {"matrix": 2 * pca.matrix})
    with pytest.raises(ValueError, match="d_out=9 must be <= d_in=8"):
        index_factory(D, "PCA9,Flat")
