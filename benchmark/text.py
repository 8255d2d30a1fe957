"""Real text as points: paragraphs of Python sources, which every machine has.

They differ from machine to machine, as those of the standard library come first and those of
installed packages follow.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .gate import unit_rows

PARAGRAPHS = 60_000  # at most
_SHORTEST = 40  # characters of a paragraph
_PACKAGES = {"site-packages", "dist-packages"}


def points(d: int) -> Any:
    """Return the unit rows of all paragraphs, float32: TF-IDF, reduced by a truncated SVD.

    There are at most `PARAGRAPHS` rows and d columns, and fewer where the text has fewer paragraphs
    or words.
    """
    return _reduced(PARAGRAPHS, d)


@lru_cache(maxsize=1)  # the cases of one size follow one another
def _reduced(count: int, d: int) -> Any:
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    weights = _tf_idf(count)
    svd = TruncatedSVD(min(d, *weights.shape), n_iter=2, random_state=0)
    with threadpool_limits(1, "blas"):  # two threads take ten times as long on a busy machine
        return unit_rows(svd.fit_transform(weights))


@lru_cache(maxsize=1)
def _tf_idf(count: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    options = {"min_df": 5, "max_features": 30_000, "sublinear_tf": True, "dtype": np.float32}
    return TfidfVectorizer(**options).fit_transform(paragraphs(count))


def paragraphs(count: int) -> list[str]:
    """Return the first paragraphs of docstrings, `count` of them or as many as there are."""
    found: dict[str, None] = {}  # a set in order
    for path in _sources():
        for text in _docstrings(path):
            for part in re.split(r"\n\s*\n", text):
                paragraph = " ".join(part.split())
                if len(paragraph) >= _SHORTEST:
                    found[paragraph] = None
        if len(found) >= count:
            break
    return list(found)[:count]


def _sources() -> Iterator[Path]:
    """Yield the Python files of the standard library, then those of installed packages."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not _PACKAGES & set(path.parts):
            yield path
    for folder in map(Path, sys.path):
        if folder.name in _PACKAGES:
            yield from sorted(folder.rglob("*.py"))


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file; nothing if it can't be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes
            nodes: list[ast.AST] = [ast.parse(path.read_text("utf8"))]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in nodes:  # which grows
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""
        nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
