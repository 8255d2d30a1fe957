"""What all indexes share: their verbs, the checks of arguments, ids, and the lock between searches and changes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from .. import backends, validation
from ..errors import BackendUnavailableError, NotFittedError
from . import io
from .lock import ReadersWriterLock
from .training import vectors

__all__ = ["Index", "load_index"]

MOST_FOUND = 1 << 22  # results of a range search that are ranked at a time

# What `restored` raises where a state is damaged.
DAMAGE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    BackendUnavailableError,
)

Found = tuple[np.ndarray, np.ndarray]
_KINDS: dict[str, type[Index]] = {}


class Index(ABC):
    """Vectors with ids, to be searched. Vectors are stored, compared and returned as float32.

    Searches may run in many threads at once; train, add and remove_ids wait for those that run, and later ones for them: so
    searching while another thread adds is safe, and a search sees an index before or after an add, never within.

    Args:
        d: dimensions of the vectors.
        metric: what distances are, as in `knn`: "euclidean" (squared), "cosine" (1 - cos), "dot" (a similarity).
        backend: "cpu", "metal", "portable", "reference", or None for the best one on MLX's default device.

    Attributes:
        d, metric, backend: as given.
    """

    metrics: ClassVar[tuple[str, ...]] = ("euclidean", "cosine", "dot")

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    def __init__(self, d: int, metric: str = "euclidean", *, backend: str | None = None) -> None:
        self.d = validation.check_count("d", d, 1)
        self.metric = validation.check_choice("metric", metric, self.metrics)
        backends.resolve(backend)
        self.backend = backend
        self._lock = ReadersWriterLock()
        self._next_id = 0

    @property
    @abstractmethod
    def ntotal(self) -> int:
        """Vectors in the index."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added."""

    def train(self, x: Any) -> None:
        """Learn from vectors x (N, D) what is needed before vectors can be added; they need not be those.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; the index holds vectors already.

        Warns:
            UserWarning: there are fewer than 39 points per centroid.
        """
        rows = self._vectors(x, "x")[0]
        with self._lock.writing():
            if self.ntotal:
                raise ValueError(f"train needs an empty index, this one holds ntotal={self.ntotal} vectors: make a new one")
            self._train(rows)

    def add(self, x: Any, ids: Any = None) -> None:
        """Add vectors x (N, D).

        Args:
            x: `mx.array` or NumPy.
            ids: (N,) distinct integers >= 0 that the index does not hold; None for the next ones: 0, 1, ... or those that
                follow the largest ever added.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound. (faiss takes an id twice; we don't.)
            NotFittedError: the index is not trained.
        """
        self._insert(x, ids)

    def search(self, x: Any, k: int) -> tuple[Any, Any]:
        """The k nearest vectors for every query.

        Args:
            x: (Q, D) queries, `mx.array` or NumPy.
            k: neighbours of every query, may be more than `ntotal`.

        Returns:
            ``distances (Q, k) float32, ids (Q, k) int64``, nearest first, equal distances by id; `mx.array` if x is one.
            Where fewer than k were found, ids are -1 and distances inf, or -inf for "dot".

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound.
            NotFittedError: the index is not trained.
        """
        return self._k_nearest(x, k)

    def range_search(self, x: Any, radius: float) -> tuple[Any, Any, Any]:
        """All vectors nearer than a radius, or for "dot" of a larger product than it.

        Args:
            x: (Q, D) queries, `mx.array` or NumPy.
            radius: in the units of the distances.

        Returns:
            ``lims (Q + 1,) int64, distances float32, ids int64``: those of query i are ``lims[i]:lims[i + 1]``, nearest first.
        """
        return self._all_within(x, radius)

    def reconstruct(self, id: int) -> np.ndarray:  # noqa: A002  # faiss's name for it is key
        """(D,) float32: the vector of an id, as far as the index keeps it.

        Raises:
            ValueError: the index has no such id.
        """
        return self.reconstruct_batch(np.array([validation.check_count("id", id, 0)]))[0]

    def reconstruct_batch(self, ids: Any) -> np.ndarray:
        """(M, D) float32: the vectors of ids (M,), as far as the index keeps them.

        Raises:
            ValueError, TypeError: the index has no such id; ids are not integers, or not of shape (M,).
        """
        wanted = _integers(ids)
        with self._lock.reading():
            places = self._places(wanted) if self.ntotal else np.full(len(wanted), -1)
            if len(missing := wanted[places < 0]):
                raise ValueError(f"id={missing[0]} is not in the index (ntotal={self.ntotal})")
            return self._rows_at(places) if len(wanted) else np.zeros((0, self.d), np.float32)

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids (M,); returns how many there were. Others keep their ids."""
        wanted = np.unique(_integers(ids))
        with self._lock.writing():
            place = self._places(wanted) if self.ntotal else np.zeros(0, np.int64)
            place = place[place >= 0]
            if len(place):
                self._remove(place)
            return len(place)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, atomically; `load_index` reads it on any machine."""
        with self._lock.reading():
            parameters, arrays = self.state()
            io.write(path, type(self).__name__, parameters, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """An index of this class that `save` wrote; see `load_index`."""
        index = load_index(path)
        if not isinstance(index, cls):
            raise ValueError(f"cannot load {os.fspath(path)!r}: it holds an {type(index).__name__}, not an {cls.__name__}")
        return index

    # What an index of its own kind defines. The lock is held; arguments are checked; arrays are NumPy's.

    @abstractmethod
    def _train(self, rows: np.ndarray) -> None:
        """Learn from rows (N, D) float32."""

    @abstractmethod
    def _add(self, rows: np.ndarray, ids: np.ndarray) -> None:
        """Add rows (N, D) float32 with new ids (N,) int64."""

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int, **how: Any) -> Found:
        """(Q, k) float32 distances and int64 ids for queries (Q, D) float32, k <= ntotal, in order; id -1 for none."""

    @abstractmethod
    def _places(self, ids: np.ndarray) -> np.ndarray:
        """(M,) int64: where in its own storage it has each id, -1 for nowhere."""

    @abstractmethod
    def _rows_at(self, places: np.ndarray) -> np.ndarray:
        """(M, D) float32: the vectors there."""

    @abstractmethod
    def _remove(self, places: np.ndarray) -> None:
        """Remove the vectors there."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `restore` makes the index from: (parameters for JSON, arrays)."""

    @classmethod
    @abstractmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Index:
        """The index with that state, which may be damaged: KeyError, TypeError or ValueError then."""

    # Shared by all kinds.

    def _restore_next_id(self, next_id: Any, ids: np.ndarray) -> None:
        """Go on with own ids where a state did, after the largest of `ids`."""
        self._next_id = max(validation.check_count("next_id", next_id, 0), int(ids.max(initial=-1)) + 1)

    def _vectors(self, x: Any, name: str) -> tuple[np.ndarray, bool]:
        """((N, D) float32 in C order, whether x is an `mx.array`)."""
        return vectors(x, self.d, name)

    def _insert(self, x: Any, ids: Any) -> np.ndarray:
        """`add`, which returns the ids (N,) int64."""
        rows = self._vectors(x, "x")[0]
        with self._lock.writing():
            self._check_trained("add")
            ids = self._new_ids(ids, len(rows))
            self._add(rows, ids)
            self._next_id = max(self._next_id, int(ids.max()) + 1)
            return ids

    def _check_trained(self, verb: str) -> None:
        if not self.is_trained:
            raise NotFittedError(f"{verb} needs a trained index: call train first")

    def _new_ids(self, ids: Any, n: int) -> np.ndarray:
        if ids is None:
            return np.arange(self._next_id, self._next_id + n)
        given = _integers(ids)
        if given.shape != (n,):
            raise ValueError(f"ids must have shape (N,)=({n},), got {given.shape}")
        ordered = np.sort(given)
        if ordered[0] < 0 or ordered[-1] == np.iinfo(np.int64).max:
            raise ValueError(f"ids must be >= 0 and < 2**63 - 1, got {ordered[0] if ordered[0] < 0 else ordered[-1]}")
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(f"ids must be distinct, got {twice[0]} more than once (ids.shape={given.shape})")
        if ordered[0] < self._next_id and self.ntotal and (taken := given[self._places(given) >= 0]).size:
            raise ValueError(f"ids must be new, got {taken[0]}, which the index holds (ids.shape={given.shape})")
        return given

    def _k_nearest(self, x: Any, k: int, **how: Any) -> tuple[Any, Any]:
        queries, mlx = self._vectors(x, "x")
        k = validation.check_count("k", k, 1)
        with self._lock.reading():
            self._check_trained("search")
            most = min(k, self.ntotal)
            found = self._search(queries, most, **how) if most else self._nothing((len(queries), 0))
        if most < k:
            none = self._nothing((len(queries), k - most))
            found = np.concatenate([found[0], none[0]], 1), np.concatenate([found[1], none[1]], 1)
        return (mx.array(found[0]), mx.array(found[1])) if mlx else found

    def _nothing(self, shape: tuple[int, int]) -> Found:
        return np.full(shape, -np.inf if self.metric == "dot" else np.inf, np.float32), np.full(shape, -1, np.int64)

    def _all_within(self, x: Any, radius: float, **how: Any) -> tuple[Any, Any, Any]:
        queries, mlx = self._vectors(x, "x")
        if isinstance(radius, bool) or not isinstance(radius, (int, float, np.integer, np.floating)) or not np.isfinite(radius):
            raise ValueError(f"radius={radius!r} must be a finite number")
        sign = -1 if self.metric == "dot" else 1
        found = [self._nothing((1, 0))] * len(queries)
        with self._lock.reading():
            self._check_trained("range_search")
            todo, k = np.arange(len(queries) if self.ntotal else 0), 128
            while len(todo):  # again with a larger k where all of the k nearest are inside
                k, again = min(k, self.ntotal), []
                for some in np.array_split(todo, -(-len(todo) * k // MOST_FOUND)):
                    distances, ids = self._search(queries[some], k, **how)
                    inside = ((sign * distances < sign * radius) & (ids >= 0)).sum(1)
                    for i, query in enumerate(some):
                        found[query] = distances[i : i + 1, : inside[i]], ids[i : i + 1, : inside[i]]
                    again.append(some[(inside == k) & (k < self.ntotal)])
                todo, k = np.concatenate(again), 8 * k
        lims = np.cumsum([0] + [part[1].size for part in found])
        parts = lims, *(np.concatenate([part[j][0] for part in found]) for j in (0, 1))
        return tuple(mx.array(part) for part in parts) if mlx else parts  # pyright: ignore[reportReturnType]  # three of them


def load_index(path: str | os.PathLike[str]) -> Index:
    """An index that `save` wrote, of whichever class, in a file from any machine. Nothing is unpickled.

    Raises:
        OSError: the file can't be opened.
        ValueError: not such a file, of a newer format, truncated or damaged; the message says which.
    """
    name, parameters, arrays = io.read(path)
    try:
        return restored(name, parameters, arrays)
    except DAMAGE as error:
        raise ValueError(f"cannot load {os.fspath(path)!r}: it is a damaged {name} ({error}); save it again") from error


def restored(name: str, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Index:
    """The index of a class by its name and state."""
    if name not in _KINDS:
        raise ValueError(f"no class of indexes is called {name!r}")
    io.check_sizes(parameters, arrays)
    return _KINDS[name].restore(parameters, arrays)


def _integers(ids: Any) -> np.ndarray:
    """(M,) int64."""
    given = np.asarray(ids)
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"ids must be integers, got dtype {given.dtype}")
    if given.ndim != 1:
        raise ValueError(f"ids must have shape (N,), got {given.shape}")
    if given.dtype == np.uint64 and given.size and given.max() >= np.uint64(1 << 63):
        raise ValueError(f"ids must be < 2**63 - 1, got {given.max()}")
    return given.astype(np.int64)
