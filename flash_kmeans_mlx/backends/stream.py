"""The points of a fit that are read again in each pass."""

from __future__ import annotations

from ..shards.base import Source

__all__ = ["RowStream"]


class RowStream:
    """The rows of a source (N, D) as a batch (1, N, D), for `Problem.x`."""

    def __init__(self, rows: Source) -> None:
        self.rows = rows
        self.shape = (1, *rows.shape)
