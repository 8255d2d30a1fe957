"""Graphs of neighbours (HNSW), made and searched by the package voyager.

Voyager changes a graph in place, so an index changes only a graph that no search knows yet: a copy.
"""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np

from .. import validation
from ..backends.cpu.workers import thread_count
from ..metrics import unit_rows

__all__ = ["Graph"]

MOST_LINKS = 1 << 10
ADDED = 128  # rows that voyager adds between two chances to interrupt it
# Voyager computes 1 - <q, x> in float32. Rows are multiplied by one power of two, so that the first
# have this magnitude and the 1 hides no product; larger ones are cut, so that products are finite.
MAGNITUDE = 2.0**20
LARGEST = 2.0**50
# The beginning of voyager's bytes, version 1.
HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("version", "<i4"),
        ("d", "<i4"),
        ("space", "u1"),
        ("dtype", "u1"),
        ("max_norm", "<f4"),  # used with norms only, but kept: it holds `_scale`
        ("has_norms", "u1"),
        ("offset", "<u8"),
        ("capacity", "<u8"),
        ("n", "<u8"),
        ("row_bytes", "<u8"),
        ("label_offset", "<u8"),
        ("vector_offset", "<u8"),
        ("top", "<i4"),
        ("entry", "<u4"),
        ("most_links", "<u8"),
        ("most_links_at_0", "<u8"),
        ("m", "<u8"),
        ("mult", "<f8"),
        ("ef_construction", "<u8"),
    ]
)
# Those that depend on the rows, or on the machine's logarithm.
VARYING = ("max_norm", "capacity", "n", "top", "entry", "mult")


