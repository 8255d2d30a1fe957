"""The contents of a store at one moment, and those after a change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arguments import next_ids
from .base import Index
from .growing import Growing
from .growth import lists_needed, with_lists
from .store_file import Saved
from .string_ids import Names

__all__ = ["Contents", "no_contents"]


@dataclass(frozen=True)
class Contents:
    """All that a search of a store reads. Immutable, but for new ids in the dicts.

    A change that only adds shares the dicts with the contents before it: a search looks up no ids
    but those of its own snapshot. A change that replaces or deletes makes copies.

    Attributes:
        index: None before the first add.
        snapshot: Of the index; None without one.
        metadata: By id.
        names: The strings that stand for ids, if the store's are strings.
        saved: Where the store was last saved or loaded, None for nowhere.
        touched: (capacity,) int64, ids that were added, changed or deleted since then.
        n_touched: How many of them count.
    """

    index: Index | None
    snapshot: Any
    metadata: dict[int, Any]
    names: Names
    saved: Saved | None
    touched: Growing
    n_touched: int

    @property
    def size(self) -> int:
        """Number of embeddings."""
        return 0 if self.index is None else self.index._count(self.snapshot)

    def ids(self) -> np.ndarray:
        """Return all ids (N,) int64 in ascending order."""
        return np.zeros(0, np.int64) if self.index is None else self.index._ids(self.snapshot)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return the places (M,) int64 of ids (M,) in the index, -1 for nowhere."""
        # Where all are larger than any id before, lists need not sort their ids.
        if self.index is None or not self.size or (ids >= self.snapshot.next_id).all():
            return np.full(len(ids), -1)
        return self.index._places(self.snapshot, ids)

    def held(self, given: np.ndarray | list[str], verb: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (M,) that a caller gave, which the store must hold, and their places (M,).

        Raises:
            ValueError: The store does not hold one of them; the message names `ids`.
        """
        ids = self.names.find(given)
        places = self.places(ids)
        if (places < 0).any():
            missing = list(given)[int((places < 0).argmax())]
            missing = missing if isinstance(missing, str) else int(missing)
            raise ValueError(f"ids must be held by the store to {verb} them, got {missing!r}")
        return ids, places

    def check_kind(self, given: np.ndarray | list[str] | None) -> None:
        """Refuse strings in a store of integers, and others in one of strings."""
        if given is not None and not len(given):
            return
        if isinstance(given, list) != bool(self.names.by_id) and self.size:
            kind = "strings" if self.names.by_id else "integers"
            raise TypeError(f"ids must be {kind}, as those that the store holds")

    def new_ids(self, index: Index, given: np.ndarray | list[str] | None, n: int) -> np.ndarray:
        """Return the ids (n,) int64 of n new embeddings.

        Args:
            index: That will keep them.
            given: The ids that a caller gave for them, None for the next ones.
            n: Embeddings.

        Raises:
            ValueError, TypeError: The store holds one of them, or ids of another kind.
        """
        snapshot = index._snapshot if self.index is None else self.snapshot
        self.check_kind(given)
        if not isinstance(given, list):
            return index._new_ids(snapshot, given, n)
        taken = next((name for name in given if name in self.names.ids), None)
        if taken is not None:
            raise ValueError(f"ids must be new, got {taken!r}, which the store holds")
        return next_ids(snapshot.next_id, n)

    def with_rows(
        self, index: Index, rows: np.ndarray, ids: np.ndarray, seed: int | None
    ) -> Contents:
        """Return the contents with embeddings of ids (N,), in place of those that they hold.

        Args:
            index: That keeps the embeddings.
            rows: (N, D) float32.
            ids: (N,) int64, distinct.
            seed: Of the training of lists; None for an index that does not grow.
        """
        snapshot = index._snapshot if self.index is None else self.snapshot
        old = ids[self.places(ids) >= 0]
        if len(old):
            snapshot, _ = index._without(snapshot, old)
        n_new = len(ids) - len(old)
        nlist = lists_needed(index, n_new) if seed is not None and n_new else 0
        if nlist and seed is not None:
            grown = with_lists(index, snapshot, rows, ids, nlist, seed)
            if grown is not None:
                return replace(self.saved_at(None), index=grown, snapshot=grown._snapshot)
        snapshot = index._with_rows(snapshot, [(0, rows)], ids)
        return self.changed(snapshot, ids, index=index)

    def with_records(
        self, ids: np.ndarray, metadata: list[Any] | None, names: Any, *, shared: bool
    ) -> Contents:
        """Return the contents with metadata (M,) and names (M,) of ids (M,).

        Args:
            ids: Whose.
            metadata: None to change none.
            names: Strings, where it is a list.
            shared: Whether to put them into the dicts of these contents, not into copies.
        """
        after = self if shared else replace(self, metadata=self.metadata.copy())
        if metadata is not None:
            after.metadata.update(zip(ids.tolist(), metadata, strict=True))
        if isinstance(names, list):
            after = after if shared else replace(after, names=self.names.copy())
            after.names.add(ids.tolist(), names)
        return after

    def changed(self, snapshot: Any, ids: np.ndarray, **others: Any) -> Contents:
        """Return the contents after a change that touched ids (M,).

        Args:
            snapshot: The next one of the index.
            ids: Added, changed or deleted.
            others: Other attributes that changed.
        """
        after = replace(self, snapshot=snapshot, **others)
        if self.saved is None:
            return after
        n_after = self.n_touched + len(ids)
        self.touched.reserve(n_after)
        self.touched.array[self.n_touched : n_after] = ids
        return replace(after, n_touched=n_after)

    def without_records(self, ids: np.ndarray) -> Contents:
        """Return the contents without the metadata and names of ids (M,)."""
        left = self.metadata.copy()
        for one in ids.tolist():
            left.pop(one, None)
        return replace(self, metadata=left, names=self.names.without(ids))

    def saved_at(self, saved: Saved | None) -> Contents:
        """Return the same contents, of which nothing has changed since they were saved."""
        return replace(self, saved=saved, touched=Growing(np.zeros(0, np.int64)), n_touched=0)


def no_contents(index: Index | None) -> Contents:
    """Return the contents of a new store."""
    return Contents(
        index=index,
        snapshot=None if index is None else index._snapshot,
        metadata={},
        names=Names({}, {}),
        saved=None,
        touched=Growing(np.zeros(0, np.int64)),
        n_touched=0,
    )
