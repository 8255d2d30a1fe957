"""Figures: ``python -m flash_kmeans_mlx.benchmark.figures``.

Writes ``colours.png``, ``digits.png`` and, given result files, ``ratios.png`` and ``indexes.png``
into a folder, ``assets`` by default. A function raises ValueError if there is nothing to draw.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import report
from .cases import photograph
from .timing import median

_GREY = "#444444"
_BLUE = "#1f6fb4"
_PALETTE = {
    "scikit-learn": "#e07b39",
    "scikit-learn-intelex": "#c9a13b",
    "faiss": "#6a9f58",
    "superkmeans": "#967662",
    "pykdtree": "#8c6bb1",
    "matmul alone": "#b8b8b8",
}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of this size in inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def plot_colours(path: Path, counts: Sequence[int] = (4, 16, 64)) -> None:
    """Draw a photograph, and the same in few colours: the centroids of its pixels."""
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
    """Draw handwritten digits by their first two principal components, by label and cluster."""
    from sklearn.datasets import load_digits

    from flash_kmeans_mlx import batch_kmeans_Euclid

    x, truth = (np.asarray(a) for a in load_digits(return_X_y=True))
    x = x.astype(np.float32)
    result = batch_kmeans_Euclid(x, 10, init="k-means++", n_init=10)
    labels = np.asarray(result.labels)
    mean = x.mean(axis=0)
    components = np.linalg.svd(x - mean, full_matrices=False)[2][:2].T
    points = (x - mean) @ components
    centres = (np.asarray(result.centroids) - mean) @ components
    majority = np.array([np.bincount(truth[labels == k], minlength=10).argmax() for k in range(10)])
    agree = float((majority[labels] == truth).mean())
    figure, axes = _figure(10, 4.6, 1, 2)
    titles = ("labels", f"clusters, in the colour of their commonest digit ({agree:.0%} agree)")
    for axis, colours, title in zip(axes, (truth, majority[labels]), titles, strict=True):
        axis.scatter(*points.T, c=colours, cmap="tab10", vmin=0, vmax=9, s=7, linewidths=0)
        axis.set_title(title, fontsize=10, color=_GREY)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    badge = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    style = {"ha": "center", "va": "center", "fontsize": 13, "weight": "bold", "bbox": badge}
    for digit in range(10):
        axes[0].annotate(str(digit), np.median(points[truth == digit], axis=0), **style)
    for centre, digit in zip(centres, majority, strict=True):
        axes[1].annotate(str(digit), centre, **style)
    figure.savefig(path, dpi=100)


def _bars(results: dict[str, Any], kind: str) -> dict[str, list[dict[str, Any]]]:
    """Return by case the rows of all contestants that passed the checks and are not ours."""
    chosen: dict[str, list[dict[str, Any]]] = {}
    for job in results["results"]:
        rows = [row for row in job["rows"] if row["contestant"] in _PALETTE and row["kind"] == kind]
        rows = [row for row in rows if row["time_over_ours"] is not None]
        if job["kind"] == kind and rows:
            chosen[job["case"]] = rows
    return chosen


def _label(row: dict[str, Any]) -> str:
    """Return the ratio of times, and the inertia if it differs by more than 0.5%."""
    ratio = row["time_over_ours"]
    excess = 0.0 if row["inertia_ratio"] is None else row["inertia_ratio"] - 1
    text = f" {ratio:.0f}x " if ratio >= 10 else f" {ratio:.2g}x "
    return text + (f"(inertia {excess:+.1%}) " if abs(excess) > 0.005 else "")


def plot_ratios(results: dict[str, Any], path: Path) -> None:
    """Draw others' times over ours, a panel for each kind of job."""
    titles = {
        "lloyd": "same start, same iterations",
        "fit": "whole fits, as users call them",
        "knn": "exact search",
    }
    panels = [(title, groups) for kind, title in titles.items() if (groups := _bars(results, kind))]
    if not panels:
        raise ValueError(
            "nothing to draw: it takes a time of ours and of someone else that passed the checks"
        )
    height = max(sum(len(bars) + 1 for bars in groups.values()) for _, groups in panels)
    figure, axes = _figure(6.2 * len(panels), 1.3 + 0.19 * height, 1, len(panels))
    for axis, (title, groups) in zip(np.atleast_1d(axes), panels, strict=True):
        _draw_bars(axis, groups, height)
        axis.set_title(title, fontsize=10, color=_GREY)
    from matplotlib.patches import Patch

    names = {bar["contestant"] for _, groups in panels for bars in groups.values() for bar in bars}
    handles = [Patch(color=colour, label=n) for n, colour in _PALETTE.items() if n in names]
    place = {"loc": "outside lower center", "ncols": len(handles)}
    figure.legend(handles=handles, fontsize=8, frameon=False, **place)
    _finish(figure, "time / time of flash-kmeans-mlx, right of the line is slower", results, path)


def _finish(figure: Any, title: str, results: dict[str, Any], path: Path, more: str = "") -> None:
    """Say where the figures come from, and write them."""
    where = f"{results['machine']['cpu']}, {results['threads']} threads{more}"
    figure.suptitle(f"{title} ({where})", fontsize=9, color=_GREY)
    figure.savefig(path, dpi=100)


