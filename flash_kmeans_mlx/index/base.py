"""The base class of all indexes: their verbs, and how searches and changes run side by side.

Searches need no lock. All that `train`, `add` and `remove_ids` change is in one snapshot, a
NamedTuple that never changes, except for caches (`Index._snapshot`):

- A search reads the present snapshot once, when it begins, and uses no other.
- A change makes the next snapshot from the present one. Both may share arrays: the change writes
  only where no search with an older snapshot looks, for example behind the last row.
- One assignment puts the next snapshot in place when it is complete. After an error or an interrupt
  before that, the index is as it was. Changes run one at a time, see `lock.Lock`.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from .. import backends, validation
from ..files.mapped import is_mapped
from . import index_file
from .arguments import check_radius, integers, vectors
from .faiss_words import FaissWords, metric_name
from .filters import FilteredSearch, allowed
from .lock import Lock
from .registry import load_index, register, restore_index
from .results import Found, no_results, padded, to_caller, within_radius
from .search_parameters import chosen_ids, options_of
from .sources import rows_to_add, rows_to_train

__all__ = ["Index", "load_index", "restore_index"]

T = TypeVar("T")


class Index(FaissWords):
    """Vectors with ids, to be searched. Vectors are stored, compared and returned as float32.

    Searches may run in many threads while another thread trains, adds or removes: they see the
    index before or after that change, never within. A change that fails or is interrupted leaves
    the index as it was, or has been made in full.

    Args:
        d: Dimensions of the vectors.
        metric: Distance, as in `knn`: "euclidean" (squared), "cosine" (1 - cos) or "dot" (a
            similarity); METRIC_L2 and METRIC_INNER_PRODUCT of faiss are the first and the last.
        backend: As in `knn`.

    Attributes:
        d, metric, backend: As given.
        verbose: Whether `train` prints a line per iteration; False at first.
    """

    # A NamedTuple of the class's own, with a field `next_id`.
    _snapshot: Any

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(cls)

    def __init__(
        self, d: int, metric: str | int = "euclidean", *, backend: str | None = None
    ) -> None:
        self.d = validation.check_count("d", d, 1)
        self.metric = validation.check_choice("metric", metric_name(metric), self.metrics)
        backends.resolve(backend)
        self.backend = backend
        self.verbose = False
        self._lock = Lock()

    @property
    def ntotal(self) -> int:
        """Number of vectors in the index."""
        return self._count(self._snapshot)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self._is_ready(self._snapshot)

    def train(self, x: Any, *, verbose: bool = False) -> None:
        """Learn from vectors x (N, D) what the index needs before vectors can be added.

        Args:
            x: (N, D) vectors, or files as in `batch_kmeans_Euclid`, of which a sample is read. They
                are not added, and others may be added later.
            verbose: Print a line per iteration of each stage: "rotation", "lists", "codebooks"; the
                attribute `verbose` does too.

        Raises:
            ValueError, TypeError: The message names the argument; or the index holds vectors.

        Warns:
            UserWarning: There are fewer than 39 points per centroid.
        """
        verbose = validation.check_flag("verbose", verbose) or bool(self.verbose)
        rows = rows_to_train(x, self.d, self._limit)

        def trained(snapshot: Any) -> tuple[Any, None]:
            if n := self._count(snapshot):
                raise ValueError(
                    f"train needs an empty index, this one holds ntotal={n} vectors: make a new one"
                )
            return self._after_train(snapshot, rows, verbose), None

        self._change(trained)

    def add(self, x: Any, ids: Any = None) -> None:
        """Add vectors x (N, D).

        Args:
            x: (N, D) vectors, `mx.array` or NumPy, or files, which are read piece by piece.
            ids: (N,) distinct integers >= 0 that the index does not hold; None for the next ones:
                0, 1, ... or those that follow the largest id ever added.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound. An id
                that the index holds is an error here; faiss accepts it.
            NotFittedError: The index is not trained.
        """
        self._insert(x, ids)

    def search(
        self,
        x: Any,
        k: int,
        *,
        nprobe: int | None = None,
        ef: int | None = None,
        k_factor: float | None = None,
        ids: Any = None,
        exclude: Any = None,
        params: Any = None,
    ) -> tuple[Any, Any]:
        """Find the k nearest vectors of every query.

        Args:
            x: (Q, D) queries, `mx.array` or NumPy.
            k: Neighbours of every query; may be more than `ntotal`.
            nprobe: Lists to look at, whatever the filter; None for the attribute. Without effect
                where there are no lists, and more than all are all.
            ef: Candidates that a graph keeps, at least k; None for the attribute. Without effect
                where there is no graph.
            k_factor: Candidates of an `IndexRefine` for each neighbour, >= 1; None for the
                attribute. Without effect for others.
            ids: The ids that may be found: integers (M,), a mask (L,) bool over ids 0..L-1, a
                `range`, or a selector of faiss; None for all. Those that the index does not hold do
                not matter.
            exclude: The ids that may not be found, likewise; None for none.
            params: An object with some of the attributes `nprobe`, `efSearch`, `k_factor` and `sel`
                (in place of `ids`), like `SearchParametersIVF`; arguments win.

        Returns:
            ``distances (Q, k) float32, ids (Q, k) int64``, nearest first, equal distances by id;
            `mx.array` if x is one. Where fewer than k were found, ids are -1 and distances inf, or
            -inf for "dot". With a filter, they are as if there were no other vectors.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
            NotFittedError: The index is not trained.
        """
        options = {"nprobe": nprobe, "ef": ef, "k_factor": k_factor, "params": params}
        return self._k_nearest(x, k, ids, exclude, **options)

    def range_search(
        self,
        x: Any,
        radius: float,
        *,
        nprobe: int | None = None,
        ef: int | None = None,
        k_factor: float | None = None,
        ids: Any = None,
        exclude: Any = None,
        params: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Find all vectors nearer than a radius; for "dot", all whose product is larger than it.

        Args:
            x: (Q, D) queries, `mx.array` or NumPy.
            radius: In the units of the distances.
            nprobe: Lists to look at, as in `search`.
            ef: Candidates that a graph keeps, as in `search`.
            k_factor: Candidates of an `IndexRefine`, as in `search`.
            ids: The ids that may be found, as in `search`.
            exclude: The ids that may not be found.
            params: An object as in `search`.

        Returns:
            ``lims (Q + 1,) int64, distances float32, ids int64``: The results of query i are
            ``lims[i]:lims[i + 1]``, nearest first.
        """
        options = {"nprobe": nprobe, "ef": ef, "k_factor": k_factor, "params": params}
        return self._all_within(x, radius, ids, exclude, **options)

    def reconstruct(self, id: int) -> np.ndarray:  # noqa: A002  # faiss's name for it
        """Return the vector (D,) float32 of an id, as exactly as the index keeps it.

        Raises:
            ValueError: The index has no such id.
        """
        return self.reconstruct_batch(np.array([validation.check_count("id", id, 0)]))[0]

    def reconstruct_batch(self, ids: Any) -> np.ndarray:
        """Return the vectors (M, D) float32 of ids (M,), as exactly as the index keeps them.

        Raises:
            ValueError, TypeError: The index has no such id, or ids are not integers (M,).
        """
        wanted = integers(ids)
        snapshot = self._snapshot
        n = self._count(snapshot)
        places = self._places(snapshot, wanted) if n else np.full(len(wanted), -1)
        if len(missing := wanted[places < 0]):
            raise ValueError(f"id={missing[0]} is not in the index (ntotal={n})")
        return self._rows_at(snapshot, places) if len(wanted) else np.zeros((0, self.d), np.float32)

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors and return how many there were; others keep their ids.

        `ids` are as in `search`: integers (M,), a mask, a `range`, or a selector.
        """
        chosen = chosen_ids(ids)
        return self._change(lambda snapshot: self._without(snapshot, chosen(self._ids, snapshot)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, which is replaced in one step."""
        index_file.write(path, type(self).__name__, *self.state())

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what `restore` makes the index from: (parameters for JSON, arrays)."""
        return self._state(self._snapshot)

    @classmethod
    @abstractmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Index:
        """Return the index with that state; KeyError, TypeError or ValueError if it is damaged."""

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, mmap: bool = False) -> Index:
        """Load an index of this class that `save` wrote; see `load_index`."""
        index = load_index(path, mmap=mmap)
        if not isinstance(index, cls):
            raise ValueError(
                f"cannot load {os.fspath(path)!r}: it holds an {type(index).__name__},"
                f" not an {cls.__name__}"
            )
        return index

    def _insert(self, x: Any, ids: Any) -> np.ndarray:
        """Do what `add` does, and return the ids (N,) int64."""
        n, pieces = rows_to_add(x, self.d, self._limit)

        def added(snapshot: Any) -> tuple[Any, np.ndarray]:
            self._check_trained("add", snapshot)
            new_ids = self._new_ids(snapshot, ids, n)
            if not n:
                return snapshot, new_ids
            return self._with_rows(snapshot, pieces, new_ids), new_ids

        return self._change(added)

    def _change(self, make_next: Callable[[Any], tuple[Any, T]]) -> T:
        """Put in place the snapshot that `make_next` makes, and return its second result."""
        self._check_changeable()

        def publish() -> T:
            self._snapshot, result = make_next(self._snapshot)
            return result

        return self._lock.run(publish)

    def _restore_next_id(self, next_id: Any, ids: np.ndarray) -> None:
        """Continue with the next id of a saved state, but after the largest of `ids`.

        Ids that are mapped are not read: none will be added.
        """
        following = 0 if is_mapped(ids) else int(ids.max(initial=-1)) + 1
        next_id = max(validation.check_count("next_id", next_id, 0), following)
        self._snapshot = self._snapshot._replace(next_id=next_id)

    def _k_nearest(
        self,
        x: Any,
        k: int,
        ids: Any = None,
        exclude: Any = None,
        *,
        snapshot: Any = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Do what `search` does, in a snapshot or the present one; options go to `_search`."""
        queries, is_mlx = vectors(x, self.d, self._limit)
        k = validation.check_count("k", k, 1)
        snapshot = self._snapshot if snapshot is None else snapshot
        self._check_trained("search", snapshot)
        search, n = self._filtered(snapshot, ids, exclude, options)
        available = min(k, n) if len(queries) else 0
        if available:
            found = search(queries, available)
        else:
            found = no_results((len(queries), 0), self.metric)
        if available < k:
            found = padded(found, k, self.metric)
        return to_caller(found, is_mlx)

    def _all_within(
        self, x: Any, radius: float, ids: Any = None, exclude: Any = None, **options: Any
    ) -> tuple[Any, Any, Any]:
        """Do what `range_search` does; options go to `_search`."""
        queries, is_mlx = vectors(x, self.d, self._limit)
        check_radius(radius)
        snapshot = self._snapshot
        self._check_trained("range_search", snapshot)
        search, n = self._filtered(snapshot, ids, exclude, options)
        return to_caller(within_radius(search, queries, n, radius, self.metric), is_mlx)

    def _filtered(
        self, snapshot: Any, ids: Any, exclude: Any, options: dict[str, Any]
    ) -> tuple[Callable[[np.ndarray, int], Found], int]:
        """Return a search among the vectors that a filter allows, and how many there are."""
        options, ids = options_of(options, ids)
        search = partial(self._search, snapshot, **options)
        n = self._count(snapshot)
        if ids is None and exclude is None:
            return search, n
        held = self._ids(snapshot)
        mark = allowed(held, ids, exclude)
        if mark.all():
            return search, n
        find = partial(self._places, snapshot)
        filtered = FilteredSearch(search, held, mark, find, self.metric)
        return filtered, filtered.n
