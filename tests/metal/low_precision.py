"""Centroids of a row that scores in float16 or in bytes can't rule out: a simulation.

Rows and centroids are rounded, their products are exact, and the error is bounded by what rounding
left: |<x, c> - <x', c'>| <= |x - x'| |c| + |x'| |c - c'|, by Cauchy and Schwarz. What is left is
computed in float32 one by one. See metal.votes, which writes the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SAMPLE = 4096  # rows
ITERATIONS = (0, 4)  # the first and the fifth
HEAD = [
    "| case | scores | first: survivors a row | first: rows decided | fifth: survivors a row"
    " | fifth: rows decided |",
    "|---|---|---|---|---|---|",
]


def to_float16(a: Array) -> Array:
    """Round to float16; one power of two scales all values to at most 1."""
    scale = np.float32(2.0 ** np.ceil(np.log2(np.abs(a).max())))
    return (a / scale).astype(np.float16).astype(np.float32) * scale


def to_bytes(a: Array) -> Array:
    """Round to 8-bit integers, with a scale for each row."""
    scale = np.abs(a).max(1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(a / scale) * scale


FORMS = {"float16": to_float16, "int8": to_bytes}


def norms(a: Array) -> Array:
    return np.sqrt(np.einsum("nd,nd->n", a, a))


def survivors(x: Array, c: Array, labels: Array, form: str) -> tuple[float, float]:
    """Return the survivors of a row, its own centroid included, and the share of rows with none.

    Args:
        x: (n, D) float32 rows.
        c: (K, D) float32 centroids.
        labels: (n,) of the centroids before, whose exact scores are the thresholds.
        form: A key of FORMS.
    """
    bias = -0.5 * np.square(c).sum(1)
    near_x, near_c = FORMS[form](x), FORMS[form](c)
    error = np.outer(norms(x - near_x), norms(c)) + np.outer(norms(near_x), norms(c - near_c))
    # As the float32 scores round, on which labels depend.
    error += x.shape[1] * 2.0**-24 * np.outer(norms(x), norms(c))
    scores = near_x @ near_c.T + bias
    at = np.arange(len(x))
    threshold = np.einsum("nd,nd->n", x, c[labels]) + bias[labels]
    possible = scores + error >= threshold[:, None]
    possible[at, labels] = True
    count = possible.sum(1)
    return float(count.mean()), float((count == 1).mean())


def lines(name: str, x: Array, seen: list[tuple[Array, Array]]) -> list[str]:
    """Return the lines of the table for a case.

    Args:
        name: Of the case.
        x: (N, D) rows.
        seen: Centroids and the labels before them, for each of ITERATIONS.
    """
    rows = np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(np.int64)
    out = []
    for form, rounds in FORMS.items():
        cells = []
        for t, (c, labels) in zip(ITERATIONS, seen, strict=True):
            sample = x[rows]
            old = labels[rows]
            if t == 0:  # without labels, from the best of the rounded scores
                rounded = rounds(sample) @ rounds(c).T
                old = (rounded - 0.5 * np.square(c).sum(1)).argmax(1)
            count, decided = survivors(sample, c, old, form)
            cells.append(f"{count:.2f} | {decided:.2f}")
        out.append(f"| {name} | {form} | {' | '.join(cells)} |")
    return out
