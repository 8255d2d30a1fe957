"""Graphs of voyager whose bytes are damaged: refused before voyager reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.index import IndexHNSW, index_file, load_index
from flash_kmeans_mlx.index.graph import HEADER, Graph

SMALL = np.random.default_rng(0).standard_normal((330, 8)).astype(np.float32)


def filled(x: np.ndarray) -> IndexHNSW:
    index = IndexHNSW(8, 8, 60)
    index.add(x)
    return index


def damaged(content: bytes, name: str, value: Any) -> bytes:
    """The bytes of a graph with another value in the header, or with other words by number."""
    out = bytearray(content)
    np.frombuffer(out, HEADER, 1)[name] = value
    return bytes(out)


def test_damaged_headers() -> None:
    index = filled(SMALL[:300])
    content = index._snapshot.graph.state().tobytes()
    for name in HEADER.names or ():
        old = np.frombuffer(content, HEADER, 1)[name][0]
        for value in [b"NONE"] if name == "magic" else [0, old + 1, 2 * old + 3]:
            if value == old:
                continue
            graph = Graph(8, "euclidean", 8, 60)
            with pytest.raises(ValueError, match="graph"):
                graph.restore(np.frombuffer(damaged(content, name, value), np.uint8), SMALL[:300])


def test_damaged_graphs() -> None:
    """Each is found that could lead voyager astray; none of the others does."""
    index = filled(SMALL[:300])
    content = index._snapshot.graph.state()
    row_bytes = int(content[: HEADER.itemsize].view(HEADER)["row_bytes"][0])
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(400):
        state = content.copy()
        if trial % 4 == 0:
            state = state[: rng.integers(len(state))]
        elif trial % 4 == 1:  # a word of the links of the lowest layer
            at = HEADER.itemsize + row_bytes * rng.integers(300) + 4 * rng.integers(17)
            state[at : at + 4] = rng.choice([0, 1, 44, 255], 4)
        elif trial % 4 == 2:  # a word of the upper layers
            at = HEADER.itemsize + 300 * row_bytes
            at += 4 * rng.integers((len(state) - at) // 4)
            state[at : at + 4] = rng.choice([0, 1, 44, 255], 4)
        else:
            state[rng.integers(len(state))] ^= 1 << rng.integers(8)
        graph = Graph(8, "euclidean", 8, 60)
        try:
            graph.restore(state, SMALL[:300])
        except ValueError:
            refused += 1
            continue
        if len(graph):
            graph.search(SMALL[:300], 5, 50)
            graph.add(SMALL[300:330])
    assert refused > 280


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"graph": None}, "'graph'"),
        ({"graph": np.zeros(9, np.uint8)}, "graph is truncated"),
        ({"graph": np.zeros(900, np.float32)}, "graph of dtype float32 must be bytes"),
        ({"rows": SMALL[1:301]}, "graph: its vectors are not the rows"),
        ({"rows": SMALL[:299], "ids": np.arange(299)}, "graph of n=300 does not fit"),
        ({"rows": SMALL[:299]}, "rows of shape .299, 8. do not fit"),
        ({"rows": np.full((300, 8), np.nan, np.float32)}, "rows are not finite"),
        ({"ids": np.full(300, -2)}, "ids must be distinct"),
        ({"ids": np.zeros(300, np.int64)}, "ids must be distinct"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parameters, held = filled(SMALL[:300]).state()
    kept = {key: array for key, array in (held | arrays).items() if array is not None}
    index_file.write(tmp_path / "index", "IndexHNSW", parameters, kept)
    with pytest.raises(ValueError, match=f"damaged IndexHNSW .*{message}"):
        load_index(tmp_path / "index")
