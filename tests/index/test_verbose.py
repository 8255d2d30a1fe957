"""`train(x, verbose=True)` prints a line per iteration of each stage, and changes no bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.index import (
    IndexFlat,
    IndexIVFFlat,
    IndexIVFPQ,
    IndexPQ,
    IndexPreTransform,
    IndexRefine,
    OPQMatrix,
    ProductQuantizer,
)

X = np.random.default_rng(0).standard_normal((500, 8), np.float32)
K_MEANS = re.compile(
    r"(\w+): iteration (\d+): shift \S+, inertia \S+, \d+ empty clusters, \d+ running"
)
ROTATION = re.compile(r"(rotation): (\d+) of 6, squared error (\S+)")


def rotation() -> OPQMatrix:
    return OPQMatrix(8, 4, 3, niter=6)


def pq(metric: str = "euclidean") -> IndexPQ:
    return IndexPQ(8, 4, 3, metric, niter=5)


# What is trained, and its stages.
CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "flat": (lambda: IndexFlat(8), []),
    "ivf": (lambda: IndexIVFFlat(8, 9, "dot", niter=5), ["lists"]),
    "ivfpq": (lambda: IndexIVFPQ(8, 9, 4, 3, niter=5), ["lists", "codebooks"]),
    "pq": (lambda: pq("cosine"), ["codebooks"]),
    "quantizer": (lambda: ProductQuantizer(8, 4, 3, niter=5), ["codebooks"]),
    "opq": (rotation, ["rotation"]),
    "opq,pq": (lambda: IndexPreTransform(rotation(), pq()), ["rotation", "codebooks"]),
    "pq,refine": (lambda: IndexRefine(pq("dot")), ["codebooks"]),
    "opq,ivfpq": (
        lambda: IndexPreTransform(rotation(), IndexIVFPQ(8, 9, 4, 3, niter=5)),
        ["rotation", "lists", "codebooks"],
    ),
}


def learned(trained: Any) -> list[bytes]:
    if isinstance(trained, OPQMatrix):
        assert trained.matrix is not None
        return [trained.matrix.tobytes()]
    if isinstance(trained, ProductQuantizer):
        return [trained.trained("test").tobytes()]
    arrays = trained.state()[1]
    return [arrays[name].tobytes() for name in sorted(arrays)]


@pytest.mark.filterwarnings("ignore:.*training vectors")
@pytest.mark.parametrize("kind", CASES)
def test_the_lines(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, stages = CASES[kind]
    quiet, verbose = make(), make()
    quiet.train(X)
    assert capsys.readouterr().out == ""
    verbose.train(X, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    found = [K_MEANS.fullmatch(line) or ROTATION.fullmatch(line) for line in lines]
    groups = [(match[1], int(match[2])) for match in found if match]
    assert len(groups) == len(lines)
    by_stage = {
        stage: [n for _, n in of_it] for stage, of_it in groupby(groups, lambda group: group[0])
    }
    assert list(by_stage) == stages
    for stage, numbers in by_stage.items():
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) == 6 if stage == "rotation" else len(numbers) <= 25
    errors = [float(match[3]) for line in lines if (match := ROTATION.fullmatch(line))]
    assert errors[-1:] <= errors[:1]
    assert learned(verbose) == learned(quiet)


def test_a_trained_rotation_is_no_stage(capsys: pytest.CaptureFixture[str]) -> None:
    transform = rotation()
    transform.train(X)
    IndexPreTransform(transform, pq()).train(X, verbose=True)
    assert all(line.startswith("codebooks: ") for line in capsys.readouterr().out.splitlines())


def test_it_is_true_or_false() -> None:
    for make, _ in CASES.values():
        with pytest.raises(TypeError, match="verbose='yes' must be True or False"):
            make().train(X, verbose="yes")
