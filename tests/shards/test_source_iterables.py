"""Sources of iterables: chunks must fit together and be the same in every pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from vector_sources import INTEGERS, Chunks, X, check_reads

from flash_kmeans_mlx.shards.source import open_source


def test_iterables(tmp_path: Path) -> None:
    chunks = [X[:40], X[:0], mx.array(X[40:50]), X[50:96].astype(np.float64), X[96:].tolist()]
    source = open_source(Chunks(*chunks), "data")
    assert source.dtype == np.float64 and source.one_cursor
    for seed in range(4):
        check_reads(source, X.astype(np.float64), seed)
    assert source.place(41) == "chunk 2, row 1" and str(source) == "data, a Chunks of 5 chunks"
    assert json.dumps(source.signature()) and source.reading_bytes(9) > 9 * 5 * 8
    check_reads(pickle.loads(pickle.dumps(source)), X.astype(np.float64))
    with source.cursor():
        with pytest.raises(RuntimeError, match="one cursor at a time"):
            source.cursor()
        with pytest.raises(RuntimeError, match="one cursor at a time"):
            source.take([0])
    source.cursor().close()
    integers = open_source(Chunks(INTEGERS[:50], INTEGERS[50:]))
    assert integers.dtype == np.float32
    check_reads(integers, INTEGERS)


def test_chunks_that_take_the_same_memory() -> None:
    class Reused:
        def __iter__(self) -> Iterator[np.ndarray]:
            chunk = np.empty((10, 5), np.float32)
            for lo in range(0, 97, 10):
                rows = X[lo : lo + 10]
                chunk[: len(rows)] = rows
                yield chunk[: len(rows)]
            chunk[:] = np.nan

    source = open_source(Reused())
    for seed in range(4):
        check_reads(source, X, seed)
    with source.cursor() as cursor:
        np.testing.assert_array_equal(cursor.read(90, 97), X[90:])


def test_chunks_that_do_not_fit() -> None:
    def message(*chunks: Any) -> str:
        with pytest.raises((ValueError, TypeError)) as caught:
            open_source(Chunks(*chunks), "data")
        return str(caught.value)

    assert "chunk 0 has D=5, chunk 1 has shape (97, 4)" in message(X, X[:, :4])
    assert "chunk 1 of data must have shape (n, D), got 1 dimensions, (5,)" in message(X, X[0])
    assert "chunk 0 of data must have shape (n, D), got 3 dimensions" in message(X[None])
    assert "chunk 1 of data must hold real numbers" in message(X, X.astype(complex))
    assert "data must yield rows, got 0 chunks" in message()
    assert "data must yield rows, got 1 chunks" in message(X[:0])
    with pytest.raises(TypeError, match=r"data is an iterator \(generator\), which .* only once"):
        open_source((x for x in [X]), "data")


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([X[:40]], "it ended after 1 chunks, 40 rows"),
        ([], "it ended after 0 chunks, 0 rows"),
        ([X[:40], X[40:96]], r"chunk 1 had shape \(57, 5\) and has \(56, 5\) now"),
        ([X[:40, :4], X[40:]], r"chunk 0 had shape \(40, 5\) and has \(40, 4\) now"),
        ([X[:40], X[40:], X[:1]], "chunk 2 follows the 97 rows"),
        ([X[:40], X[39:96]], "chunk 1 begins with another row now"),
    ],
)
def test_iterables_that_change(later: list[np.ndarray], message: str) -> None:
    chunks = Chunks(X[:40], X[40:])
    source = open_source(chunks)
    check_reads(source, X)
    match = f"each pass over x must yield the same rows: {message}"
    with source.cursor() as cursor:
        chunks.chunks = tuple(later)
        with pytest.raises(ValueError, match=match):
            cursor.read(0, 97)
        chunks.chunks = (X[:40], X[40:])
        np.testing.assert_array_equal(cursor.read(3, 9), X[3:9])  # by another pass
