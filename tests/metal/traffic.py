"""Bytes between the Metal kernels and device memory, counted by the emulator, beside the least that their tiling must move.

    PYTHONPATH=tests python -m metal.traffic

prints the table and writes it to benchmark/results/metal-bytes.md. Assign, argmax and topk are counted as lanes ask, sums
(with their sort) and moves as each byte once per threadgroup. A case is counted on some of its rows: traffic per row is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from flash_kmeans_mlx.backends.metal import kernels, launch
from flash_kmeans_mlx.backends.metal import kernels as topk
from flash_kmeans_mlx.backends.metal.device import Device, ceil_div
from metal.emulator import EmulatedKernel, emulation

TABLE = Path(__file__).parents[2] / "benchmark" / "results" / "metal-bytes.md"
KERNELS = ("assign", "argmax", "topk", "topk of rows", "sums", "move")
TOP = 8
PRODUCTS = 1 << 25  # N * K * D of a counted assignment
CASES = {  # of the benchmark: D, K, rows that sums are counted on
    "digits": (64, 10, 1797),
    "pixels": (3, 64, 20_000),
    "patches": (192, 1000, 20_000),
    "gauss-5k": (64, 50, 5000),
    "gauss-100k": (128, 1000, 20_000),
    "embeddings": (768, 512, 10_240),
    "batch-256": (16, 8, 500),
}


class Busy(Device):
    """A GPU that the rows alone keep busy, as those of a whole case do."""

    @property
    def threadgroups(self) -> int:
        return 1


@dataclass(frozen=True)
class Row:
    kernel: str
    case: str
    dtype: str
    rows: int
    moved: int
    least: int
    flops: int

    @property
    def ratio(self) -> float:
        return self.moved / self.least


def count(call: Callable[[], object], *, once: bool = False) -> int:
    """Bytes that kernels move in a call, but for their few sizes."""
    with emulation(count=True) as run:
        call()
    moved = [t for found in run.launches for t in found.buffers if t.name != "sizes"]
    return sum(t.read_once + t.written_once if once else t.read + t.written for t in moved)


def least_assign(
    n: int, k: int, d: int, itemsize: int, tiles: launch.Tiles | launch.PointTiles, top: int = 1
) -> int:
    """x once, or once per tile of centroids where it is streamed; centroids and bias once per tile of rows; the results."""
    streamed = isinstance(tiles, launch.Tiles) and tiles.res == 0
    x = n * d * itemsize * (ceil_div(k, tiles.centroids) if streamed else 1)
    return x + ceil_div(n, tiles.rows) * k * (d + 1) * 4 + 8 * n * top


def between(n: int, k: int, d: int) -> int:
    """What MLX's own operations move in `accumulate`: scans of the sort's counts, or the sum of dense partial sums."""
    if k <= launch.DENSE_CLUSTERS:
        return 4 * launch.dense_launch(1, n, k, d).chunks * k * (d + 1) + 4 * k * (d + 1)
    plan = launch.sort(1, n, k)
    return 4 * 5 * plan.chunks * k  # the scan reads and writes, the bases read twice and write


def draw(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(shape).standard_normal(shape, np.float32))


def rows_of(kernel: str, case: str, dtype: mx.Dtype, d: int, k: int, n: int) -> Row:
    """A line of the table: one of KERNELS over n rows."""
    x = draw(1, n, d).astype(dtype)
    name = str(dtype).rpartition(".")[2]
    if kernel == "sums":
        labels = mx.array(np.random.default_rng(0).integers(0, k, (1, n)).astype(np.uint32))
        moved = count(lambda: kernels.accumulate(x, labels, k), once=True) + between(n, k, d)
        orders = 1 if k <= launch.DENSE_CLUSTERS else 2  # labels, and the order if there is one
        return Row(
            kernel, case, name, n, moved, x.nbytes + orders * 4 * n + 4 * k * (d + 1), 2 * n * d
        )
    c, bias = draw(1, k, d), draw(1, k)
    if kernel == "move":
        sums, going = c + 1, mx.array([True])
        moved = count(
            lambda: kernels.move_centroids(sums, mx.abs(bias), c, going, spherical=False), once=True
        )
        return Row(kernel, case, name, k, moved, 4 * 4 * k * (d + 1), 4 * k * d)
    top = min(TOP, k) if kernel.startswith("topk") else 1
    if kernel in ("argmax", "topk of rows"):
        scores = draw(n, k).astype(dtype)
        moved = count(
            lambda: kernels.argmax(scores) if kernel == "argmax" else topk.top_of_rows(scores, top)
        )
        return Row(kernel, case, name, n, moved, scores.nbytes + 8 * n * top, n * k)
    if kernel == "topk":
        tiles: launch.Tiles | launch.PointTiles = launch.topk_config(d)
        moved = count(lambda: topk.topk(x, c, bias, top, device=Busy()))
    else:
        tiles = launch.assign_configs(d)[0]
        moved = count(lambda: kernels.assign(x, c, bias, device=Busy()))
    return Row(
        kernel, case, name, n, moved, least_assign(n, k, d, dtype.size, tiles, top), 2 * n * k * d
    )


def table() -> list[Row]:
    """Every kernel at the shapes of the benchmark."""
    found = []
    for kernel in KERNELS:
        for case, (d, k, rows) in CASES.items():
            for dtype in (mx.float32, mx.float16)[: 1 if kernel == "move" else 2]:
                n = rows if kernel == "sums" else min(rows, max(64, PRODUCTS // (k * d)))
                found.append(rows_of(kernel, case, dtype, d, k, n))
    return found


def markdown(rows: list[Row]) -> str:
    lines = [
        "# Bytes that the Metal kernels move",
        "",
        "Counted by the emulator of `tests/metal` (`PYTHONPATH=tests python -m metal.traffic`), not on a GPU; no times. `least`",
        "is what the kernel's tiling must move; for sums it is x, labels and order (from K = 65) read once and the sums written once.",
        "Assign, argmax and topk as lanes ask, caches aside; sums and moves as each byte once per threadgroup, with MLX's scans.",
        "",
        "| kernel | case | D | K | dtype | rows counted | bytes | least | ratio | FLOP/byte |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        d, k, _ = CASES[row.case]
        lines.append(
            f"| {row.kernel} | {row.case} | {d} | {k} | {row.dtype} | {row.rows} | {row.moved} | {row.least}"
            f" | {row.ratio:.3f} | {row.flops / row.moved:.1f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    mx.fast.metal_kernel = EmulatedKernel
    text = markdown(table())
    print(text)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