def voyager() -> Any:
    """Return the module voyager.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        import voyager
    except ImportError as error:
        raise ImportError(
            "HNSW needs voyager, which is not installed: pip install 'flash-kmeans-mlx[hnsw]'"
        ) from error
    return voyager


class Graph:
    """A graph of rows (HNSW: Malkov and Yashunin, 2016), numbered in the order of their addition.

    One thread builds it, so that equal rows in equal calls give equal graphs.

    Args:
        d: Dimensions of the rows.
        metric: "euclidean", "cosine" or "dot".
        m: Links of a row, 2 to 1024; twice as many in the lowest layer.
        ef_construction: Candidates among which the links of a new row are chosen.
    """

    def __init__(self, d: int, metric: str, m: int, ef_construction: int) -> None:
        self.d = d
        self.metric = metric
        self.m = validation.check_count("m", m, 2, MOST_LINKS, "2**10")
        self.ef_construction = validation.check_count(
            "ef_construction", ef_construction, 1, 1 << 20, "2**20"
        )
        self._scale = 1.0
        self._native: Any = None
        voyager()

    def __len__(self) -> int:
        return 0 if self._native is None else len(self._native)

    def _begin(self, rows: np.ndarray) -> None:
        """Make a graph of the first of rows (N, D) float32."""
        largest = float(np.abs(rows).max())
        if self.metric != "cosine" and largest:
            self._scale = 2.0 ** float(np.clip(np.round(np.log2(MAGNITUDE / largest)), -100, 100))
        module = voyager()
        space = module.Space.Euclidean
        native = module.Index(space, self.d, self.m, self.ef_construction, max_elements=1)
        native.add_items(self._prepared(rows[:1]), num_threads=1)
        # For products voyager would add a coordinate that makes all norms equal. Where they differ,
        # that hides the nearest: of 20,000 x 64 rows with lognormal norms it found 4%, and without
        # it 98%. So the space is named afterwards.
        content = bytearray(native.as_bytes())
        header = np.frombuffer(content, HEADER, 1)
        header["space"] = self._space()
        header["max_norm"] = self._scale
        self._load(content)

    def _space(self) -> int:
        space = voyager().Space
        return (space.InnerProduct if self.metric == "dot" else space.Euclidean).value

    def _load(self, content: bytes | bytearray) -> None:
        self._native = voyager().Index.load(io.BytesIO(content))

    def copy(self) -> Graph:
        """Return a copy, which may be changed."""
        other = copy.copy(self)
        if len(self):
            other._load(self._native.as_bytes())
        return other

    def add(self, rows: np.ndarray) -> None:
        """Add rows (N, D) float32, of magnitudes up to 2**40; an interrupt leaves some of them."""
        n = len(self) + len(rows)
        if not len(self):
            self._begin(rows)
            rows = rows[1:]
        self._native.resize(n)
        for lo in range(0, len(rows), ADDED):
            self._native.add_items(self._prepared(rows[lo : lo + ADDED]), num_threads=1)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray | None:
        """Find rows that are near to a few queries; no interrupt ends it.

        Args:
            queries: (Q, D) float32, of magnitudes up to 2**40.
            k: Rows of every query.
            ef: Candidates that a search keeps; at least k of them.

        Returns:
            (Q, k) int64 numbers of rows, nearest first; None if a query reaches fewer.
        """
        if k > len(self):
            return None
        try:
            found, _ = self._native.query(self._asked(queries), k, thread_count(), max(k, ef))
        except voyager().RecallError:
            return None
        return found.astype(np.int64)

    def _prepared(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (N, D) float32 as they are in the graph."""
        if self.metric == "cosine":
            return np.ascontiguousarray(unit_rows(rows), np.float32)
        scaled = np.clip(rows.astype(np.float64) * self._scale, -LARGEST, LARGEST)
        return np.ascontiguousarray(scaled, np.float32)

    def _asked(self, queries: np.ndarray) -> np.ndarray:
        """Return queries (Q, D) float32 as they are compared with the graph."""
        if self.metric == "dot":
            return np.ascontiguousarray(unit_rows(queries) * MAGNITUDE, np.float32)
        return self._prepared(queries)

    def state(self) -> np.ndarray:
        """Return voyager's bytes (M,) uint8; none of an empty graph."""
        content = self._native.as_bytes() if len(self) else b""
        return np.frombuffer(content, np.uint8)

    def restore(self, state: np.ndarray, rows: np.ndarray) -> None:
        """Become the graph of a state.

        Voyager trusts its bytes, and would follow a wrong link to any memory: they are checked.

        Args:
            state: As `state` returns it.
            rows: (N, D) float32, finite, of which the first ones are in the graph.

        Raises:
            ValueError: The state is damaged, or that of another graph.
        """
        if state.dtype != np.uint8 or state.ndim != 1:
            raise ValueError(f"graph of dtype {state.dtype} must be bytes")
        content = state.tobytes()
        if content:
            if not len(rows):
                raise ValueError("graph of no rows must be empty")
            self._check(content, rows)
            try:
                self._load(content)
            except (RuntimeError, ValueError, TypeError) as error:
                raise ValueError(f"graph: {error}") from error

    def _check(self, content: bytes, rows: np.ndarray) -> None:
        """Refuse bytes of a graph that voyager could not have written for these rows."""
        if len(content) < HEADER.itemsize:
            raise ValueError("graph is truncated")
        header = np.frombuffer(content, HEADER, 1)[0]
        alike = Graph(self.d, self.metric, self.m, self.ef_construction)
        alike._begin(rows[:1])
        expected = np.frombuffer(alike._native.as_bytes(), HEADER, 1)[0]
        for name in HEADER.names or ():
            if name not in VARYING and header[name] != expected[name]:
                raise ValueError(f"graph: {name}={header[name]} must be {expected[name]}")
        if not np.isclose(header["mult"], expected["mult"], rtol=1e-12):  # how high new rows go
            raise ValueError(f"graph: mult={header['mult']} must be {expected['mult']}")
        n = int(header["n"])
        end = HEADER.itemsize + n * int(header["row_bytes"])
        if not 0 < n <= len(rows) or header["capacity"] != n or len(content) < end + 4 * n:
            raise ValueError(f"graph of n={n} does not fit its {len(content)} bytes")
        row = np.dtype(
            [
                ("n_links", "<u4"),
                ("links", "<u4", (2 * self.m,)),
                ("vector", "<f4", (self.d,)),
                ("label", "<u8"),
            ]
        )
        lowest = np.frombuffer(content, row, n, HEADER.itemsize)
        if (lowest["label"] != np.arange(n)).any():
            raise ValueError("graph: labels must be the numbers of rows")
        _check_links(lowest["n_links"], lowest["links"], np.ones(n, bool))
        self._scale = float(header["max_norm"])
        if math.frexp(self._scale)[0] != 0.5:
            raise ValueError(f"graph: scale={self._scale} must be a power of two")
        tolerance = 1e-6 if self.metric == "cosine" else 0.0  # roots differ between machines
        step = 1 << 14
        for lo in range(0, n, step):
            part = slice(lo, min(n, lo + step))
            difference = np.abs(lowest["vector"][part] - self._prepared(rows[part]))
            if not (difference <= tolerance).all():
                raise ValueError("graph: its vectors are not the rows")
        self._check_layers(content[end:], header)

    def _check_layers(self, content: bytes, header: np.void) -> None:
        """Refuse links of the upper layers that lead to rows which have no such layer."""
        n = int(header["n"])
        if len(content) % 4:
            raise ValueError("graph: its layers are truncated")
        words = np.frombuffer(content, "<u4")
        width = self.m + 1  # words of the links of a row in one layer
        sizes = np.zeros(n, np.int64)
        starts = np.zeros(n, np.int64)
        values = words.tolist()
        place = 0
        for i in range(n):
            if place >= len(values):
                raise ValueError("graph: its layers are truncated")
            size = values[place]
            if size:
                sizes[i] = size
                starts[i] = place + 1
            place += 1 + size // 4
        levels, rest = np.divmod(sizes, 4 * width)
        if place != len(values) or rest.any():
            raise ValueError("graph: its layers do not fit its bytes")
        entry = int(header["entry"])
        top = int(levels.max())
        if header["top"] != top or entry >= n or levels[entry] != top:
            raise ValueError(f"graph: row {entry} must be on its top layer, {top}")
        for level in range(1, top + 1):
            on_it = levels >= level
            first = starts[on_it] + (level - 1) * width
            lists = words[first[:, None] + np.arange(width)]
            _check_links(lists[:, 0], lists[:, 1:], on_it)


def _check_links(counts: np.ndarray, links: np.ndarray, exists: np.ndarray) -> None:
    """Refuse links that lead nowhere.

    Args:
        counts: (N,) links of each row.
        links: (N, most) numbers of rows, of which the first `counts` are links.
        exists: (rows,) bool, which rows may be linked.
    """
    most = links.shape[1]
    if counts.max(initial=0) > most:
        raise ValueError(f"graph: a row has more than {most} links, or a mark")
    if (~exists).all() or len(exists) == 0:
        raise ValueError("graph: a layer is empty")
    used = links[np.arange(most) < counts[:, None]]
    if used.max(initial=0) >= len(exists) or not exists[used].all():
        raise ValueError("graph: a link leads nowhere")
