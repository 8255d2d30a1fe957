"""Searches of indexes for the fuzz test: `Scan` is one of them, its vectors follow from it, and it checks itself."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from engine import environment
from exact_neighbours import KINDS, Array, distances, judge, make
from hypothesis import strategies as st

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import Index, index_factory
from flash_kmeans_mlx.index.lists import BLOCK

FEW = 12  # queries of an index that are judged


class Scan(NamedTuple):
    """A search of an index, all of it: the vectors follow from the seed."""

    backend: str
    description: str
    metric: str
    kind: str
    how: str
    q: int
    n: int
    d: int
    k: int
    nlist: int
    nprobe: int
    threads: int
    seed: int

    def check(self) -> None:
        """Assert that the nearest are found, among the vectors of the lists that are looked at, as the index keeps them."""
        rng = np.random.default_rng(self.seed)
        x = self.vectors(self.n, rng)
        rows = x[rng.integers(self.n, size=self.q)]
        queries = self.vectors(self.q, rng) if self.how == "alike" else rows
        ids = np.sort(rng.choice(5 * self.n, self.n, replace=False))
        order = rng.permutation(self.n)
        how = {"nprobe": self.nprobe} if self.nlist else {}
        with environment(FLASH_KMEANS_THREADS=str(self.threads)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few training vectors, empty clusters
            index = self.filled(x, order, ids)
            found = index.search(queries, self.k, **how)
            with environment(FLASH_KMEANS_THREADS="1"):
                for one, two in zip(found, index.search(queries, self.k, **how), strict=True):
                    np.testing.assert_array_equal(one, two)
            probed = self.probed(index, queries, ids)
        some = np.unique(np.linspace(0, self.q - 1, FEW).astype(int))
        judged = queries[some], probed[some], (found[0][some], found[1][some]), ids
        if self.description.endswith("Flat"):
            self.check_vectors(x, *judged)
        if self.description == "Flat":
            self.check_radius(index, queries[:FEW], how)
        if "PQ" in self.description and "RFlat" not in self.description:
            self.check_codes(index.reconstruct_batch(ids), *judged)

    def vectors(self, n: int, rng: np.random.Generator) -> Array:
        """Return (n, D) float32 of the kind."""
        reach = 2.0**14 if self.description == "SQfp16" else 2.0**40
        return np.clip(make(self.kind, n, self.d, rng), -reach, reach).astype(np.float32)

    def filled(self, x: Array, order: Array, ids: Array) -> Any:
        """Return the index, trained and filled in this order."""
        lists = f"IVF{self.nlist}," if self.nlist else ""
        index = index_factory(self.d, lists + self.description, self.metric, backend=self.backend)
        index.train(x)
        index.add(x[order], ids[order])
        return index

    def probed(self, index: Any, queries: Array, ids: Array) -> Array:
        """Return (Q, N) bool: whether a query looks at a vector: at its list, or among candidates."""
        if self.description.endswith("RFlat"):
            m = min(self.n, int(self.k * index.k_factor))
            seen = index.base_index.search(queries, m, nprobe=self.nprobe or None)[1]
            mark = np.zeros((self.q, self.n + 1), bool)
            np.put_along_axis(mark, np.where(seen < 0, self.n, np.searchsorted(ids, seen)), True, 1)
            return mark[:, :-1]
        if not self.nlist:
            return np.ones((self.q, self.n), bool)
        owner = index.lists.owner[index.lists.find(ids) // BLOCK]
        centroids = index.centroids
        near = fk.knn(queries, centroids, self.nprobe, self.metric, backend="reference")[1]
        return (owner[None, :, None] == near[:, None]).any(2)

    def check_vectors(
        self, x: Array, queries: Array, probed: Array, found: tuple[Array, Array], ids: Array
    ) -> None:
        """Assert that the nearest vectors (N, D) are found."""
        for i in range(len(queries)):
            seen = np.flatnonzero(probed[i])
            m = min(self.k, len(seen))
            assert (found[1][i, m:] == -1).all()
            if m:
                own = found[0][i : i + 1, :m], found[1][i : i + 1, :m]
                judge(queries[i : i + 1], x[seen], m, self.metric, own, ids=ids[seen])

    def check_codes(
        self, rows: Array, queries: Array, probed: Array, found: tuple[Array, Array], ids: Array
    ) -> None:
        """Assert that the nearest of the decoded rows (N, D) are found, as far as sums of look-ups in float32 can tell."""
        every, _ = distances(queries.astype(np.float64), rows.astype(np.float64), self.metric)
        every[~probed] = np.inf
        longest = np.linalg.norm(rows.astype(np.float64), axis=1).max()
        norms = np.linalg.norm(queries.astype(np.float64), axis=1) + longest
        size = np.ones(len(queries)) if self.metric == "cosine" else norms**2
        room = 2.0**-20 * (self.d + 8) * size
        for i in range(len(queries)):
            m = min(self.k, int(probed[i].sum()))
            assert (found[1][i, m:] == -1).all()
            mine = np.searchsorted(ids, found[1][i, :m])
            np.testing.assert_array_equal(ids[mine], found[1][i, :m])
            assert len(set(mine.tolist())) == m
            assert (every[i, mine] - np.sort(every[i])[:m] <= room[i]).all(), f"query {i}"

    def check_radius(self, index: Any, queries: Array, how: dict[str, int]) -> None:
        """Assert that a search by radius finds what a search by number does."""
        value, names = index.search(queries, self.n, **how)
        sign = -1 if self.metric == "dot" else 1
        seen = value[np.isfinite(value)]
        radius = float(np.median(seen)) if len(seen) else 1.0
        lims, near, mine = index.range_search(queries, radius, **how)
        inside = (sign * value < sign * radius) & (names >= 0)
        np.testing.assert_array_equal(np.diff(lims), inside.sum(1))
        np.testing.assert_array_equal(mine, names[inside])
        np.testing.assert_array_equal(near, value[inside])


@st.composite
def scans(draw: st.DrawFn, backends: tuple[str, ...]) -> Scan:
    """Searches of an index on one of the backends."""
    backend = draw(st.sampled_from(backends))
    q = draw(st.integers(1, 40))
    n = draw(st.integers(30, 600))
    d = draw(st.sampled_from((4, 8, 24, 60, 72)))
    if backend == "cpu" and draw(st.booleans()):
        q = draw(st.sampled_from((1, 3, 200, 700)))
        n = draw(st.integers(1000, 2000))
    nlist = draw(st.integers(0, 9))
    description = draw(
        st.sampled_from(("Flat", "Flat", "PQ4x4", "PQ1x4", "PQ2x3", "SQ8", "SQfp16", "PQ4x4,RFlat"))
    )
    codes = description != "Flat"
    return Scan(
        backend=backend,
        description=description,
        metric=draw(st.sampled_from(Index.metrics)),
        kind=draw(st.sampled_from(tuple(KINDS)[:6] if codes else tuple(KINDS))),
        how=draw(st.sampled_from(("alike", "rows"))),
        q=min(q, 300) if codes else q,
        n=n,
        d=d,
        k=draw(st.one_of(st.integers(1, 12), st.integers(1, n))),
        nlist=nlist,
        nprobe=draw(st.sampled_from((nlist, draw(st.integers(1, max(1, nlist)))))),
        threads=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


# fmt: off
FIXED_SCANS = [
    #    backend, description, metric, kind, how, q, n, d, k, nlist, nprobe, threads, seed
    Scan("cpu", "Flat", "cosine", "blobs", "rows", 30, 900, 8, 5, 5, 3, 1, 0),
    Scan("cpu", "Flat", "euclidean", "blobs", "rows", 3, 2500, 600, 400, 6, 6, 4, 1),
    Scan("cpu", "Flat", "dot", "offset", "rows", 150, 2500, 24, 5, 6, 6, 3, 2),
    Scan("cpu", "Flat", "euclidean", "grid", "rows", 150, 900, 4, 5, 6, 6, 3, 3),
    Scan("cpu", "Flat", "cosine", "blobs", "alike", 40, 2000, 96, 20, 8, 6, 2, 7),
    Scan("cpu", "PQ12x4", "cosine", "blobs", "rows", 40, 2000, 24, 5, 6, 4, 3, 8),
    Scan("cpu", "PQ3x4", "euclidean", "blobs", "alike", 3, 1500, 24, 40, 0, 0, 4, 9),
    Scan("cpu", "PQ2x3", "dot", "blobs", "rows", 9, 900, 8, 5, 6, 3, 1, 10),
    Scan("cpu", "SQ8", "euclidean", "grid", "rows", 30, 900, 60, 5, 6, 4, 3, 11),
    Scan("cpu", "SQfp16", "cosine", "blobs", "alike", 2, 2000, 24, 9, 0, 0, 3, 12),
    Scan("portable", "Flat", "cosine", "parallel", "rows", 20, 300, 8, 5, 6, 3, 3, 4),
    Scan("portable", "Flat", "euclidean", "duplicates", "rows", 9, 600, 8, 5, 2, 2, 1, 6),
    Scan("portable", "Flat", "dot", "duplicates", "alike", 20, 40, 8, 5, 9, 1, 3, 5),
    Scan("cpu", "PQ4x4,RFlat", "cosine", "blobs", "alike", 300, 2000, 24, 120, 5, 3, 4, 8),
]
# fmt: on
