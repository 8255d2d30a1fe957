"""Share of the fused kernel's products that bounds with votes would leave on a GPU: a simulation.

    OPENBLAS_NUM_THREADS=1 PYTHONPATH=tests python -m metal.votes [CASE ...]

prints the tables of the named cases; without names it writes those of all cases into
benchmark/results/metal-votes.md. The second table is that of low_precision.py. Points carry
an upper bound of the distance to their own centroid and a lower bound per group of centroids
(Yinyang k-means; Ding et al., 2015). Rows are taken in blocks in the order of their last label. A
block whose bounds all hold does nothing. Another one compares the groups of its own centroids first,
then every group that any of its rows still needs. Labels come from NumPy: the simulation counts.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flash_kmeans_mlx.benchmark.cases import Case, embeddings, gauss, patches, sift_like

from flash_kmeans_mlx.backends.grouping import halved
from flash_kmeans_mlx.frame import EPS
from metal import low_precision

Array = npt.NDArray[Any]
PAGE = Path(__file__).parents[2] / "benchmark" / "results" / "metal-votes.md"
MAX_ITERATIONS = 100  # the default of a fit
GROUPED = 32  # centroids: the finest group


def some_patches(case: Case, rng: np.random.Generator) -> Array:
    """Return every second patch, in the order of the photograph."""
    return patches(case, rng)[:, ::2]


PROBLEMS = (
    Case("patches-33k", 1, 33_285, 192, 500, 1, some_patches),
    Case("sift-30k", 1, 30_000, 128, 512, 1, sift_like),
    Case("embeddings-25k", 1, 25_000, 768, 256, 1, embeddings),
    Case("gauss-25k", 1, 25_000, 128, 256, 1, gauss),
)


@dataclass
class Variant:
    """One way to prune, and the bounds that it would carry.

    Attributes:
        rows: Rows of a block, which decide together.
        group: Centroids of a group.
        axis: Whether centroids are ordered along one direction, instead of halved again and again.
        sort: Order of rows: "data", "label", "margin" (of a label, by how much bounds left), "needs"
            (by label, but rows whose own bounds hold come last) or "rival" (the same, and rows of a
            label by the group of their nearest rival).
        own_always: Whether blocks compare the groups of their own centroids without a test.
        left: Shares of the products by iteration.
        idle: Shares of the rows whose block did nothing, by iteration.
    """

    rows: int = 16
    group: int = 64
    axis: bool = False
    sort: str = "label"
    own_always: bool = False
    left: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)

    def name(self) -> str:
        centroids = "axis" if self.axis else "halved"
        tested = ", own groups always" if self.own_always else ""
        return f"{self.rows} rows by {self.sort}, groups of {self.group} {centroids}{tested}"

    def start(self, n: int, k: int) -> None:
        groups = -(-k // self.group)
        self.upper = np.full(n, np.inf, np.float32)
        self.lower = np.zeros((n, groups), np.float32)
        self.order = np.arange(n)

    def step(self, t: int, now: Pass) -> None:
        """Carry the bounds to the centroids of iteration t, and count what is compared."""
        group_of = now.places[self.axis] // self.group
        groups = self.lower.shape[1]
        drift = np.zeros(groups, np.float32)
        np.maximum.at(drift, group_of, now.drift)
        n = len(now.old)
        if t and self.sort != "data":
            carried = self.upper + now.drift[now.old], self.lower - drift
            idle = ~np.any(_needed(*carried, now.error), axis=1)
            least = carried[1].min(1) - carried[0]
            keys: dict[str, tuple[Any, ...]] = {
                "label": (now.old,),
                "margin": (least, now.old),
                "needs": (now.old, idle),
                "rival": (carried[1].argmin(1), now.old, idle),
            }
            self.order = np.lexsort(keys[self.sort])
        order = self.order
        upper = self.upper[order] + now.drift[now.old[order]]
        lower = self.lower[order] - drift
        error = now.error[order]
        starts = np.arange(0, n, self.rows)

        def vote(needs: Array) -> Array:
            return np.logical_or.reduceat(needs, starts, axis=0)

        own_group = group_of[now.old[order]]
        own = np.zeros((n, groups), bool)
        own[np.arange(n), own_group] = True
        crossed = _needed(upper, lower, error)
        active = vote(np.any(crossed, axis=1))
        if self.own_always:
            active[:] = True
        own = vote(own) & active[:, None]
        sizes = np.diff(np.append(starts, n))
        within = np.repeat(np.arange(len(starts)), sizes)
        # The best score of the own group is known once that is compared.
        rest = now.rest(self.axis, self.group)[order]
        best = np.maximum(rest[np.arange(n), own_group], now.old_score[order])
        same = group_of[now.new[order]] == own_group
        best = np.where(same, now.new_score[order], best)
        tight = now.distance(best, order, above=True)
        busy = active[within]
        upper = np.where(busy, np.minimum(upper, tight), upper)
        compared = own | (vote(_needed(upper, lower, error)) & active[:, None])
        by_row = compared[within]
        self.left.append(float((compared.sum(1) * sizes).sum() / (n * groups)))
        self.idle.append(float(1 - busy.mean()))
        lower = np.where(by_row, now.distance(rest, order[:, None], above=False), lower)
        upper = np.where(busy, now.distance(now.new_score[order], order, above=True), upper)
        assert (now.new[order] == now.old[order])[~busy].all()
        self.lower[order] = lower
        self.upper[order] = upper


def _needed(upper: Array, lower: Array, error: Array) -> Array:
    """Whether a group may hold a centroid that wins in float32: bounds cross, or almost."""
    upper, error = upper[:, None], error[:, None]
    with np.errstate(invalid="ignore"):
        return ~((lower > upper) & ((lower - upper) * (lower + upper) > 4 * error))


@dataclass
class Pass:
    """One E-step in all its scores.

    Attributes:
        old, new: (N,) labels before and after.
        old_score, new_score: (N,) of these centroids.
        drift: (K,) how far centroids moved.
        places: (K,) the place of each centroid in both orders.
        groups: (N, G) largest score of each finest group without the new label, in both orders.
        square: (N,) squared norms of rows.
        error: (N,) bound of the rounding of scores.
    """

    old: Array
    new: Array
    old_score: Array
    new_score: Array
    drift: Array
    places: tuple[Array, Array]
    groups: tuple[Array, Array]
    square: Array
    error: Array

    def rest(self, axis: bool, group: int) -> Array:
        finest = self.groups[axis]
        return finest if group == GROUPED else np.maximum(finest[:, ::2], finest[:, 1::2])

    def distance(self, score: Array, rows: Array, *, above: bool) -> Array:
        """Return a bound of the distance, from above or below."""
        error = self.error[rows] if above else -self.error[rows]
        return np.sqrt(np.maximum(self.square[rows] - 2 * (score - error), 0))


def variants() -> list[Variant]:
    return [
        Variant(),
        Variant(rows=64),
        Variant(rows=128),
        Variant(group=32),
        Variant(axis=True),
        Variant(sort="data"),
        Variant(sort="margin"),
        Variant(sort="needs"),
        Variant(rows=64, sort="needs"),
        Variant(group=32, sort="needs"),
        Variant(rows=64, group=32, sort="needs"),
        Variant(group=32, sort="rival"),
        Variant(own_always=True),
    ]


def along_axis(c: Array) -> Array:
    """Return the centroids in the order of their first principal component."""
    rows = c - c.mean(0)
    return np.argsort(rows @ np.linalg.svd(rows, full_matrices=False)[2][0], kind="stable")


def fit(x: Array, c: Array, tried: list[Variant]) -> tuple[int, list[tuple[Array, Array]]]:
    """Run Lloyd's loop on rows x (N, D) from centroids c (K, D).

    Returns the iterations, and centroids with the labels before them of low_precision.ITERATIONS.
    """
    n, d = x.shape
    k = len(c)
    orders = (halved(c, GROUPED), along_axis(c))
    places = np.argsort(orders[0]), np.argsort(orders[1])
    for variant in tried:
        variant.start(n, k)
    square = np.einsum("nd,nd->n", x, x)
    previous, labels = c, np.zeros(n, np.int64)
    seen = []
    iterations = MAX_ITERATIONS
    for t in range(MAX_ITERATIONS):
        if t in low_precision.ITERATIONS:
            seen.append((c, labels))
        bias = -0.5 * np.einsum("kd,kd->k", c, c)
        error = (2 * d + 32) * EPS * (square - 2 * bias.min())
        new, old_score, new_score, groups = _scores(x, c, bias, labels, orders)
        drift = np.sqrt(np.square(c - previous).sum(1))
        now = Pass(labels, new, old_score, new_score, drift, places, groups, square, error)
        for variant in tried:
            variant.step(t, now)
        changed = t == 0 or bool((new != labels).any())
        labels, previous = new, c
        if not changed:
            iterations = t + 1
            break
        c = means(x, labels, c)
    return iterations, seen


def _scores(
    x: Array, c: Array, bias: Array, labels: Array, orders: tuple[Array, Array]
) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """Return new labels, the scores of old and new ones, and the rest of each group."""
    n, k = len(x), len(c)
    width = -(-k // 64) * 64
    new = np.empty(n, np.int64)
    old_score, new_score = np.empty((2, n), np.float32)
    groups = (
        np.empty((n, width // GROUPED), np.float32),
        np.empty((n, width // GROUPED), np.float32),
    )
    scores = np.full((2048, width), -np.inf, np.float32)
    for lo in range(0, n, 2048):
        rows = slice(lo, lo + 2048)
        plain = x[rows] @ c.T + bias
        at = np.arange(len(plain))
        new[rows] = plain.argmax(1)
        old_score[rows] = plain[at, labels[rows]]
        new_score[rows] = plain[at, new[rows]]
        plain[at, new[rows]] = -np.inf
        for order, out in zip(orders, groups, strict=True):
            scores[: len(plain), :k] = plain[:, order]
            blocks = scores[: len(plain)].reshape(len(plain), -1, GROUPED)
            out[rows] = blocks.max(2)
    return new, old_score, new_score, groups


def means(x: Array, labels: Array, c: Array) -> Array:
    """Return the mean of each cluster; an empty one keeps its centroid."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(c))
    starts = np.cumsum(counts) - counts
    filled = counts > 0
    moved = c.copy()
    sums = np.add.reduceat(x[order], starts[filled], axis=0)
    moved[filled] = sums / counts[filled, None]
    return moved


