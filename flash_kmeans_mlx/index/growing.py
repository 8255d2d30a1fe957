"""An array that grows at its end and may be shared with readers."""

from __future__ import annotations

import numpy as np

__all__ = ["Growing"]


class Growing:
    """An array with room for more rows.

    Several snapshots of an index share one: each knows how many rows are its own, and writers
    change only rows that no snapshot has.

    Attributes:
        array: (capacity, ...).
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def reserve(self, n: int) -> None:
        """Make room for n rows.

        Where nothing else refers to the array, it is extended in place, by a sixteenth at least:
        adding takes linear time, and little memory is reserved that is not used. Otherwise the
        others keep it, and a copy takes its place here, larger by half so that copies are rare.
        """
        capacity, *row_shape = self.array.shape
        if n <= capacity:
            return
        try:
            self.array.resize((max(n, capacity + capacity // 16), *row_shape))
        except ValueError:  # something else refers to it
            larger = np.empty((max(n, capacity + capacity // 2), *row_shape), self.array.dtype)
            larger[:capacity] = self.array
            self.array = larger
