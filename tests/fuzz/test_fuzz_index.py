"""Random sequences of changes and searches of an index, compared with a dict of vectors and brute force in float64."""

from __future__ import annotations

import copy
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_neighbours import SCIPY
from helpers import Array, to_float64
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from small_indexes import MAKE, D, trained

from flash_kmeans_mlx.index import Index, IndexFlat, load_index
from flash_kmeans_mlx.index.faiss_words import set_backend

LAST_ID = 2**63 - 2
CASES = [(kind, metric) for kind in MAKE for metric in Index.metrics]
CASES += [("flat", metric) for metric in IndexFlat.metrics if metric not in Index.metrics]
EXAMPLES = 25  # of each case in every run
EPS = 2.0**-23

sizes = st.sampled_from([1, 2, 15, 16, 17, 40, 150, 600])
kinds = st.sampled_from(["plain", "grid", "same", "zero", "far", "again"])
seeds = st.integers(0, 2**32 - 1)
steps = st.one_of(
    st.tuples(st.just("add"), seeds, kinds, sizes),
    st.tuples(st.just("add with ids"), seeds, kinds, sizes),
    st.tuples(st.just("add wrong ids"), seeds, kinds, sizes),
    st.tuples(st.just("update"), seeds, kinds),
    st.tuples(st.just("merge"), seeds, kinds, sizes),
    st.tuples(st.just("remove"), seeds, st.sampled_from([0.0, 0.05, 0.5, 1.0])),
    st.tuples(st.just("remove one list"), seeds),
    st.tuples(st.just("search"), seeds, kinds, st.sampled_from([1, 3, 20, 700])),
    st.tuples(st.just("range search"), seeds, kinds),
    st.tuples(st.just("reconstruct"), seeds),
    st.tuples(st.just("save"), seeds),
)


