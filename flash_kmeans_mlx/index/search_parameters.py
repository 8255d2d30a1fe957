"""Parameters of searches and selectors of ids, by faiss's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import validation
from .arguments import integers
from .filters import allowed

__all__ = [
    "IDSelectorArray",
    "IDSelectorBatch",
    "IDSelectorBitmap",
    "IDSelectorRange",
    "IndexRefineSearchParameters",
    "SearchParameters",
    "SearchParametersHNSW",
    "SearchParametersIVF",
    "check_k_factor",
    "chosen_ids",
    "options_of",
]

# Options of searches, and what faiss calls them.
FAISS_NAMES = {"nprobe": "nprobe", "ef": "efSearch", "k_factor": "k_factor"}


@dataclass
class SearchParameters:
    """Parameters for `search(..., params=)`.

    Attributes:
        sel: The ids that may be found, as `ids` of `Index.search`.
    """

    sel: Any = None


@dataclass
class SearchParametersIVF(SearchParameters):
    """Parameters for `search(..., params=)`, for indexes with lists.

    Attributes:
        sel: The ids that may be found, as `ids` of `Index.search`.
        nprobe: Lists to look at; None for the index's own number, where faiss has 1.
    """

    nprobe: int | None = None


@dataclass
class SearchParametersHNSW(SearchParameters):
    """Parameters for `search(..., params=)`, for graphs.

    Attributes:
        sel: The ids that may be found, as `ids` of `Index.search`.
        efSearch: Candidates to keep, `ef`; None for the index's own number, where faiss has 16.
    """

    efSearch: int | None = None  # noqa: N815


@dataclass
class IndexRefineSearchParameters(SearchParameters):
    """Parameters for `search(..., params=)`, for `IndexRefine`.

    Attributes:
        sel: The ids that may be found, as `ids` of `Index.search`.
        k_factor: Candidates for each neighbour; None for the index's own number, where faiss has 1.
        base_index_params: Parameters for the index that finds the candidates; None for none.
    """

    k_factor: float | None = None
    base_index_params: Any = None


def check_k_factor(value: Any) -> float:
    """Return a `k_factor` as a float; ValueError or TypeError if it is no number >= 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"k_factor={value!r} must be a number")
    if not 1 <= value < np.inf:
        raise ValueError(f"k_factor={value} must be >= 1 and finite")
    return float(value)


def IDSelectorBatch(indices: Any) -> np.ndarray:  # noqa: N802
    """Return ids (M,) as what `ids=` and `sel=` take."""
    return integers(indices)


IDSelectorArray = IDSelectorBatch


def IDSelectorRange(imin: int, imax: int) -> range:  # noqa: N802
    """Return the ids from imin to imax - 1."""
    return range(imin, imax)


def IDSelectorBitmap(bitmap: Any) -> np.ndarray:  # noqa: N802
    """Return the mask of ids whose bits are set in bytes (N,) uint8, lowest bits first."""
    return np.unpackbits(np.asarray(bitmap, np.uint8), bitorder="little").astype(bool)


def options_of(options: dict[str, Any], ids: Any) -> tuple[dict[str, Any], Any]:
    """Return the options of a search, and ids, with those of an object `params` among them.

    Args:
        options: `params`, or None, and others, which win where they are not None.
        ids: As `ids` of `Index.search`.
    """
    params = options.pop("params", None)
    if params is not None:
        for name, value in options.items():
            options[name] = _parameter(params, FAISS_NAMES[name]) if value is None else value
        selector = _parameter(params, "sel")
        if selector is not None and ids is not None:
            raise ValueError("ids must be None where params.sel is given: both name the same ids")
        ids = selector if ids is None else ids
    for name, value in options.items():
        if name == "k_factor" and value is not None:
            check_k_factor(value)
        elif value is not None:
            validation.check_count(name, value, 1)
    return options, ids


def _parameter(params: Any, name: str) -> Any:
    """Return a parameter that an object, or the one for the index inside, has; None if not."""
    value = getattr(params, name, None)
    inner = getattr(params, "base_index_params", None)
    return _parameter(inner, name) if value is None and inner is not None else value


def chosen_ids(given: Any) -> Callable[[Callable[[Any], np.ndarray], Any], np.ndarray]:
    """Return a function that finds distinct ids (M,) which a snapshot may hold.

    Args:
        given: As `ids` of `Index.search`.
    """
    is_mask = isinstance(given, np.ndarray) and given.dtype == np.bool_
    if isinstance(given, range) or hasattr(given, "is_member") or is_mask:

        def chosen(held_ids: Callable[[Any], np.ndarray], snapshot: Any) -> np.ndarray:
            held = held_ids(snapshot)
            return held[allowed(held, given, None)]

        return chosen
    wanted = np.unique(integers(given))
    return lambda _held_ids, _snapshot: wanted
