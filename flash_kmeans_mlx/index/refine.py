"""IndexRefine: candidates of a compressed index, ranked by their vectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..files.mapped import is_mapped
from .base import Index, restore_index
from .candidates import nearest_of
from .flat import IndexFlat
from .pretransform import without_matrix
from .results import RANKED_AT_ONCE, Found
from .search_parameters import check_k_factor, options_of
from .sources import TrainingRows
from .wrapper import Wrapper

__all__ = ["IndexRefine"]

BASE, REFINE = "base.", "refine."  # before the names of arrays in files


class _RefineSnapshot(NamedTuple):
    """Snapshots of both indexes, which belong together.

    Attributes:
        next_id: The id of the next vector without an id.
        base: Of the index that finds candidates.
        refine: Of the vectors.
    """

    next_id: int
    base: Any
    refine: Any


class IndexRefine(Wrapper):
    """An index whose results are ranked again by their exact distances, as faiss's IndexRefineFlat.

    A search for k neighbours asks another index for ``k * k_factor`` candidates, computes their
    distances in float64 from the vectors themselves, and returns the k nearest. With every vector a
    candidate, results are those of `IndexFlat`. Finding candidates takes the time of the other
    index; ranking takes O(k k_factor d) for a query, and reads nothing but the candidates.

    A vector takes 4 d + 8 bytes beside those of the other index. They may stay in a file: an
    IndexFlat of ``load_index(path, mmap=True)`` will do for searches, and only for these.

    `range_search` finds vectors whose exact distances are within the radius. It asks for
    ``128 * k_factor`` candidates, and for 8 times as many where all of the first 128 are within.
    So it misses a vector that the other index ranks behind all of these.

    Args:
        base_index: The index that finds candidates, of any class but this one; like `refine_index`
            it is used by nothing else.
        refine_index: An `IndexFlat` of the same d and metric with all ids of `base_index`; None for
            a new one, where `base_index` has no vectors. If it is mapped, searches check the ids.
        k_factor: Candidates for each neighbour, >= 1; an attribute too, and an argument of
            `search`. faiss's default is 1, with which only the order of the results changes.

    Attributes:
        base_index, refine_index, k_factor: As given.
        nprobe, ef, nlist: Of `base_index`.

    Example:
        >>> import numpy as np
        >>> from flash_kmeans_mlx.index import IndexPQ
        >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
        >>> index = IndexRefine(IndexPQ(8, 4, nbits=4))
        >>> index.train(x)
        >>> index.add(x)
        >>> distances, ids = index.search(x[:3], 5, k_factor=10)
        >>> ids[:, 0].tolist(), distances[:, 0].tolist()
        ([0, 1, 2], [0.0, 0.0, 0.0])
    """

    metrics = IndexFlat.metrics

    def __init__(
        self, base_index: Index, refine_index: IndexFlat | None = None, k_factor: float = 4.0
    ) -> None:
        if not isinstance(base_index, Index) or isinstance(base_index, IndexRefine):
            kind = type(base_index).__name__
            raise TypeError(f"base_index must be an Index and no IndexRefine, got {kind}")
        if refine_index is None:
            refine_index = IndexFlat(base_index.d, base_index.metric, backend=base_index.backend)
        if not isinstance(refine_index, IndexFlat):
            kind = type(refine_index).__name__
            raise TypeError(f"refine_index must be an IndexFlat or None, got {kind}")
        for name in ("d", "metric"):
            ours, theirs = getattr(refine_index, name), getattr(base_index, name)
            if ours != theirs:
                raise ValueError(
                    f"refine_index.{name}={ours!r} must be base_index.{name}={theirs!r}"
                )
        super().__init__(base_index.d, base_index.metric, backend=base_index.backend)
        self.base_index = base_index
        self.refine_index = refine_index
        self.k_factor = k_factor
        self._limit = base_index._limit
        base, refine = base_index._snapshot, refine_index._snapshot
        self._present = _RefineSnapshot(max(base.next_id, refine.next_id), base, refine)
        self._check_vectors()

    def _check_vectors(self) -> None:
        """Refuse vectors that lack an id of the candidates."""
        snapshot = self._present
        n, n_vectors = self._count(snapshot), snapshot.refine.n
        if n > n_vectors:
            raise ValueError(
                f"refine_index.ntotal={n_vectors} must be >= base_index.ntotal={n}:"
                " add the same vectors with the same ids to both"
            )
        if n and not is_mapped(snapshot.refine.rows.array):
            self._vectors_at(snapshot, self._ids(snapshot))

    def _vectors_at(self, snapshot: _RefineSnapshot, ids: np.ndarray) -> np.ndarray:
        """Return the places of ids (...) among the vectors; -1 for the id -1."""
        places = self.refine_index._places(snapshot.refine, ids)
        is_missing = (places < 0) & (ids >= 0)
        if is_missing.any():
            raise ValueError(
                f"refine_index must hold all ids of base_index, and lacks {ids[is_missing][0]}"
            )
        return places

    def _parts(self) -> tuple[Index, ...]:
        return self.base_index, self.refine_index

    @property
    def k_factor(self) -> float:
        """Number of candidates for each neighbour that a search asks for by default."""
        return self._k_factor

    @k_factor.setter
    def k_factor(self, value: float) -> None:
        self._k_factor = check_k_factor(value)

    @property
    def _snapshot(self) -> Any:
        """The present snapshots of both: they were put in place by one assignment."""
        return self._present

    @_snapshot.setter
    def _snapshot(self, snapshot: _RefineSnapshot) -> None:
        self._present = snapshot._replace(base=without_matrix(snapshot.base))
        self.refine_index._snapshot = snapshot.refine
        # The matrix of a transformation last: only with it is the index trained.
        self.base_index._snapshot = snapshot.base

    def _reader(self) -> Any:
        reader = super()._reader()
        base, refine = (part._reader() for part in self._parts())
        base._snapshot, refine._snapshot = reader._present.base, reader._present.refine
        vars(reader).update(base_index=base, refine_index=refine)
        return reader

    def _count(self, snapshot: _RefineSnapshot) -> int:
        return self.base_index._count(snapshot.base)

    def _is_ready(self, snapshot: _RefineSnapshot) -> bool:
        return self.base_index._is_ready(snapshot.base)

    def _after_train(
        self, snapshot: _RefineSnapshot, rows: TrainingRows, verbose: bool
    ) -> _RefineSnapshot:
        return snapshot._replace(base=self.base_index._after_train(snapshot.base, rows, verbose))

    def _new_ids(self, snapshot: _RefineSnapshot, ids: Any, n: int) -> np.ndarray:
        new = super()._new_ids(snapshot, ids, n)
        if ids is not None and n and snapshot.refine.n > self._count(snapshot):
            places = self.refine_index._places(snapshot.refine, new)
            if (places >= 0).any():
                raise ValueError(f"ids must be new, got {new[places >= 0][0]}, of refine_index")
        return new

    def _reserve(self, snapshot: _RefineSnapshot, n: int) -> None:
        self.base_index._reserve(snapshot.base, n)
        self.refine_index._reserve(snapshot.refine, n)

    def _after_add(
        self, snapshot: _RefineSnapshot, rows: np.ndarray, ids: np.ndarray
    ) -> _RefineSnapshot:
        # After an interrupt it may be older, and IndexHNSW changes graphs that it does not have.
        self.base_index._snapshot = self._present.base
        refine = self.refine_index._after_add(snapshot.refine, rows, ids)
        base = self.base_index._after_add(snapshot.base, rows, ids)
        return snapshot._replace(base=base, refine=refine)

    def _after_remove(self, snapshot: _RefineSnapshot, places: np.ndarray) -> _RefineSnapshot:
        ids = self._ids(snapshot)[places]
        refine = self.refine_index._after_remove(
            snapshot.refine, self.refine_index._places(snapshot.refine, ids)
        )
        base = self.base_index._after_remove(
            snapshot.base, self.base_index._places(snapshot.base, ids)
        )
        return snapshot._replace(base=base, refine=refine)

    def _search(
        self,
        snapshot: _RefineSnapshot,
        queries: np.ndarray,
        k: int,
        places: np.ndarray | None = None,
        k_factor: float | None = None,
        **options: Any,
    ) -> Found:
        n = self._count(snapshot)
        if places is not None:
            n = len(places)
            places = self.base_index._places(snapshot.base, self._ids(snapshot)[places])
        search = partial(self.base_index._search, snapshot.base, places=places, **options)
        return self._refined(snapshot, search, n, k_factor, queries, k)

    def _filtered(
        self, snapshot: _RefineSnapshot, ids: Any, exclude: Any, options: dict[str, Any]
    ) -> tuple[Callable[[np.ndarray, int], Found], int]:
        options, ids = options_of(options, ids)
        k_factor = options.pop("k_factor", None)
        search, n = self.base_index._filtered(snapshot.base, ids, exclude, options)
        return partial(self._refined, snapshot, search, n, k_factor), n

    def _refined(
        self,
        snapshot: _RefineSnapshot,
        search: Callable[[np.ndarray, int], Found],
        n: int,
        k_factor: float | None,
        queries: np.ndarray,
        k: int,
    ) -> Found:
        """Return the k nearest of the candidates that a search among n vectors finds."""
        m = min(n, int(k * (self.k_factor if k_factor is None else k_factor)))
        rows = snapshot.refine.rows.array
        n_parts = -(-len(queries) * m // RANKED_AT_ONCE)
        parts = []
        for part in np.array_split(queries, n_parts) if n_parts > 1 else (queries,):
            _, ids = search(part, m)
            places = self._vectors_at(snapshot, ids)
            parts.append(nearest_of(part, rows, places, ids, k, self.metric, self.backend))
        if len(parts) == 1:
            return parts[0]
        distances, found = zip(*parts, strict=True)
        return np.concatenate(distances), np.concatenate(found)

    def _ids(self, snapshot: _RefineSnapshot) -> np.ndarray:
        return self.base_index._ids(snapshot.base)

    def _places(self, snapshot: _RefineSnapshot, ids: np.ndarray) -> np.ndarray:
        held = self._ids(snapshot)
        place = np.minimum(np.searchsorted(held, ids), len(held) - 1)
        return np.where(held[place] == ids, place, -1)

    def _rows_at(self, snapshot: _RefineSnapshot, places: np.ndarray) -> np.ndarray:
        ids = self._ids(snapshot)[places]
        return self.refine_index._rows_at(snapshot.refine, self._vectors_at(snapshot, ids))

    def _part(self, snapshot: _RefineSnapshot, ids: np.ndarray) -> dict[str, np.ndarray]:
        part = self.base_index._part(snapshot.base, ids)
        rows = self._rows_at(snapshot, self._places(snapshot, part["ids"]))
        return _named(BASE, part) | {"rows": rows, "ids": part["ids"]}

    def _after_merge(
        self, snapshot: _RefineSnapshot, part: dict[str, np.ndarray]
    ) -> _RefineSnapshot:
        ids = part["ids"]
        refine = self.refine_index._after_merge(snapshot.refine, part)
        base = self.base_index._after_merge(snapshot.base, _of(BASE, part) | {"ids": ids})
        return snapshot._replace(base=base, refine=refine)

    def _parameters(self, snapshot: _RefineSnapshot) -> dict[str, Any]:
        base = snapshot.base._replace(next_id=snapshot.next_id)
        return {
            "k_factor": self.k_factor,
            "next_id": snapshot.next_id,
            "class": type(self.base_index).__name__,
            "base": self.base_index._parameters(base),
        }

    def _state(self, snapshot: _RefineSnapshot) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        _, base = self.base_index._state(snapshot.base)
        _, refine = self.refine_index._state(snapshot.refine)
        return self._parameters(snapshot), _named(BASE, base) | _named(REFINE, refine)

    @classmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> IndexRefine:
        base = restore_index(parameters["class"], parameters["base"], _of(BASE, arrays))
        next_id = parameters["next_id"]
        of_vectors = {"d": base.d, "metric": base.metric, "next_id": next_id}
        refine = restore_index(IndexFlat.__name__, of_vectors, _of(REFINE, arrays))
        index = cls(base, refine, parameters["k_factor"])
        index._restore_next_id(next_id, np.array([index._present.next_id - 1]))
        return index


def _named(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays with a prefix before their names."""
    return {prefix + name: array for name, array in arrays.items()}


def _of(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names have a prefix, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
