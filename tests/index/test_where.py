"""Searches of a store by metadata, against a filter in Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from helpers import Array
from small_indexes import trained

from flash_kmeans_mlx.index import EmbeddingStore
from flash_kmeans_mlx.index.where import condition

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2000, 8)).astype(np.float32)
TAGS = ["red", "green", "blue"]


def notes() -> list[Any]:
    """Metadata with years and tags, of which some are missing, and some that are no dicts."""
    made: list[Any] = [
        {"year": 1990 + i % 40, "tags": TAGS[: i % 4], "name": f"page {i}", "score": i / 7}
        for i in range(len(X))
    ]
    for i in range(0, len(X), 9):
        del made[i]["year"]
    made[5] = "text"
    made[6] = None
    made[7]["year"] = "1994"
    return made


METADATA = notes()
CASES: list[tuple[Any, Callable[[dict[str, Any]], bool]]] = [
    ({"year": 1997}, lambda m: m.get("year") == 1997),
    ({"year": np.int64(1997)}, lambda m: m.get("year") == 1997),
    ({"year": [1997, 2003]}, lambda m: m.get("year") in (1997, 2003)),
    ({"year": {2003}}, lambda m: m.get("year") == 2003),
    ({"year": range(1990, 1995)}, lambda m: m.get("year") in range(1990, 1995)),
    ({"year": ("==", 1997)}, lambda m: m.get("year") == 1997),
    ({"year": ("!=", 1997)}, lambda m: m.get("year") != 1997),
    ({"year": ("<", 1992)}, lambda m: isinstance(m.get("year"), int) and m["year"] < 1992),
    ({"year": ("<=", 1992.0)}, lambda m: isinstance(m.get("year"), int) and m["year"] <= 1992),
    ({"year": (">", "1990")}, lambda m: m.get("year") == "1994"),
    ({"year": (">=", 2029)}, lambda m: isinstance(m.get("year"), int) and m["year"] >= 2029),
    ({"year": ("in", (1997, "1994"))}, lambda m: m.get("year") in (1997, "1994")),
    ({"year": ("not in", [1997])}, lambda m: m.get("year") != 1997),
    ({"tags": ("contains", "blue")}, lambda m: "blue" in m.get("tags", [])),
    ({"name": ("contains", "77")}, lambda m: "77" in m.get("name", "")),
    ({"name": ("contains", 7)}, lambda m: False),
    ({"tags": ("==", ["red"])}, lambda m: m.get("tags") == ["red"]),
    ({"tags": ("in", [["red"], "red"])}, lambda m: m.get("tags") == ["red"]),
    ({"year": 1997, "score": (">", 100)}, lambda m: m.get("year") == 1997 and m["score"] > 100),
    ({"nothing": 3}, lambda m: False),
    ({}, lambda m: True),
]


@cache
def filled(kind: str) -> EmbeddingStore:
    """A store that tests do not change."""
    one = EmbeddingStore("euclidean", index=None if kind == "flat" else trained(kind))
    one.add(X[:1500], metadata=METADATA[:1500])
    one.add(X[1500:1600])
    one.add(X[1600:], metadata=METADATA[1600:])
    return one


def expected(test: Callable[[Any], bool]) -> Array:
    given = [*METADATA[:1500], *[None] * 100, *METADATA[1600:]]
    return np.flatnonzero([test(note) for note in given])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_what_is_found(kind: str, case: int) -> None:
    where, test = CASES[case]
    one = filled(kind)
    found = one.search(X[:5], 20, where=where)
    ids = expected(lambda note: test(note if isinstance(note, dict) else {}))
    distances = np.square(X[:5, None].astype(np.float64) - X[ids]).sum(2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :20]
    wanted = np.full((5, 20), -1)
    wanted[:, : order.shape[1]] = ids[order]
    np.testing.assert_array_equal(found.ids, wanted)
    assert (found.ids >= 0).any() == (len(ids) > 0)


def test_a_function_gets_the_metadata() -> None:
    one = filled("flat")
    seen = one.search(X[:2], 3000, where=lambda note: note is None).ids
    np.testing.assert_array_equal(np.unique(seen), [-1, 6, *range(1500, 1600)])
    assert one.search(X[5], 1, where=lambda note: note == "text").ids.tolist() == [[5]]
    with pytest.raises(ZeroDivisionError):
        one.search(X[5], 1, where=lambda note: 1 / 0)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (3, TypeError, "where=3 must be a mapping of fields to values, or a function"),
        ({3: 4}, TypeError, "where must have strings as fields, got 3"),
        (
            {"a": ("=>", 4)},
            ValueError,
            r"where\['a'\]=\('=>', 4\) must be a value, a list .*'contains'",
        ),
        ({"a": (1, 2)}, ValueError, r"where\['a'\]=\(1, 2\) must be a value"),
        ({"a": ([], 2)}, ValueError, r"where\['a'\]=\(\[\], 2\) must be a value"),
        ({"a": ("<", 1, 2)}, ValueError, r"where\['a'\]=\('<', 1, 2\) must be a value"),
        ({"a": ("<", None)}, TypeError, r"where\['a'\]=\('<', None\) needs a number or a string"),
        ({"a": (">", True)}, TypeError, r"where\['a'\]=\('>', True\) needs a number or a string"),
        ({"a": ("in", 3)}, TypeError, r"where\['a'\]=\('in', 3\) needs a list of values"),
        ({"a": ("not in", "abc")}, TypeError, r"where\['a'\]=.* needs a list of values"),
    ],
)
def test_wrong_conditions(where: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        filled("flat").search(X[:1], 1, where=where)


def test_order_is_among_numbers_and_among_strings() -> None:
    meets = condition({"a": ("<", 5)})
    assert [meets({"a": value}) for value in (4, 4.5, 5, "4", None, True, [1])] == [
        *(True, True, False, False),
        *(False, False, False),
    ]
