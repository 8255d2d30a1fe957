"""Ids of a store as its callers give and get them: integers, or strings that stand for integers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from .arguments import distinct_ids, integers

__all__ = ["Names", "given_ids"]


class Names(NamedTuple):
    """The strings of a store, one for each id of its index; none in a store of integers.

    Attributes:
        by_id: Strings by id.
        ids: Ids by string.
    """

    by_id: dict[int, str]
    ids: dict[str, int]

    def find(self, given: np.ndarray | list[str]) -> np.ndarray:
        """Return the ids (M,) int64 of what `given_ids` returned; -1 for those there are not."""
        if isinstance(given, list):
            return np.array([self.ids.get(name, -1) for name in given], np.int64)
        return np.full(len(given), -1) if self.by_id else given

    def to_caller(self, ids: Any) -> Any:
        """Return ids of any shape as the store's caller knows them; None for -1 among strings."""
        if not self.by_id:
            return ids
        array = np.asarray(ids)
        names = np.empty(array.size, object)
        names[:] = [self.by_id.get(one) for one in array.reshape(-1).tolist()]
        return names.reshape(array.shape)

    def add(self, ids: Iterable[int], names: Iterable[str]) -> None:
        """Add names of new ids."""
        for one, name in zip(ids, names, strict=True):
            self.by_id[one] = name
            self.ids[name] = one

    def copy(self) -> Names:
        """Return others, to be changed."""
        return Names(self.by_id.copy(), self.ids.copy())

    def without(self, ids: np.ndarray) -> Names:
        """Return the names of all other ids than these (M,)."""
        if not self.by_id:
            return self
        left = self.copy()
        for one in ids.tolist():
            name = left.by_id.pop(one, None)
            # An interrupted change may have left one of the two.
            if name is not None and left.ids.get(name) == one:
                del left.ids[name]
        return left


def given_ids(ids: Any, n: int | None = None) -> np.ndarray | list[str]:
    """Return ids as a caller gave them, as (M,) int64 or a list of strings; one id is a list of it.

    Args:
        ids: Integers or strings.
        n: How many there must be, and distinct ones; None for any ids.

    Raises:
        ValueError, TypeError: The message names `ids`.
    """
    if isinstance(ids, (str, int, np.integer)) and not isinstance(ids, bool):
        ids = [ids]
    if not isinstance(ids, (list, tuple)):
        array = validation.as_array(ids, "ids")
        ids = array.tolist() if array.dtype.kind in "UTO" and array.ndim == 1 else array
    if isinstance(ids, np.ndarray) or not any(isinstance(one, str) for one in ids):
        return distinct_ids(ids, n) if n else integers(ids)
    if wrong := [one for one in ids if not isinstance(one, str)]:
        raise TypeError(f"ids must be all strings or all integers, got {wrong[0]!r} among strings")
    if n is not None and len(ids) != n:
        raise ValueError(f"ids must have shape (N,)=({n},), got ({len(ids)},)")
    if n is not None and len(set(ids)) < n:
        repeated = next(one for i, one in enumerate(ids) if one in ids[:i])
        raise ValueError(f"ids must be distinct, got {repeated!r} more than once (N={n})")
    return [str(one) for one in ids]
