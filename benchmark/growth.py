"""How time grows with N, K and D: ``python -m flash_kmeans_mlx.benchmark.growth``.

One quantity at a time doubles from the middle of its range on, for points without structure and for clustered ones of low
rank; the slope of time on doubly logarithmic axes is 1 where time is proportional. Writes ``growth.png`` with ``--plot``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .cases import Array, Case, embeddings, gauss

SIZES = {"N": (12_500, 25_000, 50_000, 100_000), "K": (64, 128, 256, 512), "D": (64, 128, 256, 512)}
MIDDLE = {"N": 50_000, "K": 256, "D": 128}
KINDS = {"no structure": gauss, "low rank": embeddings}
ITERS = 10


def seconds(case: Case, runs: int) -> tuple[float, float]:
    """(seeding, iteration): medians of k-means++ and of one of `ITERS` iterations from rows."""
    from flash_kmeans_mlx import batch_kmeans_Euclid

    x = case.data()
    start = case.start(x)[0]
    batch_kmeans_Euclid(x[0, :5000], min(case.K, 100), 2, init="k-means++")
    seeding, iteration = [], []
    for seed in range(runs):
        result = batch_kmeans_Euclid(x[0], case.K, 0, init="k-means++", seed=seed)
        seeding.append(result.seconds["seeding"])
        begin = perf_counter()
        result = batch_kmeans_Euclid(x[0], case.K, ITERS, init_centroids=start)
        iteration.append((perf_counter() - begin) / result.n_iter)
    return float(np.median(seeding)), float(np.median(iteration))


def slope(sizes: Sequence[int], times: Array) -> float:
    """Of log time over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def measure(runs: int) -> dict[tuple[str, str], Array]:
    """By kind of points and by quantity, times (sizes, 2) of seeding and of an iteration."""
    found = {}
    for kind, make in KINDS.items():
        for quantity, sizes in SIZES.items():
            shapes = ({**MIDDLE, quantity: size} for size in sizes)
            cases = (Case("growth", 1, s["N"], s["D"], s["K"], ITERS, make) for s in shapes)
            found[kind, quantity] = np.array([seconds(case, runs) for case in cases])
    return found


def plot(found: dict[tuple[str, str], Array], path: Path) -> None:
    """Times over sizes, a panel for each quantity."""
    from .figures import figure_of

    figure, axes = figure_of(10, 3.2, 1, len(SIZES))
    for axis, (quantity, sizes) in zip(axes, SIZES.items(), strict=True):
        for colour, kind in zip(("#1f6fb4", "#e07b39"), KINDS, strict=True):
            for column, style, phase in ((0, "--", "k-means++"), (1, "-", "iteration")):
                times = found[kind, quantity][:, column]
                label = f"{phase}, {kind}: {slope(sizes, times):.2f}"
                axis.plot(sizes, times, style, color=colour, marker="o", markersize=3, label=label)
        others = ", ".join(f"{name}={size:,}" for name, size in MIDDLE.items() if name != quantity)
        axis.set(xscale="log", yscale="log", title=others)
        axis.set_xlabel(quantity)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        axis.minorticks_off()
        axis.title.set_fontsize(9)
        axis.legend(fontsize=6, title="slope", title_fontsize=6)
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the slopes and draws them."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_kmeans_mlx.benchmark.growth", description=__doc__
    )
    parser.add_argument("--runs", type=int, default=3, help="of each size; default %(default)s")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw the times here (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    found: dict[tuple[str, str], Any] = measure(options.runs)
    for (kind, quantity), times in found.items():
        seeding, iteration = (slope(SIZES[quantity], column) for column in times.T)
        print(
            f"{kind}: time grows as {quantity}^{seeding:.2f} in k-means++, {quantity}^{iteration:.2f} in an iteration"
        )
    if options.plot:
        plot(found, options.plot)
        print(f"written: {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
