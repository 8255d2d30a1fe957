"""Product quantization: codes in faiss's layout, one fit for all codebooks."""

from __future__ import annotations

from typing import Any

import faiss
import mlx.core as mx
import numpy as np
import pytest
from helpers import Array, digits, patches
from scipy.spatial.distance import cdist

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import ProductQuantizer

X = digits()
pytestmark = pytest.mark.usefixtures("faiss_on_one_thread")


def trained(x: Array, m: int, nbits: int, **options: Any) -> ProductQuantizer:
    quantizer = ProductQuantizer(x.shape[1], m, nbits, **options)
    quantizer.train(x)
    return quantizer


def faiss_twin(quantizer: ProductQuantizer) -> Any:
    twin = faiss.ProductQuantizer(quantizer.d, quantizer.m, quantizer.nbits)
    assert quantizer.codebooks is not None
    faiss.copy_array_to_vector(quantizer.codebooks.reshape(-1), twin.centroids)
    return twin


def error(quantizer: ProductQuantizer, x: Array) -> float:
    return float(np.square(quantizer.decode(quantizer.encode(x)) - x.astype(np.float64)).sum())


@pytest.mark.parametrize("nbits", range(1, 6))
@pytest.mark.parametrize("m", [1, 4, 32])
def test_codes_are_those_of_faiss(m: int, nbits: int) -> None:
    quantizer = trained(X, m, nbits)
    twin = faiss_twin(quantizer)
    codes = quantizer.encode(X)
    assert codes.shape == (len(X), twin.code_size) and quantizer.code_size == twin.code_size
    np.testing.assert_allclose(quantizer.decode(codes), twin.decode(codes), rtol=0, atol=0)
    np.testing.assert_allclose(
        twin.decode(twin.compute_codes(X)), quantizer.decode(codes), atol=1e-4
    )


@pytest.mark.parametrize("nbits", [6, 7, 8])
def test_wide_codes_are_those_of_faiss(nbits: int) -> None:
    x = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    quantizer = ProductQuantizer(6, 3, nbits)
    quantizer.codebooks = (
        np.random.default_rng(1).standard_normal((3, 1 << nbits, 2)).astype(np.float32)
    )
    codes = quantizer.encode(x)
    np.testing.assert_array_equal(codes, faiss_twin(quantizer).compute_codes(x))
    np.testing.assert_array_equal(quantizer.decode(codes), faiss_twin(quantizer).decode(codes))


def test_every_part_gets_its_nearest_codeword() -> None:
    quantizer = trained(X, 8, 5)
    assert quantizer.codebooks is not None and quantizer.codebooks.shape == (8, 32, 8)
    assert quantizer.codebooks.dtype == np.float32
    rows = quantizer.decode(quantizer.encode(X))
    for j in range(8):
        part = slice(8 * j, 8 * j + 8)
        own = np.square(rows[:, part] - X[:, part].astype(np.float64)).sum(1)
        best = cdist(X[:, part], quantizer.codebooks[j], "sqeuclidean").min(1)
        np.testing.assert_allclose(own, best, atol=1e-3)


@pytest.mark.parametrize(
    "x", [pytest.param(patches(6000), id="patches"), pytest.param(X, id="digits")]
)
def test_training_ends_as_low_as_that_of_faiss(x: Array) -> None:
    ours, theirs = [], []
    for seed in range(4):
        other: Any = faiss.ProductQuantizer(x.shape[1], 8, 5)
        other.cp.seed = seed + 1
        other.train(x)
        theirs.append(np.square(other.decode(other.compute_codes(x)) - x.astype(np.float64)).sum())
        ours.append(error(trained(x, 8, 5, seed=seed), x))
    # On patches, faiss's differ by a fifth from seed to seed.
    noise = max(0.01 * np.mean(theirs), np.std(theirs))
    assert np.mean(ours) <= np.mean(theirs) + noise


def test_training_is_one_fit_of_a_seeded_sample() -> None:
    first, again = (trained(X, 4, 3, max_points_per_centroid=100) for _ in range(2))
    rows = np.sort(np.random.default_rng(0).choice(len(X), 800, replace=False))
    same, other = trained(X[rows], 4, 3), trained(X, 4, 3, max_points_per_centroid=100, seed=1)
    assert first.codebooks is not None and other.codebooks is not None
    np.testing.assert_array_equal(first.codebooks, again.codebooks)
    np.testing.assert_array_equal(first.codebooks, same.codebooks)
    assert (first.codebooks != other.codebooks).any()


def test_parts_start_from_rows_of_their_own() -> None:
    twice = np.concatenate([X[:, :32], X[:, :32]], axis=1)
    books = trained(twice, 2, 5, niter=0).codebooks
    # Random rows, hardly any of them alike.
    assert books is not None and len(np.unique(books[0], axis=0)) > 25
    alike = (cdist(books[0], books[1]) == 0).any(1).sum()
    assert alike < 8


def test_fewer_distinct_parts_than_codewords() -> None:
    x = np.repeat(np.eye(4, dtype=np.float32), 100, axis=0)
    quantizer = trained(x, 2, 3)
    np.testing.assert_array_equal(quantizer.decode(quantizer.encode(x)), x)


def test_mlx_in_mlx_out() -> None:
    quantizer = ProductQuantizer(64, 4, 3)
    quantizer.train(mx.array(X))
    codes = quantizer.encode(mx.array(X))
    assert isinstance(codes, mx.array) and codes.dtype == mx.uint8
    rows = quantizer.decode(codes)
    assert isinstance(rows, mx.array) and rows.dtype == mx.float32
    np.testing.assert_array_equal(np.asarray(codes), quantizer.encode(X))


def test_arguments() -> None:
    for arguments, message in (
        ((64, 5), "m=5 must divide d=64"),
        ((64, 65), "m=65 must be <= d=64"),
        ((64, 0), "m=0 must be >= 1"),
        ((64, 4, 9), "nbits=9 must be <= 8"),
        ((64, 4, 0), "nbits=0 must be >= 1"),
        ((0, 1), "d=0 must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ProductQuantizer(*arguments)
    with pytest.raises(TypeError, match=r"nbits=4\.0 must be an integer"):
        ProductQuantizer(64, 4, 4.0)  # pyright: ignore[reportArgumentType]
    quantizer = ProductQuantizer(64, 4, 4)
    with pytest.raises(fk.NotFittedError, match="encode needs a trained ProductQuantizer"):
        quantizer.encode(X)
    with pytest.raises(fk.NotFittedError, match="decode needs a trained"):
        quantizer.decode(np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\)=\(N, 64\), got \(1797, 63\)"):
        quantizer.train(X[:, :63])
    with pytest.raises(
        ValueError, match="x must have N >= 16 training vectors for 16 centroids, got N=15"
    ):
        quantizer.train(X[:15])
    with pytest.warns(
        UserWarning, match="623 training vectors for 16 centroids: 624 or more are advised"
    ):
        quantizer.train(X[:623])
    with pytest.raises(
        ValueError,
        match=r"codes must have shape \(N, code_size\)=\(N, 2\) and dtype uint8, got \(3, 3\)",
    ):
        quantizer.decode(np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="x must be finite"):
        quantizer.encode(np.full((3, 64), np.nan))
