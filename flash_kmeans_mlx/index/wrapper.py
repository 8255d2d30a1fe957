"""Indexes around others, whose attributes of searches are their own too."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .base import Index

__all__ = ["Wrapper"]

# Attributes that are those of the first index inside.
FORWARDED = ("nprobe", "ef", "nlist", "k_factor")


class Wrapper(Index):
    """An index that consists of others, of which the first one finds candidates."""

    @abstractmethod
    def _parts(self) -> tuple[Index, ...]:
        """Return the indexes that this one consists of."""

    def _check_changeable(self) -> None:
        """Refuse to change an index with a part that is mapped from a file."""
        for part in self._parts():
            part._check_changeable()

    def __getattr__(self, name: str) -> Any:
        if name in FORWARDED:
            return getattr(self._parts()[0], name)
        kind = type(self).__name__
        raise AttributeError(f"an {kind} has no attribute {name!r}: has an index in it?")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FORWARDED and not hasattr(type(self), name):
            setattr(self._parts()[0], name, value)
            return
        super().__setattr__(name, value)
        if name == "backend" and self._is_complete:
            for part in self._parts():
                part.backend = value

    def _settable(self) -> list[str]:
        inner = self._parts()[0]._settable()
        return super()._settable() + [name for name in FORWARDED if name in inner]
