"""The README's figures: ``python -m flash_kmeans_mlx.benchmark.figures``.

Writes ``colours.png``, ``digits.png`` and, given result files, ``ratios.png`` and ``indexes.png`` into a folder, ``assets`` by
default.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cases import photograph

_GREY = "#444444"
_BLUE = "#1f6fb4"
_PALETTE = {
    "scikit-learn": "#e07b39",
    "scikit-learn-intelex": "#c9a13b",
    "faiss": "#6a9f58",
    "superkmeans": "#967662",
    "matmul alone": "#b8b8b8",
}


def figure_of(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure of this size in inches, and its axes."""
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
    figure, axes = figure_of(11, 2.2, 1, 1 + len(counts))
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
    figure, axes = figure_of(10, 4.6, 1, 2)
    titles = ("labels", f"clusters, in the colour of their commonest digit ({agree:.0%} agree)")
    for axis, colours, title in zip(axes, (truth, majority[labels]), titles, strict=True):
        axis.scatter(*points.T, c=colours, cmap="tab10", vmin=0, vmax=9, s=7, linewidths=0)
        axis.set_title(title, fontsize=10, color=_GREY)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for digit in range(10):
        position = np.median(points[truth == digit], axis=0)
        axes[0].annotate(
            str(digit),
            position,
            ha="center",
            va="center",
            fontsize=13,
            weight="bold",
            bbox=_badge(),
        )
    for centre, digit in zip(centres, majority, strict=True):
        axes[1].annotate(
            str(digit), centre, ha="center", va="center", fontsize=13, weight="bold", bbox=_badge()
        )
    figure.savefig(path, dpi=100)


def _badge() -> dict[str, Any]:
    return {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


@dataclass(frozen=True)
class _Bar:
    contestant: str
    ratio: float
    inertia: float | None

    @property
    def text(self) -> str:
        """The ratio, with the inertia where it differs by more than 0.5%."""
        excess = 0.0 if self.inertia is None else self.inertia - 1
        ratio = f"{self.ratio:.0f}" if self.ratio >= 10 else f"{self.ratio:.2g}"
        return f" {ratio}x " + (f"(inertia {excess:+.1%}) " if abs(excess) > 0.005 else "")


def _bars(results: dict[str, Any], kind: str) -> dict[str, list[_Bar]]:
    """By case, the time over ours of every contestant that passed the checks."""
    chosen: dict[str, list[_Bar]] = {}
    for job in results["jobs"]:
        bars = [
            _Bar(row["contestant"], row["time_over_ours"], row["inertia_ratio"])
            for row in job["rows"]
            if row["kind"] == kind
            and row["time_over_ours"] is not None
            and row["contestant"] in _PALETTE
        ]
        if job["kind"] == kind and bars:
            chosen[job["case"]] = bars
    return chosen


def plot_ratios(results: dict[str, Any], path: Path) -> None:
    """Others' times of a result file over ours, a panel for Lloyd from one start and one for whole fits.

    Raises:
        ValueError: There is no time of ours, or of nobody else, to compare.
    """
    titles = {"lloyd": "same start, same iterations", "fit": "whole fits, as users call them"}
    panels = [(title, groups) for kind, title in titles.items() if (groups := _bars(results, kind))]
    if not panels:
        raise ValueError(
            "nothing to draw: it takes a time of ours and of someone else that passed the checks"
        )
    height = max(sum(len(bars) + 1 for bars in groups.values()) for _, groups in panels)
    figure, axes = figure_of(6.2 * len(panels), 1.3 + 0.19 * height, 1, len(panels))
    for axis, (title, groups) in zip(np.atleast_1d(axes), panels, strict=True):
        _draw(axis, groups, height)
        axis.set_title(title, fontsize=10, color=_GREY)
    from matplotlib.patches import Patch

    names = {bar.contestant for _, groups in panels for bars in groups.values() for bar in bars}
    handles = [
        Patch(color=colour, label=name) for name, colour in _PALETTE.items() if name in names
    ]
    machine = results["machine"]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False
    )
    where = f"{machine['cpu']}, {results['threads']} threads"
    figure.suptitle(
        f"time / time of flash-kmeans-mlx, right of the line is slower ({where})",
        fontsize=9,
        color=_GREY,
    )
    figure.savefig(path, dpi=100)