def _draw_bars(axis: Any, groups: dict[str, list[dict[str, Any]]], height: int) -> None:
    at = 0.0
    ticks: list[float] = []
    for bars in groups.values():
        ticks.append(at + (len(bars) - 1) / 2)
        for bar in bars:
            ratio = bar["time_over_ours"]
            axis.barh(at, ratio - 1, left=1, height=0.85, color=_PALETTE[bar["contestant"]])
            side = "left" if ratio >= 1 else "right"
            axis.text(ratio, at, _label(bar), ha=side, va="center", fontsize=7)
            at += 1
        at += 1
    ratios = [bar["time_over_ours"] for bars in groups.values() for bar in bars]
    axis.axvline(1, color=_BLUE, linewidth=1.5)
    axis.set_xscale("log")
    axis.set(xlim=(min(0.5, min(ratios) / 5), max(ratios) * 5), ylim=(height - 0.5, -1))
    axis.set_yticks(ticks, list(groups))
    axis.tick_params(labelsize=9, length=0)
    axis.xaxis.set_major_formatter("{x:g}x")
    axis.spines[["top", "right", "left"]].set_visible(False)


def plot_indexes(results: dict[str, Any], path: Path) -> None:
    """Draw queries a second over recall, a panel for each index with lists."""
    indexes = [
        index
        for index in results["results"]
        if any(len(row.get("searches", ())) > 1 for row in index["rows"])
    ]
    if not indexes:
        raise ValueError("nothing to draw: no index was searched with several nprobe")
    columns = min(2, len(indexes))
    rows = -(-len(indexes) // columns)
    figure, axes = _figure(4.5 * columns, 2.8 * rows, rows, columns)
    colours = {"flash-kmeans-mlx": _BLUE, "faiss": _PALETTE["faiss"]}
    panels = np.ravel(axes)
    for panel in panels[len(indexes) :]:
        panel.remove()
    for axis, index in zip(panels, indexes, strict=False):
        for row in index["rows"]:
            name = row["contestant"]
            if name in colours and row["verdict"] == "ok":
                rates = [index["queries"] / median(spent) for spent in row["searches"].values()]
                recalls = [row["recalls"][nprobe] for nprobe in row["searches"]]
                style = {"marker": "o", "markersize": 3, "linewidth": 1.2}
                axis.plot(recalls, rates, color=colours[name], label=name, **style)
        axis.set_yscale("log")
        axis.set_title(f"{index['case']}: {index['index']}", fontsize=9, color=_GREY)
        axis.set_xlabel(f"recall@{index['k']}", fontsize=8)
        axis.set_ylabel("queries/s", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    more = f", {indexes[0]['queries']:,} queries in a batch"
    _finish(figure, "farther up and right is better", results, path, more)


def plot_disk(results: dict[str, Any], path: Path) -> None:
    """Draw the median time of every way to search in a file and to fit one."""
    _plot_ways(results, path, "seconds of a search or a fit")


def plot_distributed(results: dict[str, Any], path: Path) -> None:
    """Draw the median time of every way to fit."""
    _plot_ways(results, path, "seconds of a fit")


def plot_start(results: dict[str, Any], path: Path) -> None:
    """Draw the median time of every first call."""
    _plot_ways(results, path, "CPU seconds of the first call")


def _plot_ways(results: dict[str, Any], path: Path, title: str) -> None:
    times = {
        row["way"]: median(row["seconds"])
        for result in results["results"]
        for row in result["rows"]
        if row["seconds"] and row["verdict"] == "ok"
    }
    if not times:
        raise ValueError("nothing to draw: there are no times")
    figure, axis = _figure(7, 0.8 + 0.3 * len(times))
    bars = axis.barh(list(times), list(times.values()), color=_BLUE)
    axis.bar_label(bars, [f" {report.seconds(time)}" for time in times.values()], fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    _finish(figure, title, results, path)


def plot_growth(results: dict[str, Any], path: Path) -> None:
    """Draw times over sizes, a panel for each quantity."""
    timed = [result for result in results["results"] if result["slopes"]["iteration"] is not None]
    quantities = list(dict.fromkeys(result["quantity"] for result in timed))
    if not timed:
        raise ValueError("nothing to draw: fewer than two sizes are timed")
    figure, axes = _figure(10, 3.2, 1, len(quantities))
    panels = dict(zip(quantities, np.ravel(axes), strict=True))
    for result in timed:
        quantity = result["quantity"]
        axis = panels[quantity]
        rows = [
            row for row in result["rows"] if row["verdict"] == "ok" and row["spent"]["iteration"]
        ]
        sizes = [row["size"] for row in rows]
        colour = _BLUE if result["structure"] == "no-structure" else "#e07b39"
        for phase, style in (("seeding", "--"), ("iteration", "-")):
            times = [median(row["spent"][phase]) for row in rows]
            label = f"{phase}, {result['structure']}: {result['slopes'][phase]:.2f}"
            axis.plot(sizes, times, style, color=colour, marker="o", markersize=3, label=label)
        others = {name: size for name, size in result["middle"].items() if name != quantity}
        title = ", ".join(f"{name}={size:,}" for name, size in others.items())
        axis.set(xscale="log", yscale="log", xlabel=quantity)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
        axis.minorticks_off()
        axis.legend(fontsize=6, title="slope", title_fontsize=6)
    np.ravel(axes)[0].set_ylabel("seconds")
    _finish(figure, "growth of time", results, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_kmeans_mlx.benchmark.figures", description=__doc__
    )
    path_of = {"type": Path, "metavar": "PATH"}
    parser.add_argument("--results", help="a result file of the suite kmeans", **path_of)
    parser.add_argument("--indexes", help="a result file of the suite index", **path_of)
    parser.add_argument(
        "--out", type=Path, default=Path("assets"), help="folder; default %(default)s"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    plot_colours(options.out / "colours.png")
    plot_digits(options.out / "digits.png")
    for source, suite, plot, name in (
        (options.results, "kmeans", plot_ratios, "ratios.png"),
        (options.indexes, "index", plot_indexes, "indexes.png"),
    ):
        if source is not None:
            try:
                plot(report.read(source, suite), options.out / name)
            except (OSError, ValueError) as error:
                parser.error(f"{source}: {error}")
    for path in sorted(options.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
