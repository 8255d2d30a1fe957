"""Filters of searches: the ids that may be found, and a search among these alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .. import validation
from .arguments import LARGEST_ID, integers
from .results import RANKED_AT_ONCE, Found, no_results

__all__ = ["FilteredSearch", "Search", "allowed"]

# Up to one of so many vectors, a search copies those that are allowed and looks at no others:
# beyond that, copying takes longer than a search among all for more neighbours.
RARE = 8


class Search(Protocol):
    """A search of an index for the k nearest of queries (Q, D), as `Index._search`."""

    def __call__(self, queries: np.ndarray, k: int, places: np.ndarray | None = None) -> Found:
        """Return distances and ids (Q, k); with `places` (M,), of the vectors there alone."""
        ...


def allowed(held: np.ndarray, ids: Any, exclude: Any) -> np.ndarray:
    """Return (N,) bool, which of the ids held (N,), in ascending order, may be found.

    Args:
        held: (N,) int64.
        ids: Those that may be found: integers (M,), a mask (L,) bool over ids 0..L-1, or a `range`;
            None for all.
        exclude: Those that may not, likewise; None for none.

    Raises:
        ValueError, TypeError: The message names the argument.
    """
    mark = np.ones(len(held), bool) if ids is None else _among(held, ids, "ids")
    if exclude is not None:
        mark &= ~_among(held, exclude, "exclude")
    return mark


def _among(held: np.ndarray, given: Any, name: str) -> np.ndarray:
    """Return (N,) bool, which of the ids held (N,), in ascending order, are among the given."""
    mark = np.zeros(len(held), bool)
    if isinstance(given, range):
        ascending = given if given.step > 0 else given[::-1]
        first, stop = (min(max(i, 0), LARGEST_ID + 1) for i in (ascending.start, ascending.stop))
        lo, hi = np.searchsorted(held, [first, stop])
        if ascending.step == 1:
            mark[lo:hi] = True
        elif ascending:
            # Remainders of Python's integers, which may be larger than an int64.
            start, step = ascending.start % ascending.step, ascending.step
            mark[lo:hi] = (
                held[lo:hi] % step == start if step <= LARGEST_ID else held[lo:hi] == first
            )
        return mark
    array = validation.as_array(given, name)
    if array.dtype != bool:
        wanted = np.sort(integers(given, name))
        places = np.searchsorted(held, wanted)
        places, wanted = places[places < len(held)], wanted[places < len(held)]
        mark[places[held[places] == wanted]] = True
        return mark
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (L,) as a mask over ids, got {array.shape}")
    n = np.searchsorted(held, len(array))
    mark[:n] = array[held[:n]]
    return mark


class FilteredSearch:
    """A search among the vectors that a filter allows, with the results of a search among all.

    Where few vectors are allowed, it copies these and looks at no others. Otherwise it searches
    among all for so many neighbours that k of them are likely to be allowed; queries that lack some
    are searched for again, with more neighbours or among copies.

    Args:
        search: Among all vectors.
        held: (N,) int64, their ids in ascending order.
        mark: (N,) bool, which of them are allowed.
        find: Returns the places (M,) of ids (M,).
        metric: Of the distances.

    Attributes:
        n: Vectors that are allowed.
    """

    def __init__(
        self,
        search: Search,
        held: np.ndarray,
        mark: np.ndarray,
        find: Callable[[np.ndarray], np.ndarray],
        metric: str,
    ) -> None:
        self._search = search
        self._held = held
        self._mark = mark
        self._find = find
        self._metric = metric
        self.n = int(np.count_nonzero(mark))

    def __call__(self, queries: np.ndarray, k: int) -> Found:
        """Return the k <= n nearest of queries (Q, D), as `Index._search` does."""
        found = no_results((len(queries), k), self._metric)
        todo = np.arange(len(queries))
        n_held = len(self._held)
        # As many as there are with k allowed ones on average, and some.
        fetched = min(k * n_held * 5 // (self.n * 4) + 8, k + n_held - self.n)
        if self.n * RARE <= n_held:
            fetched = n_held
        while len(todo) and fetched * RARE <= n_held:
            n_parts = -(-len(todo) * fetched // RANKED_AT_ONCE)
            lacking = [
                part[~self._fetch(queries, part, fetched, found)]
                for part in np.array_split(todo, n_parts)
            ]
            todo = np.concatenate(lacking)
            fetched *= 4
        if len(todo):
            places = self._find(self._held[self._mark])
            found[0][todo], found[1][todo] = self._search(queries[todo], k, places)
        return found

    def _fetch(
        self, queries: np.ndarray, part: np.ndarray, fetched: int, found: Found
    ) -> np.ndarray:
        """Search among all vectors for some of the queries, and keep what is allowed.

        Returns:
            Which of `part` (P,) have all their neighbours.
        """
        distances, ids = self._search(queries[part], fetched)
        mine = (ids >= 0) & self._mark[np.searchsorted(self._held, ids)]
        k = found[1].shape[1]
        order = np.argsort(~mine, axis=1, kind="stable")[:, :k]
        taken = np.take_along_axis(mine, order, 1)
        for results, all_results in zip(found, (distances, ids), strict=True):
            kept = np.take_along_axis(all_results, order, 1)
            results[part, : kept.shape[1]] = np.where(taken, kept, results[part, : kept.shape[1]])
        # A search that finds fewer than it was asked for has seen all vectors that it looks at.
        return (mine.sum(1) >= k) | (ids[:, -1] < 0)