def _draw(axis: Any, groups: dict[str, list[_Bar]], height: int) -> None:
    at = 0.0
    ticks: list[float] = []
    for bars in groups.values():
        ticks.append(at + (len(bars) - 1) / 2)
        for bar in bars:
            axis.barh(at, bar.ratio - 1, left=1, height=0.85, color=_PALETTE[bar.contestant])
            axis.text(
                bar.ratio,
                at,
                bar.text,
                ha="left" if bar.ratio >= 1 else "right",
                va="center",
                fontsize=7,
            )
            at += 1
        at += 1
    ratios = [bar.ratio for bars in groups.values() for bar in bars]
    axis.axvline(1, color=_BLUE, linewidth=1.5)
    axis.set_xscale("log")
    axis.set(xlim=(min(0.5, min(ratios) / 5), max(ratios) * 5), ylim=(height - 0.5, -1))
    axis.set_yticks(ticks, list(groups))
    axis.tick_params(labelsize=9, length=0)
    axis.xaxis.set_major_formatter("{x:g}x")
    axis.spines[["top", "right", "left"]].set_visible(False)


def plot_indexes(results: dict[str, Any], path: Path) -> None:
    """Queries a second over recall, a panel for each index with lists in a result file of the suite ``index``."""
    indexes = [
        index
        for index in results["indexes"]
        if any(len(entry["searches"]) > 1 for entry in index["entries"])
    ]
    if not indexes:
        raise ValueError("nothing to draw: no index was searched with several nprobe")
    columns = min(2, len(indexes))
    rows = -(-len(indexes) // columns)
    figure, axes = figure_of(4.5 * columns, 2.8 * rows, rows, columns)
    colours = {"flash-kmeans-mlx": _BLUE, "faiss": _PALETTE["faiss"]}
    panels = np.ravel(axes)
    for panel in panels[len(indexes) :]:
        panel.remove()
    for axis, index in zip(panels, indexes, strict=False):
        for entry in index["entries"]:
            if entry["contestant"] in colours and not entry["problem"]:
                rates = [
                    index["queries"] / float(np.median(spent))
                    for spent in entry["searches"].values()
                ]
                recalls = [entry["recalls"][nprobe] for nprobe in entry["searches"]]
                colour = colours[entry["contestant"]]
                axis.plot(
                    recalls,
                    rates,
                    color=colour,
                    label=entry["contestant"],
                    marker="o",
                    markersize=3,
                    linewidth=1.2,
                )
        axis.set_yscale("log")
        axis.set_title(f"{index['case']}: {index['index']}", fontsize=9, color=_GREY)
        axis.set_xlabel(f"recall@{index['k']}", fontsize=8)
        axis.set_ylabel("queries/s", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8, frameon=False)
    where = f"{results['machine']['cpu']}, {results['threads']} threads, {indexes[0]['queries']:,} queries in a batch"
    figure.suptitle(f"farther up and right is better ({where})", fontsize=9, color=_GREY)
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_kmeans_mlx.benchmark.figures", description=__doc__
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="PATH",
        help="a result file of the benchmark, for ratios.png",
    )
    parser.add_argument(
        "--indexes", type=Path, metavar="PATH", help="one of its suite index, for indexes.png"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("assets"), help="folder; default %(default)s"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    plot_colours(options.out / "colours.png")
    plot_digits(options.out / "digits.png")
    for source, plot, name in (
        (options.results, plot_ratios, "ratios.png"),
        (options.indexes, plot_indexes, "indexes.png"),
    ):
        if source is not None:
            try:
                plot(json.loads(source.read_text()), options.out / name)
            except (OSError, ValueError) as error:
                parser.error(f"{source}: {error}")
    for path in sorted(options.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
