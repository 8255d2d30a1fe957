"""Metadata of a store: values that JSON can hold and that every Python can read again."""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["as_json"]

# Some Pythons refuse to read deeper nesting or longer integers.
MOST_LEVELS = 100
MOST_DIGITS = 4300
_TOO_DEEP = f"lists and dicts must be nested at most {MOST_LEVELS} deep"
_ENCODER = json.JSONEncoder(allow_nan=False)


def as_json(metadata: list[Any]) -> list[Any]:
    """Return the values that JSON makes of metadata: tuples become lists, for example.

    Raises:
        ValueError, TypeError: A value is none that JSON can hold.
    """
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
        raise ValueError(f"metadata must be values that JSON can hold: {_TOO_DEEP}") from None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"metadata must be values that JSON can hold: {error}") from None
    return values


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
