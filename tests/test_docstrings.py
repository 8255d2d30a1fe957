"""Docstrings of the public names: shapes, arguments, and examples that run. (That there is one at all, ruff checks.)"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index
from flash_kmeans_mlx.neighbours.search import Search

VERBS = [
    v
    for name, v in vars(fk.FlashKMeans).items()
    if inspect.isfunction(v) and not name.startswith("_")
]
ON_ARRAYS = [fk.assign, fk.batch_kmeans_Euclid, fk.FlashKMeans, fk.KMeansResult]


def modules() -> Iterator[str]:
    for info in pkgutil.walk_packages(fk.__path__, "flash_kmeans_mlx."):
        if not info.name.startswith(("flash_kmeans_mlx.kernels", "flash_kmeans_mlx.benchmark")):
            yield info.name


def doc(thing: Any) -> str:
    return thing.__doc__ or ""


@pytest.mark.parametrize("thing", ON_ARRAYS, ids=lambda t: t.__name__)
def test_shapes_are_named(thing: Any) -> None:
    assert re.search(r"\(B, N(, D)?\)", doc(thing))
    assert re.search(r"\(B, K, D\)", doc(thing))


@pytest.mark.parametrize(
    "verb", [v for v in VERBS if v.__name__ not in {"save", "load"}], ids=lambda v: v.__name__
)
def test_verbs_name_the_shape_of_what_they_take_or_give(verb: Any) -> None:
    assert re.search(r"\(B(, [NKD])*,?\)", doc(verb))


@pytest.mark.parametrize(
    "function", [fk.batch_kmeans_Cosine, fk.batch_kmeans_Dot], ids=lambda f: f.__name__
)
def test_the_other_metrics_say_where_their_arguments_are_described(function: Any) -> None:
    assert "as in `batch_kmeans_Euclid`" in doc(function)
    assert "normalised" in doc(function)


@pytest.mark.parametrize("thing", [fk.knn, fk.KNN, Search], ids=lambda t: t.__name__)
def test_searches_name_shapes(thing: Any) -> None:
    assert re.search(r"\(B, [QN], D\)", doc(thing)) and re.search(r"\([QN], D\)", doc(thing))


@pytest.mark.parametrize(
    "thing",
    [fk.assign, fk.batch_kmeans_Euclid, fk.FlashKMeans, fk.knn, fk.KNN, Search],
    ids=lambda t: t.__name__,
)
def test_every_argument_is_described(thing: Any) -> None:
    described = {
        name
        for line in re.findall(r"^ {4,8}([\w, ]+): ", doc(thing), re.MULTILINE)
        for name in line.split(", ")
    }
    assert set(inspect.signature(thing).parameters) <= described


@pytest.mark.parametrize(
    "kind", [v for v in vars(index).values() if inspect.isclass(v)], ids=lambda k: k.__name__
)
def test_indexes_describe_arguments_and_shapes(kind: Any) -> None:
    described = {
        name
        for line in re.findall(r"^ {4,8}([\w, ]+): ", doc(kind), re.MULTILINE)
        for name in line.split(", ")
    }
    assert set(inspect.signature(kind).parameters) <= described
    assert all(
        "(N, D)" in doc(getattr(kind, verb)) for verb in ("train", "add") if hasattr(kind, verb)
    )


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.FAIL_FAST).failed == 0


def test_the_main_entries_have_examples() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    for thing in (fk.batch_kmeans_Euclid, fk.FlashKMeans, fk.knn, fk.KNN):
        assert finder.find(thing)[0].examples
