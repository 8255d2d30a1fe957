"""Methods and attributes of faiss's indexes that are made of others."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import numpy as np

from .. import validation
from .arguments import distinct_ids, integers, vectors
from .filters import allowed
from .registry import restore_index
from .snapshots import Snapshots

__all__ = [
    "METRIC_INNER_PRODUCT",
    "METRIC_L1",
    "METRIC_L2",
    "FaissWords",
    "METRIC_Linf",
    "metric_name",
    "set_backend",
]

METRIC_INNER_PRODUCT, METRIC_L2, METRIC_L1, METRIC_Linf = range(4)
_METRICS = ("dot", "euclidean", "l1", "linf")
# What vectors and codes depend on.
FIXED = ("d", "metric", "nlist", "m", "nbits", "qtype", "base_index", "refine_index")
# Subsets of `copy_subset_to`, by faiss's numbers.
ID_RANGE, ID_MOD = range(2)

T = TypeVar("T")


def metric_name(metric: Any) -> Any:
    """Return the name of a metric that may be one of faiss's numbers; others as they are."""
    is_number = isinstance(metric, (int, np.integer)) and not isinstance(metric, bool)
    return _METRICS[metric] if is_number and 0 <= metric < len(_METRICS) else metric


def set_backend(index: Any, backend: str | None) -> None:
    """Make an index, and all that it consists of, compute on a backend."""
    index.backend = backend
    for part in index._parts():
        set_backend(part, backend)
    transform: Any = getattr(index, "transform", None)
    if hasattr(transform, "_quantizer"):
        transform._quantizer.backend = backend
    quantizer = getattr(index._snapshot, "quantizer", None)
    if quantizer is not None:
        quantizer.backend = backend


