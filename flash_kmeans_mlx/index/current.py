"""The present contents of a store: read without a lock, changed by one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from .contents import Contents
from .lock import Lock

__all__ = ["Current"]

T = TypeVar("T")
NO_IDS = np.zeros(0, np.int64)


class Current:
    """The present contents of a store, which one assignment replaces.

    An error or an interrupt before that leaves them as they were. An add puts records into dicts
    that it shares with the contents before; if it fails, the next change drops these records.

    Args:
        contents: The first ones.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._adding = NO_IDS  # ids of an add that has not ended
        self._replaced: Any = None  # the snapshot of the index that is being replaced
        self._lock = Lock()

    def read(self) -> Contents:
        """Return the present contents."""
        contents = self._contents
        index = contents.index
        if index is None or index._snapshot is contents.snapshot:
            return contents
        return self._lock.run(self._in_step)

    def change(self, make_next: Callable[[Contents], tuple[Contents, T]]) -> T:
        """Put in place the contents that `make_next` makes, and return its second result."""

        def publish() -> T:
            contents = self._ready()
            after, result = make_next(contents)
            self._replaced = contents.snapshot
            self._contents = after
            self._adding = NO_IDS
            if after.index is not None:
                after.index._snapshot = after.snapshot
            self._replaced = None
            return result

        return self._lock.run(publish)

    def begin_add(self, ids: np.ndarray) -> None:
        """Note that records of new ids (M,) are put into shared dicts, before they are."""
        self._adding = ids

    def _in_step(self) -> Contents:
        """Return the contents after a comparison of their snapshot with that of the index."""
        contents = self._contents
        index = contents.index
        if index is not None and index._snapshot is not contents.snapshot:
            if index._snapshot is self._replaced:  # an interrupted change
                index._snapshot = contents.snapshot
            else:  # the index was changed by others than the store
                contents = replace(contents.saved_at(None), snapshot=index._snapshot)
                self._contents = contents
        return contents

    def _ready(self) -> Contents:
        """Return the contents without records of an interrupted add."""
        contents = self._in_step()
        if len(self._adding):
            orphans = self._adding[contents.places(self._adding) < 0]
            self._contents = contents = contents.without_records(orphans)
            self._adding = NO_IDS
        return contents
