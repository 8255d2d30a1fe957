"""Conditions on metadata, for searches of a store."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["OPERATORS", "condition"]

Test = Callable[[Any], bool]

OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in", "contains")
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_NEGATIVE = ("!=", "not in")
_MISSING = object()
_MANY = (list, tuple, set, frozenset, range, np.ndarray)


def condition(where: Any) -> Test:
    """Return a function that tells whether a metadata value meets `where`.

    Args:
        where: A mapping of fields to what they must be, see `EmbeddingStore.search`; or a function
            of the metadata.

    Raises:
        ValueError, TypeError: The message names `where` and the field.
    """
    if callable(where):
        return lambda value: bool(where(value))
    if not isinstance(where, Mapping):
        raise TypeError(f"where={where!r} must be a mapping of fields to values, or a function")
    if wrong := [field for field in where if not isinstance(field, str)]:
        raise TypeError(f"where must have strings as fields, got {wrong[0]!r}")
    fields = [_field(field, given) for field, given in where.items()]
    if len(fields) == 1:
        return fields[0]

    def test(value: Any) -> bool:
        for meets in fields:  # noqa: SIM110  # all() takes twice as long
            if not meets(value):
                return False
        return True

    return test


def _field(field: str, given: Any) -> Test:
    """Return a function that tells whether one field of a metadata value is as it must be."""
    name, wanted = "==", given
    if isinstance(given, tuple):
        if len(given) != 2 or given[0] not in OPERATORS:
            raise ValueError(
                f"where[{field!r}]={given!r} must be a value, a list of values, or (op, value) with"
                f" op one of {', '.join(map(repr, OPERATORS))}"
            )
        name, wanted = given
    elif isinstance(given, _MANY):
        name = "in"
    meets = _operation(name, wanted, field)
    if_missing = name in _NEGATIVE

    def test(value: Any) -> bool:
        if isinstance(value, dict):
            found = value.get(field, _MISSING)
            if found is not _MISSING:
                return meets(found)
        return if_missing

    return test


def _operation(name: str, wanted: Any, field: str) -> Test:
    """Return the test of a field's value by an operator."""
    if name in ("in", "not in"):
        if not isinstance(wanted, _MANY):
            raise TypeError(f"where[{field!r}]={(name, wanted)!r} needs a list of values")
        values = _distinct([_plain(value) for value in wanted])
        is_among = name == "in"
        return lambda value: _is_in(value, values) == is_among
    wanted = _plain(wanted)
    if name in ("==", "!="):
        return partial(operator.eq if name == "==" else operator.ne, wanted)
    if name == "contains":
        return lambda value: _contains(value, wanted)
    compare = _ORDERS[name]
    if not _is_number(wanted) and not isinstance(wanted, str):
        raise TypeError(f"where[{field!r}]={(name, wanted)!r} needs a number or a string")
    is_comparable = _is_number if _is_number(wanted) else lambda value: isinstance(value, str)
    return lambda value: is_comparable(value) and compare(value, wanted)


def _plain(value: Any) -> Any:
    """Return Python's number for one of NumPy's, and a list for an array."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _distinct(values: list[Any]) -> Any:
    """Return the values as a set, or as they are where some can't be in one."""
    try:
        return frozenset(values)
    except TypeError:
        return values


def _is_in(value: Any, values: Any) -> bool:
    if isinstance(values, frozenset) and isinstance(value, (list, dict)):
        return False
    return value in values


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    return isinstance(value, list) and wanted in value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