class Life:
    """An index, and the vectors that must be in it.

    Attributes:
        index: It.
        held: The vectors by their ids: as given or, where an index keeps codes, as it first returned them.
        next_id: The next automatic id.
    """

    def __init__(self, kind: str, metric: str, backend: str, path: Path) -> None:
        self.index = trained(kind, metric)
        self.metric = metric
        self.path = path
        self.backend = backend
        self.exact = kind in ("flat", "ivf") or kind.endswith("refine")
        # A graph leads to most of the nearest: of equal vectors, to few.
        self.complete = kind != "hnsw"
        self.held: dict[int, Array] = {}
        self.next_id = 0
        self.set_backend()

    def set_backend(self) -> None:
        set_backend(self.index, self.backend)

    def run(self, step: tuple[Any, ...]) -> None:
        verb, number, *rest = step
        self.rng = np.random.default_rng(number)
        getattr(self, verb.replace(" ", "_"))(*rest)
        assert self.index.ntotal == len(self.held)

    def vectors(self, kind: str, n: int) -> Array:
        """(n, D) float32."""
        rng = self.rng
        if kind == "grid":
            return rng.integers(-1, 2, (n, D)).astype(np.float32)
        if kind == "again" and self.held:
            every = np.stack(list(self.held.values()))
            return every[rng.integers(len(every), size=n)].astype(np.float32)
        x = rng.standard_normal((n, D)).astype(np.float32)
        return {"same": np.repeat(x[:1], n, 0), "zero": 0 * x, "far": x + 300}.get(kind, x)

    def add(self, kind: str, n: int) -> None:
        x = self.vectors(kind, n)
        if self.next_id + n > LAST_ID + 1:
            with pytest.raises(ValueError, match=r"ids must be < 2\*\*63 - 1, the next"):
                self.index.add(x)
            return
        self.index.add(x)
        self.check_added(x, range(self.next_id, self.next_id + n))

    def add_with_ids(self, kind: str, n: int) -> None:
        x = self.vectors(kind, n)
        least, most = [(0, 4 * n), (0, 10**6), (0, LAST_ID), (LAST_ID - 4 * n, LAST_ID)][
            self.rng.choice(4, p=[0.4, 0.4, 0.1, 0.1])
        ]
        drawn = [int(i) for i in self.rng.integers(least, most, 3 * n, endpoint=True)]
        ids = [i for i in dict.fromkeys(drawn) if i not in self.held][:n]
        if ids:
            self.index.add(x[: len(ids)], ids)
            self.check_added(x[: len(ids)], ids)

    def check_added(self, x: Array, ids: Any) -> None:
        ids = list(ids)
        kept = self.index.reconstruct_batch(ids)
        if self.exact:
            np.testing.assert_array_equal(kept, x)
        self.held |= dict(zip(ids, kept, strict=True))
        self.next_id = max(self.next_id, max(ids) + 1)

    def add_wrong_ids(self, kind: str, n: int) -> None:
        x = self.vectors(kind, n)
        ids = np.setdiff1d(np.arange(len(self.held) + n), list(self.held))[:n]
        wrong = [-1, 2**63 - 1, *([int(ids[0])] if n > 1 else []), *list(self.held)[:1]]
        ids[-1] = wrong[self.rng.integers(len(wrong))]
        with pytest.raises(ValueError, match=r"ids must (be|have)"):
            self.index.add(x, ids)

    def update(self, kind: str) -> None:
        ids = [i for i in self.held if self.rng.random() < 0.3]
        x = self.vectors(kind, len(ids))
        self.index.update_vectors(ids, x)
        if ids:
            self.check_added(x, ids)

    def merge(self, kind: str, n: int) -> None:
        if self.next_id + n > LAST_ID + 1:
            return
        x = self.vectors(kind, n)
        other = copy.deepcopy(self.index)
        other.reset()
        other.add(x)
        self.index.merge_from(other, self.next_id)
        assert other.ntotal == 0
        self.check_added(x, range(self.next_id, self.next_id + n))

    def remove(self, share: float) -> None:
        ids = [i for i in self.held if self.rng.random() < share]
        self.check_removal([*ids, *ids[:2], 10**9 + 7, -3, LAST_ID + 1])

    def remove_one_list(self) -> None:
        index: Any = self.index
        while parts := index._parts():
            index = parts[0]
        lists = getattr(index, "lists", None)
        ids = sorted(self.held)[::2]
        if lists is not None:
            ids = lists.ids.reshape(-1)[
                lists.slots(int(self.rng.integers(len(lists.counts))))
            ].tolist()
        self.check_removal(ids)

    def check_removal(self, ids: list[int]) -> None:
        gone = {i for i in ids if i in self.held}
        assert self.index.remove_ids(np.array(ids, np.int64)) == len(gone)
        for i in gone:
            del self.held[i]

    def filtered(self) -> tuple[dict[str, Any], set[int]]:
        """A filter or none, and the ids that it allows."""
        share = self.rng.choice([0.0, 0.02, 0.3, 0.95, 1.0])
        kept = {i for i in self.held if self.rng.random() < share}
        others = self.held.keys() - kept
        options: list[dict[str, Any]] = [
            {"ids": np.array([*kept, LAST_ID - 9], np.int64)},
            {"exclude": np.array([*others], np.int64)},
            {"ids": range(LAST_ID + 1), "exclude": [*others, -3]},
        ]
        if (largest := max(self.held, default=0)) < 10**6:
            mask = np.zeros(largest + 1, bool)
            mask[[*kept]] = True
            options.append({"ids": mask})
        if LAST_ID - 9 in others:
            options = options[1:]
        if self.rng.random() < 0.4:
            return {}, set(self.held)
        return options[self.rng.integers(len(options))], kept

    def exact_distances(self, queries: Array, kept: set[int]) -> tuple[Array, Array, Array]:
        """Distances (Q, N), smaller is nearer, what rounding may do to them, and the ids (N,)."""
        ids = np.array(sorted(kept), np.int64)
        rows = to_float64(
            np.stack([self.held[i] for i in ids.tolist()]) if len(ids) else np.zeros((0, D))
        )
        x, size = to_float64(queries), np.linalg.norm
        norms = size(x, axis=1)[:, None], size(rows, axis=1)[None]
        if self.metric == "cosine":
            product = norms[0] * norms[1]
            distances = 1 - np.divide(
                x @ rows.T, product, out=np.zeros_like(product), where=product > 0
            )
            slack = np.ones_like(distances)
        elif self.metric == "dot":
            distances, slack = -(x @ rows.T), norms[0] * norms[1]
        else:
            distances, slack = (
                cdist(x, rows, SCIPY[self.metric]),
                (norms[0] + norms[1]) ** (2 if self.metric == "euclidean" else 1),
            )
        return distances, 32 * EPS * slack + 1e-30, ids

    def search(self, kind: str, k: int) -> None:
        queries = self.vectors(kind, int(self.rng.integers(1, 13)))
        options, kept = self.filtered()
        distances, found = self.index.search(queries, k, **options)
        every, slack, ids = self.exact_distances(queries, kept)
        n, sign = min(k, len(ids)), -1 if self.metric == "dot" else 1
        assert distances.shape == found.shape == (len(queries), k)
        assert (found[:, n:] == -1).all() and (sign * distances[:, n:] == np.inf).all()
        if n:
            self.check_nearest(sign * distances[:, :n], found[:, :n], every, slack, ids)

    def check_nearest(
        self, distances: Array, found: Array, every: Array, slack: Array, ids: Array
    ) -> None:
        """Found ids are distinct, held, in order and the nearest, at their distances."""
        place = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
        assert (ids[place] == found).all() and all(
            len(set(row)) == len(row) for row in found.tolist()
        )
        true, off = np.take_along_axis(every, place, 1), np.take_along_axis(slack, place, 1)
        assert (np.abs(distances - true) <= off + EPS * np.abs(true)).all()
        rows = np.stack([self.held[i] for i in ids.tolist()])[place]
        alike = (rows[:, 1:] == rows[:, :-1]).all(2)
        assert (np.diff(distances, axis=1) >= 0).all() and (np.diff(found, axis=1)[alike] > 0).all()
        if self.complete:
            best = np.sort(every, axis=1)[:, found.shape[1] - 1]
            assert (true.max(1, initial=-np.inf) <= best + 2 * slack.max(1, initial=0)).all()

    def range_search(self, kind: str) -> None:
        queries = self.vectors(kind, 2)
        options, kept = self.filtered()
        every, slack, ids = self.exact_distances(queries, kept)
        middle = np.float32(np.median(every)) if every.size else np.float32(1)
        sign = -1 if self.metric == "dot" else 1
        lims, distances, found = self.index.range_search(queries, float(sign * middle), **options)
        assert lims[-1] == len(found) == len(distances)
        for i in range(2):
            got = set(found[lims[i] : lims[i + 1]].tolist())
            if self.complete:
                assert {*ids[every[i] < middle - slack[i] - EPS * abs(middle)].tolist()} <= got
            assert got <= {*ids[every[i] < middle + slack[i] + EPS * abs(middle)].tolist()}

    def reconstruct(self) -> None:
        ids = [i for i in self.held if self.rng.random() < 0.3]
        kept = self.index.reconstruct_batch(ids)
        assert kept.shape == (len(ids), D)
        np.testing.assert_array_equal(kept, np.reshape([self.held[i] for i in ids], (-1, D)))
        absent = next(i for i in range(len(self.held) + 1) if i not in self.held)
        with pytest.raises(ValueError, match=f"id={absent} is not in the index"):
            self.index.reconstruct(absent)

    def save(self) -> None:
        self.index.save(self.path)
        if self.rng.random() < 0.5:
            self.index = load_index(self.path, mmap=True)
            self.set_backend()
            self.search("plain", 5)
            self.range_search("again")
            self.reconstruct()
        self.index = load_index(self.path)
        self.set_backend()


def run(case: tuple[str, str], path: Path, number: int | None = None) -> None:
    """Let an index live some lives: the same ones every time, or others by a number."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=number is None,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        st.sampled_from(["cpu", "cpu", "portable", "reference"]),
        st.lists(steps, min_size=4, max_size=40),
    )
    def live(backend: str, life: list[tuple[Any, ...]]) -> None:
        index = Life(*case, backend, path / "index")
        for step in [*life, ("search", 0, "plain", 5), ("reconstruct", 0)]:
            index.run(step)

    (live if number is None else seed(number)(live))()


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_lives(case: tuple[str, str], tmp_path: Path) -> None:
    run(case, tmp_path)


def test_random_lives(fuzz_minutes: float, tmp_path: Path) -> None:
    end = time.monotonic() + 60 * fuzz_minutes
    while time.monotonic() < end:
        case, number = CASES[secrets.randbelow(len(CASES))], secrets.randbits(32)
        print(f"run({case}, path, {number})")  # what repeats a failure
        run(case, tmp_path, number)