class FaissWords(Snapshots):
    """Methods of faiss's indexes beside `train`, `add`, `search` and `reconstruct`.

    Attributes:
        verbose: Whether `train` prints a line per iteration.
    """

    _is_complete = False
    _is_mapped = False  # from a file, and so read-only
    _snapshot: Any
    verbose: bool

    if TYPE_CHECKING:

        def add(self, x: Any, ids: Any = None) -> None: ...

        def remove_ids(self, ids: Any) -> int: ...

        def search(self, x: Any, k: int) -> tuple[Any, Any]: ...

        def reconstruct_batch(self, ids: Any) -> np.ndarray: ...

        def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]: ...

        def _k_nearest(self, x: Any, k: int, **options: Any) -> tuple[Any, Any]: ...

        def _change(self, make_next: Callable[[Any], tuple[Any, T]]) -> T: ...

    def __init_subclass__(cls) -> None:
        init = cls.__init__

        @wraps(init)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            init(self, *args, **kwargs)
            # New attributes are mistakes from now on.
            self._is_complete = self._is_complete or type(self) is cls

        cls.__init__ = __init__

    @property
    def metric_type(self) -> int:
        """The number of the metric in faiss: METRIC_L2, METRIC_INNER_PRODUCT and so on.

        Raises:
            AttributeError: The metric is "cosine", which faiss does not have.
        """
        if self.metric not in _METRICS:
            raise AttributeError(
                f"metric={self.metric!r} has no metric_type: faiss has none for it"
            )
        return _METRICS.index(self.metric)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_complete and not name.startswith("_"):
            self._check_settable(name)
        super().__setattr__(name, value)

    def _check_settable(self, name: str) -> None:
        """Refuse an attribute that is unknown or fixed, with the nearest known one."""
        kind = type(self)
        is_own = name in vars(self)
        if is_own and name in FIXED:
            raise AttributeError(f"{name} of an {kind.__name__} is fixed: make a new index")
        if is_own or hasattr(kind, name):
            return
        known = sorted(self._settable())
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        raise AttributeError(f"an {kind.__name__} has no attribute {name!r}: {hint}")

    def _settable(self) -> list[str]:
        """Return the names of the public attributes that can be set."""
        own = [name for name in vars(self) if not name.startswith("_") and name not in FIXED]
        properties = [
            name
            for name in dir(type(self))
            if not name.startswith("_") and getattr(getattr(type(self), name), "fset", None)
        ]
        return own + properties

    def __reduce__(self) -> Any:
        """Return how pickles and copies are made: from `state`, with a lock of their own."""
        first = (*self._parts(), self)[0]
        return _revived, (type(self), *self.state(), first.backend, self.verbose)

    def _parts(self) -> tuple[Any, ...]:
        """Return the indexes that this one consists of."""
        return ()

    def _check_changeable(self) -> None:
        """Refuse to change an index that is mapped from a file."""
        if self._is_mapped:
            raise ValueError(
                "an index that is mapped from a file can't be changed: load it without mmap=True"
            )

    def _reader(self) -> Any:
        """Return an index that keeps the present snapshot, to be read only."""
        reader = object.__new__(type(self))
        vars(reader).update(vars(self))
        return reader

    def reset(self) -> None:
        """Remove all vectors; what was learned stays, and the next id is 0."""

        def emptied(snapshot: Any) -> tuple[Any, None]:
            if self._count(snapshot):
                places = self._places(snapshot, self._ids(snapshot))
                snapshot = self._after_remove(snapshot, places)
            return snapshot._replace(next_id=0), None

        self._change(emptied)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Add vectors x (N, D) with ids (N,), as `add` does."""
        self.add(x, distinct_ids(ids, len(integers(ids))))

    def assign(self, x: Any, k: int = 1) -> Any:
        """Return the ids (Q, k) int64 that `search` finds."""
        return self.search(x, k)[1]

    def reconstruct_n(self, n0: int = 0, ni: int = -1) -> np.ndarray:
        """Return the vectors (ni, D) float32 with ids from n0 on.

        Args:
            n0: The first id.
            ni: How many; -1 for those up to ``ntotal``.

        Raises:
            ValueError: The index lacks one of these ids.
        """
        first = validation.check_count("n0", n0, 0)
        n = self._count(self._snapshot) - first if ni == -1 else ni
        n = validation.check_count("ni", n, 0)
        return self.reconstruct_batch(np.arange(first, first + n))

    def search_and_reconstruct(self, x: Any, k: int, **options: Any) -> tuple[Any, Any, Any]:
        """Search as `search` does, and return the vectors (Q, k, D) float32 that were found too.

        Where fewer than k were found, they are NaN.
        """
        snapshot = self._snapshot
        distances, ids = self._k_nearest(x, k, snapshot=snapshot, **options)
        found = np.array(ids).reshape(-1)
        rows = np.full((len(found), self.d), np.nan, np.float32)
        if (is_found := found >= 0).any():
            rows[is_found] = self._rows_at(snapshot, self._places(snapshot, found[is_found]))
        rows = rows.reshape(*ids.shape, self.d)
        return distances, ids, mx.array(rows) if isinstance(ids, mx.array) else rows

    def update_vectors(self, ids: Any, x: Any) -> None:
        """Replace the vectors of ids (N,) by x (N, D).

        Raises:
            ValueError, TypeError: The message names the argument; or the index lacks an id.
        """
        rows, _ = vectors(x, self.d, self._limit)
        held = distinct_ids(ids, len(rows))

        def updated(snapshot: Any) -> tuple[Any, None]:
            places = self._held_places(snapshot, held)
            if len(places) < len(held):
                raise ValueError(f"{len(held) - len(places)} of ids are not in the index: add them")
            if len(held):
                snapshot = self._after_add(self._after_remove(snapshot, places), rows, held)
            return snapshot, None

        self._change(updated)

    def merge_from(self, other: Any, add_id: int = 0) -> None:
        """Move all vectors of another index to this one, without decoding or training.

        Args:
            other: Of the same class, with the same parameters and the same training, as copies
                of one trained index have it. It is empty then.
            add_id: What is added to the ids, which must be new; `ntotal` where both begin at 0.

        Raises:
            TypeError, ValueError: The indexes differ, or an id is not new.
        """
        ids = None
        if isinstance(other, FaissWords):
            other._check_changeable()
            ids = other._ids(other._snapshot)
        self._take(other, ids, validation.check_count("add_id", add_id, 0))
        other.remove_ids(ids)

    def copy_subset_to(self, other: Any, subset_type: int, a1: int, a2: int) -> None:
        """Copy some vectors to another index of the same training, with their ids.

        Args:
            other: As in `merge_from`.
            subset_type: 0 for ids from a1 to a2 - 1, 1 for those with ``id % a1 == a2``.
            a1: The first id, or the divisor.
            a2: The id after the last one, or the remainder.
        """
        validation.check_count("subset_type", subset_type, ID_RANGE, ID_MOD, "1")
        held = self._ids(self._snapshot)
        chosen = allowed(held, range(a1, a2), None) if subset_type == ID_RANGE else held % a1 == a2
        if not isinstance(other, FaissWords):
            raise TypeError(f"other must be an index, got {type(other).__name__}")
        other._take(self, held[chosen], 0)

    def _take(self, other: Any, ids: Any, add_id: int) -> None:
        """Add the vectors of another index with ids (M,), raised by add_id."""
        self._check_alike(other)
        if not len(ids):
            return
        part = other._part(other._snapshot, ids)
        new = part["ids"] + add_id

        def taken(snapshot: Any) -> tuple[Any, None]:
            self._new_ids(snapshot, new, len(new))
            snapshot = self._after_merge(snapshot, part | {"ids": new})
            return snapshot._replace(next_id=max(snapshot.next_id, int(new.max()) + 1)), None

        self._change(taken)

    def _check_alike(self, other: Any) -> None:
        """Refuse an index whose vectors do not fit into this one."""
        if type(other) is not type(self):
            raise TypeError(f"other must be an {type(self).__name__}, got {type(other).__name__}")
        if other is self:
            raise ValueError("other must be another index")
        self._check_trained("merge_from", self._snapshot)
        for name, mine in _learned(self).items():
            if not np.array_equal(mine, _learned(other)[name]):
                raise ValueError(
                    f"{name} of other must be the same as of this index:"
                    " train one, and copy it before vectors are added"
                )


def _learned(index: Any) -> dict[str, Any]:
    """Return all that codes and lists of an index depend on."""
    parts = index._parts()
    if parts:
        learned = {f"index.{name}": value for name, value in _learned(parts[0]).items()}
        transform = getattr(index, "transform", None)
        return learned | {"d": index.d, "matrix": getattr(transform, "matrix", None)}
    snapshot = index._snapshot
    return {
        "d": index.d,
        "metric": index.metric,
        "centroids": getattr(snapshot, "centroids", None),
        "codebooks": getattr(getattr(snapshot, "quantizer", None), "codebooks", None),
    }


def _revived(
    kind: Any,
    parameters: dict[str, Any],
    arrays: dict[str, np.ndarray],
    backend: str | None,
    verbose: bool,
) -> Any:
    """Return an index of a class and its state."""
    index = restore_index(kind.__name__, parameters, arrays)
    set_backend(index, backend)
    index.verbose = verbose
    return index