def run(case: Case) -> tuple[list[str], list[str]]:
    """Return the lines of both tables for one case."""
    start = time.process_time()
    x = case.data()
    case = case.sized_like(x)
    c = case.start(x)[0]
    rows = x[0]
    shift = rows.mean(0)
    tried = variants()
    iterations, seen = fit(rows - shift, c - shift, tried)
    lines = []
    for variant in tried:
        left = np.array(variant.left)
        at = [left[min(t, len(left)) - 1] for t in (2, 5, 10, 20, 40)]
        shares = " | ".join(f"{share:.3f}" for share in [*at, left[-1], left.mean()])
        idle = np.mean(variant.idle)
        lines.append(f"| {case.name} | {variant.name()} | {shares} | {idle:.3f} |")
    print(case.shape(), f"{iterations} iterations, {time.process_time() - start:.0f} CPU-s")
    return lines, low_precision.lines(case.name, rows - shift, seen)


HEAD = [
    "| case | votes | 2nd | 5th | 10th | 20th | 40th | last | whole fit | rows idle |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def main(names: list[str]) -> None:
    votes, scores = list(HEAD), list(low_precision.HEAD)
    for case in PROBLEMS:
        if not names or case.name in names:
            of_votes, of_scores = run(case)
            votes += of_votes
            scores += of_scores
    if names:
        print("\n".join([*votes, "", *scores, ""]))
        return
    page = PAGE.read_text(encoding="utf-8")
    for head, lines in ((HEAD, votes), (low_precision.HEAD, scores)):
        page = replace_table(page, head, lines)
    PAGE.write_text(page, encoding="utf-8")


def replace_table(page: str, head: list[str], lines: list[str]) -> str:
    """Return the page with other lines in the table that has this head."""
    before, after = page.split("\n".join(head) + "\n")
    rest = after.split("\n")
    end = next(i for i, line in enumerate(rest) if not line.startswith("|"))
    return before + "\n".join([*lines, *rest[end:]])


if __name__ == "__main__":
    main(sys.argv[1:])
