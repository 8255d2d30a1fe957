"""The README's figures: ``python -m flash_kmeans_mlx.benchmark.figures``.

Writes ``colours.png``, ``digits.png`` and, given a result file, ``ratios.png`` into a folder, ``assets`` by default.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cases import photograph

_GREY = "#444444"
_PALETTE = {
    "flash-kmeans-mlx": "#1f6fb4",
    "scikit-learn": "#e07b39",
    "faiss": "#6a9f58",
    "superkmeans": "#967662",
    "matmul alone": "#b8b8b8",
}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def plot_colours(path: Path, counts: Sequence[int] = (4, 16, 64)) -> None:
    """A photograph beside itself in few colours: the centroids of its pixels."""
    from flash_kmeans_mlx import batch_kmeans_Euclid

    image = photograph()
    pixels = image.reshape(-1, 3).astype(np.float32)
    figure, axes = _figure(11, 2.2, 1, 1 + len(counts))
    panels = [("original", image)]
    for k in counts:
        result = batch_kmeans_Euclid(pixels, k, init="k-means++")
        colours = np.clip(np.rint(np.asarray(result.centroids)), 0, 255).astype(np.uint8)
        panels.append((f"{k} colours", colours[np.asarray(result.labels)].reshape(image.shape)))
    for axis, (title, panel) in zip(axes, panels, strict=True):
        axis.imshow(panel, interpolation="antialiased")
        axis.set_title(title, fontsize=10, color=_GREY)
        axis.axis("off")
    figure.savefig(path, dpi=100)


def plot_digits(path: Path) -> None:
    """Handwritten digits in the plane of their first two principal components, by label and by cluster."""
    from sklearn.datasets import load_digits

    from flash_kmeans_mlx import batch_kmeans_Euclid

    x, truth = (np.asarray(a) for a in load_digits(return_X_y=True))
    x = x.astype(np.float32)
    result = batch_kmeans_Euclid(x, 10, init="k-means++", n_init=10)
    labels, centroids = np.asarray(result.labels), np.asarray(result.centroids)
    mean = x.mean(axis=0)
    axes_of_x = np.linalg.svd(x - mean, full_matrices=False)[2][:2].T
    points, centres = (x - mean) @ axes_of_x, (centroids - mean) @ axes_of_x
    majority = np.array([np.bincount(truth[labels == k], minlength=10).argmax() for k in range(10)])
    agree = float((majority[labels] == truth).mean())
    figure, axes = _figure(10, 4.6, 1, 2)
    titles = ("labels", f"clusters, in the colour of their commonest digit ({agree:.0%} agree)")
    for axis, colours, title in zip(axes, (truth, majority[labels]), titles, strict=True):
        axis.scatter(*points.T, c=colours, cmap="tab10", vmin=0, vmax=9, s=7, linewidths=0)
        axis.set_title(title, fontsize=10, color=_GREY)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for digit in range(10):
        position = np.median(points[truth == digit], axis=0)
        axes[0].annotate(str(digit), position, ha="center", va="center", fontsize=13, weight="bold", bbox=_badge())
    for centre, digit in zip(centres, majority, strict=True):
        axes[1].annotate(str(digit), centre, ha="center", va="center", fontsize=13, weight="bold", bbox=_badge())
    figure.savefig(path, dpi=100)


def _badge() -> dict[str, Any]:
    return {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


def _bars(results: dict[str, Any], kind: str) -> dict[str, dict[str, float]]:
    """Time over ours of every contestant with a time, by case."""
    chosen: dict[str, dict[str, float]] = {}
    for job in results["jobs"]:
        if job["kind"] == kind:
            ratios = {
                row["contestant"]: row["time_over_ours"]
                for row in job["rows"]
                if row["kind"] == kind and row["time_over_ours"] is not None and row["contestant"] in _PALETTE
            }
            if ratios:
                chosen[job["case"]] = ratios
    return chosen


def plot_ratios(results: dict[str, Any], path: Path) -> None:
    """Times of a result file relative to ours, a panel for Lloyd from one start and one for whole fits.

    Raises:
        ValueError: The file has no time of ours.
    """
    titles = {"lloyd": "same start, same iterations", "fit": "whole fits, as users call them"}
    panels = [(title, bars) for kind, title in titles.items() if (bars := _bars(results, kind))]
    if not panels:
        raise ValueError("no times to draw: no contestant passed the checks")
    height = max(sum(len(ratios) + 1 for ratios in bars.values()) for _, bars in panels)
    figure, axes = _figure(6.5 * len(panels), 1.2 + 0.16 * height, 1, len(panels))
    for axis, (title, bars) in zip(np.atleast_1d(axes), panels, strict=True):
        _draw_bars(axis, bars)
        axis.set_title(title, fontsize=10, color=_GREY)
    machine = results["machine"]
    figure.supxlabel(
        f"time / time of flash-kmeans-mlx, {machine['cpu']}, {results['threads']} threads", fontsize=9, color=_GREY
    )
    figure.savefig(path, dpi=100)


def _draw_bars(axis: Any, bars: dict[str, dict[str, float]]) -> None:
    at = 0.0
    ticks: list[float] = []
    shown: set[str] = set()
    for ratios in bars.values():
        names = [name for name in _PALETTE if name in ratios]
        ticks.append(at + (len(names) - 1) / 2)
        for name in names:
            label = None if name in shown else name
            axis.barh(at, ratios[name], height=0.9, color=_PALETTE[name], label=label)
            axis.annotate(
                f"{ratios[name]:.2g}x", (ratios[name], at), (3, 0), textcoords="offset points", va="center", fontsize=7
            )
            shown.add(name)
            at += 1
        at += 1
    axis.axvline(1, color=_GREY, linewidth=0.8)
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_yticks(ticks, list(bars))
    axis.tick_params(labelsize=9, length=0)
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="best")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures."""
    parser = argparse.ArgumentParser(prog="python -m flash_kmeans_mlx.benchmark.figures", description=__doc__)
    parser.add_argument("--results", type=Path, metavar="PATH", help="a result file of the benchmark, for ratios.png")
    parser.add_argument("--out", type=Path, default=Path("assets"), help="folder; default %(default)s")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    plot_colours(options.out / "colours.png")
    plot_digits(options.out / "digits.png")
    if options.results is not None:
        plot_ratios(json.loads(options.results.read_text()), options.out / "ratios.png")
    for path in sorted(options.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
