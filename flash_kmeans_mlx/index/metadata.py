"""Metadata of a store: values that JSON can hold and that every Python can read again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["as_json"]

# Some Pythons refuse to read deeper nesting or longer integers.
MOST_LEVELS = 100
MOST_DIGITS = 4300
_TOO_DEEP = f"lists and dicts must be nested at most {MOST_LEVELS} deep"
LONGEST_PLACE = 200


def as_json(metadata: Any, n: int, shape: tuple[int, ...] | None) -> list[Any]:
    """Return the values that JSON makes of metadata: tuples become lists, for example.

    Args:
        metadata: A list of n values.
        n: Ids that they are for.
        shape: Of the embeddings, for messages; None where there are none.

    Raises:
        ValueError, TypeError: A value is none that JSON can hold; the message says where it is.
    """
    if isinstance(metadata, (str, bytes, Mapping)):
        kind = type(metadata).__name__
        raise TypeError(f"metadata must be a list of N={n} values, one each, got a {kind}")
    metadata = list(metadata)
    if len(metadata) != n:
        of = "" if shape is None else f" (embeddings.shape={shape})"
        raise ValueError(f"metadata must have N={n} values, got {len(metadata)}{of}")
    try:
        return _values(metadata)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        place = _place(metadata)
        raise kind(f"metadata must be values that JSON can hold: {place}: {error}") from None


def _values(metadata: list[Any]) -> list[Any]:
    try:
        python_limit = getattr(sys, "get_int_max_str_digits", lambda: 0)()  # 0 for none
        is_limited = 0 < python_limit <= MOST_DIGITS
        text = _ENCODER.encode(metadata)
        values = json.loads(text, parse_int=None if is_limited else _short_integer)
        # Unequal values have a key that is no string, or only a tuple that became a list.
        if values != metadata:
            _check_keys(metadata)
        _check_depth(values)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return values


def _refuse(value: Any) -> Any:
    advice = "; write it as text, with its isoformat()" if hasattr(value, "isoformat") else ""
    name = type(value).__name__
    raise TypeError(f"Object of type {name} is not JSON serializable{advice}")


_ENCODER = json.JSONEncoder(allow_nan=False, default=_refuse)


def _place(metadata: list[Any]) -> str:
    """Return where the first value is that `_values` refuses, for example metadata[3]["when"]."""
    place = "metadata"
    value: Any = metadata
    for _ in range(MOST_LEVELS):
        if isinstance(value, dict):
            parts = [
                (f"[{json.dumps(key)}]", one) for key, one in value.items() if isinstance(key, str)
            ]
        elif isinstance(value, (list, tuple)):
            parts = [(f"[{i}]", one) for i, one in enumerate(value)]
        else:
            break
        wrong = next(((key, one) for key, one in parts if _is_refused(one)), None)
        if wrong is None:
            break
        place += wrong[0]
        value = wrong[1]
    return place if len(place) <= LONGEST_PLACE else place[:LONGEST_PLACE] + "..."


def _is_refused(value: Any) -> bool:
    try:
        _values([value])
    except (TypeError, ValueError):
        return True
    return False


def _check_keys(metadata: list[Any]) -> None:
    """Check that the keys of all dicts are strings. Values must not contain themselves."""
    unchecked: list[Any] = [metadata]
    while unchecked:
        value = unchecked.pop()
        if isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise TypeError(f"the key {wrong[0]!r} of a dict must be a string")
            unchecked += value.values()
        elif isinstance(value, (list, tuple)):
            unchecked += value


def _check_depth(values: list[Any]) -> None:
    """Check how deep the lists and dicts that JSON made are nested."""
    level = [values]
    depth = 0
    kinds = {dict, list}
    while level:
        depth += 1
        if depth > MOST_LEVELS + 1:
            raise ValueError(_TOO_DEEP)
        groups = (value.values() if type(value) is dict else value for value in level)
        level = [value for group in groups for value in group if type(value) in kinds]


def _short_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"an integer has more than {MOST_DIGITS} digits")
    return int(digits)
