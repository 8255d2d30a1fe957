"""What all indexes share: their verbs, the checks of arguments, ids, and the lock between searches and changes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np

from .. import backends, validation
from ..errors import BackendUnavailableError, NotFittedError
from . import io
from .lock import Lock
from .training import vectors

__all__ = ["Index", "load_index"]

MOST_FOUND = 1 << 22  # results of a range search that are ranked at a time
LARGEST_ID = 2**63 - 2  # so that the one after it is an int64 too

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
T = TypeVar("T")
_KINDS: dict[str, type[Index]] = {}


class Index(ABC):
    """Vectors with ids, to be searched. Vectors are stored, compared and returned as float32.

    Searches may run in many threads at once, while another one trains, adds or removes: they see the
    index before or after it, never within. A change that fails or is interrupted leaves the index as
    it was before, or has been made in full.

    Args:
        d: dimensions of the vectors.
        metric: what distances are, as in `knn`: "euclidean" (squared), "cosine" (1 - cos), "dot" (a similarity).
        backend: "cpu", "metal", "portable", "reference", or None for the best one on MLX's default device.

    Attributes:
        d, metric, backend: as given.
    """

    metrics: ClassVar[tuple[str, ...]] = ("euclidean", "cosine", "dot")
    # All that train, add and remove_ids change: a NamedTuple with a field `next_id`. They put another
    # one in its place, and what readers see of one never changes, so that these need no lock.
    _content: Any

    def __init_subclass__(cls) -> None:
        _KINDS[cls.__name__] = cls

    def __init__(self, d: int, metric: str = "euclidean", *, backend: str | None = None) -> None:
        self.d = validation.check_count("d", d, 1)
        self.metric = validation.check_choice("metric", metric, self.metrics)
        backends.resolve(backend)
        self.backend = backend
        self._lock = Lock()

    @property
    def ntotal(self) -> int:
        """Vectors in the index."""
        return self._count(self._content)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self._ready(self._content)

    def train(self, x: Any) -> None:
        """Learn from vectors x (N, D) what is needed before vectors can be added; they need not be those.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; the index holds vectors already.

        Warns:
            UserWarning: there are fewer than 39 points per centroid.
        """
        rows = self._vectors(x, "x")[0]

        def trained(content: Any) -> tuple[Any, None]:
            if n := self._count(content):
                raise ValueError(
                    f"train needs an empty index, this one holds ntotal={n} vectors: make a new one"
                )
            return self._trained(content, rows), None

        self._change(trained)

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
        wanted, content = _integers(ids), self._content
        n = self._count(content)
        places = self._places(content, wanted) if n else np.full(len(wanted), -1)
        if len(missing := wanted[places < 0]):
            raise ValueError(f"id={missing[0]} is not in the index (ntotal={n})")
        return self._rows_at(content, places) if len(wanted) else np.zeros((0, self.d), np.float32)

    def remove_ids(self, ids: Any) -> int:
        """Remove vectors by their ids (M,); returns how many there were. Others keep their ids."""
        wanted = np.unique(_integers(ids))

        def removed(content: Any) -> tuple[Any, int]:
            places = self._places(content, wanted) if self._count(content) else wanted[:0]
            places = places[places >= 0]
            return self._removed(content, places) if len(places) else content, len(places)

        return self._change(removed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file, atomically; `load_index` reads it on any machine."""
        io.write(path, type(self).__name__, *self.state())

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `restore` makes the index from: (parameters for JSON, arrays)."""
        return self._state(self._content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """An index of this class that `save` wrote; see `load_index`."""
        index = load_index(path)
        if not isinstance(index, cls):
            raise ValueError(
                f"cannot load {os.fspath(path)!r}: it holds an {type(index).__name__}, not an {cls.__name__}"
            )
        return index

    # What an index of its own kind defines. Arguments are checked; arrays are NumPy's. What changes an
    # index returns its next content, and writes only where no reader of the one that it is given looks.

    @abstractmethod
    def _count(self, content: Any) -> int:
        """Return the number of vectors."""

    @abstractmethod
    def _ready(self, content: Any) -> bool:
        """Return whether vectors can be added."""

    @abstractmethod
    def _trained(self, content: Any, rows: np.ndarray) -> Any:
        """Return the content after learning from rows (N, D) float32."""

    @abstractmethod
    def _added(self, content: Any, rows: np.ndarray, ids: np.ndarray) -> Any:
        """Return the content with rows (N, D) float32 and their new ids (N,) int64."""

    @abstractmethod
    def _search(self, content: Any, queries: np.ndarray, k: int, **how: Any) -> Found:
        """(Q, k) float32 distances and int64 ids for queries (Q, D) float32, k <= ntotal, in order; id -1 for none."""

    @abstractmethod
    def _places(self, content: Any, ids: np.ndarray) -> np.ndarray:
        """(M,) int64: where in its own storage it has each id, -1 for nowhere."""

    @abstractmethod
    def _rows_at(self, content: Any, places: np.ndarray) -> np.ndarray:
        """(M, D) float32: the vectors there."""

    @abstractmethod
    def _removed(self, content: Any, places: np.ndarray) -> Any:
        """Return the content without the vectors there, at least one."""

    @abstractmethod
    def _state(self, content: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `restore` makes the index from: (parameters for JSON, arrays)."""

    @classmethod
    @abstractmethod
    def restore(cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray]) -> Index:
        """The index with that state, which may be damaged: KeyError, TypeError or ValueError then."""

    # Shared by all kinds.

    def _restore_next_id(self, next_id: Any, ids: np.ndarray) -> None:
        """Go on with own ids where a state did, after the largest of `ids`."""
        own = max(validation.check_count("next_id", next_id, 0), int(ids.max(initial=-1)) + 1)
        self._content = self._content._replace(next_id=own)

    def _vectors(self, x: Any, name: str) -> tuple[np.ndarray, bool]:
        """((N, D) float32 in C order, whether x is an `mx.array`)."""
        return vectors(x, self.d, name)

    def _insert(self, x: Any, ids: Any) -> np.ndarray:
        """`add`, which returns the ids (N,) int64."""
        rows = self._vectors(x, "x")[0]

        def added(content: Any) -> tuple[Any, np.ndarray]:
            self._check_trained("add", content)
            own = self._new_ids(content, ids, len(rows))
            next_id = max(content.next_id, int(own.max()) + 1)
            return self._added(content, rows, own)._replace(next_id=next_id), own

        return self._change(added)

    def _change(self, change: Callable[[Any], tuple[Any, T]]) -> T:
        """Put in place, in one step, the content that `change` makes of the present one.

        Returns what else it returns.
        """

        def publish() -> T:
            content, result = change(self._content)
            self._content = content
            return result

        return self._lock.run(publish)

    def _check_trained(self, verb: str, content: Any) -> None:
        if not self._ready(content):
            raise NotFittedError(f"{verb} needs a trained index: call train first")

    def _new_ids(self, content: Any, ids: Any, n: int) -> np.ndarray:
        if ids is None:
            next_id = content.next_id
            if next_id + n > LARGEST_ID + 1:
                raise ValueError(
                    f"ids must be < 2**63 - 1, the next {n} would begin at {next_id}: give ids of your own, or make a new index"
                )
            return np.arange(next_id, next_id + n, dtype=np.int64)
        given = _integers(ids)
        if given.shape != (n,):
            raise ValueError(f"ids must have shape (N,)=({n},), got {given.shape}")
        ordered = np.sort(given)
        if ordered[0] < 0 or ordered[-1] > LARGEST_ID:
            raise ValueError(
                f"ids must be >= 0 and < 2**63 - 1, got {ordered[0] if ordered[0] < 0 else ordered[-1]}"
            )
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(
                f"ids must be distinct, got {twice[0]} more than once (ids.shape={given.shape})"
            )
        if ordered[0] < content.next_id and self._count(content):
            taken = given[self._places(content, given) >= 0]
            if taken.size:
                raise ValueError(
                    f"ids must be new, got {taken[0]}, which the index holds (ids.shape={given.shape})"
                )
        return given

    def _k_nearest(self, x: Any, k: int, **how: Any) -> tuple[Any, Any]:
        queries, mlx = self._vectors(x, "x")
        k = validation.check_count("k", k, 1)
        content = self._content
        self._check_trained("search", content)
        most = min(k, self._count(content))
        found = (
            self._search(content, queries, most, **how)
            if most
            else self._nothing((len(queries), 0))
        )
        if most < k:
            none = self._nothing((len(queries), k - most))
            found = np.concatenate([found[0], none[0]], 1), np.concatenate([found[1], none[1]], 1)
        return (mx.array(found[0]), mx.array(found[1])) if mlx else found

    def _nothing(self, shape: tuple[int, int]) -> Found:
        return np.full(shape, -np.inf if self.metric == "dot" else np.inf, np.float32), np.full(
            shape, -1, np.int64
        )

    def _all_within(self, x: Any, radius: float, **how: Any) -> tuple[Any, Any, Any]:
        queries, mlx = self._vectors(x, "x")
        if (
            isinstance(radius, bool)
            or not isinstance(radius, (int, float, np.integer, np.floating))
            or not np.isfinite(radius)
        ):
            raise ValueError(f"radius={radius!r} must be a finite number")
        sign = -1 if self.metric == "dot" else 1
        found = [self._nothing((1, 0))] * len(queries)
        content = self._content
        self._check_trained("range_search", content)
        n = self._count(content)
        todo, k = np.arange(len(queries) if n else 0), 128
        while len(todo):  # again with a larger k where all of the k nearest are inside
            k, again = min(k, n), []
            for some in np.array_split(todo, -(-len(todo) * k // MOST_FOUND)):
                distances, ids = self._search(content, queries[some], k, **how)
                inside = ((sign * distances < sign * radius) & (ids >= 0)).sum(1)
                for i, query in enumerate(some):
                    found[query] = distances[i : i + 1, : inside[i]], ids[i : i + 1, : inside[i]]
                again.append(some[(inside == k) & (k < n)])
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
        raise ValueError(
            f"cannot load {os.fspath(path)!r}: it is a damaged {name} ({error}); save it again"
        ) from error


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
        if isinstance(ids, (list, tuple, np.ndarray)) and all(type(i) is int for i in ids):
            raise ValueError(f"ids must be >= 0 and < 2**63 - 1, got {max(ids, key=abs)}")
        raise TypeError(f"ids must be integers, got dtype {given.dtype}")
    if given.ndim != 1:
        raise ValueError(f"ids must have shape (N,), got {given.shape}")
    if given.dtype == np.uint64 and given.size and given.max() >= np.uint64(1 << 63):
        raise ValueError(f"ids must be < 2**63 - 1, got {given.max()}")
    return given.astype(np.int64)
