"""Docstrings: shapes, arguments and examples of the public names, and the form of all. (That there is one, ruff checks.)"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import index
from flash_kmeans_mlx.neighbours.search import Search

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("flash_kmeans_mlx", "kernels", "benchmark")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
RIDDLES = ("What", "How", "Where", "Who", "Whose", "Whom")  # the first words of a question
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


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of every docstring, private ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def entries(text: str) -> Iterator[tuple[int, str]]:
    """Yield the entries of `Args:` and `Attributes:`, each with its line within a docstring."""
    found: list[tuple[int, str]] = []
    inside = False
    for number, line in enumerate(text.splitlines()):
        if line.strip() and not line.startswith(" "):
            inside = line.strip() in ("Args:", "Attributes:")
        elif inside and re.match(r" {4}\S", line):
            found.append((number, line.strip()))
        elif inside and found and line.strip():
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}"
    yield from found


def flaws(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of docstrings that begin with a question or whose entries are no sentences."""
    for first, text in docstrings(source):
        summary = text.splitlines()[0]
        if re.split(r"\W", summary, maxsplit=1)[0] in RIDDLES:
            yield first, summary
        for number, entry in entries(text):
            described = re.fullmatch(r"[^:]+?: (.+)", entry)
            if described is None or not is_sentence(described[1]):
                yield first + number, entry


def is_sentence(text: str) -> bool:
    """Return whether a description starts with a capital, a shape or a name, and ends with a full stop."""
    shape = re.match(r"\([^)]*\)(?: (?:float|int|uint|bool)\w*)?[,:]? ?", text)
    rest = text[shape.end() :] if shape else text
    return text.endswith((".", ".)", ".`")) and (shape is not None or rest[:1].upper() == rest[:1])


def test_docstrings_have_one_form() -> None:
    """The first line starts with a verb or a name; `name: Sentence with a capital and a full stop.`"""
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in SOURCES
        for line, text in sorted(flaws(path.read_text()))
    ]
    if offenders:
        pytest.fail(f"{len(offenders)} offenders\n" + "\n".join(offenders), pytrace=False)


def test_the_form_is_judged_right() -> None:
    source = '''"""What a module is."""

def right(x, y):
    """Return the sum.

    Args:
        x: (N, D) float32, points.
        y: The other one,
            over two lines.

    Returns:
        anything at all
    """

class Wrong:
    """Whatever is held.

    Attributes:
        a: lower case.
        b: No full stop
    """

    def __init__(self):
        """How it is made."""
'''
    assert [line for line, _ in sorted(flaws(source))] == [1, 19, 20, 24]
