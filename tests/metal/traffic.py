"""Bytes between the Metal kernels and device memory, beside the least that their tiling must move.

    PYTHONPATH=tests python -m metal.traffic

prints the table and writes it to benchmark/results/metal-bytes.md. The emulator counts. Traffic of
assign, argmax and topk is counted as lanes ask, that of sums (with their sort) and moves as each
byte once per threadgroup. A case is counted on some of its rows: traffic per row is the
same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from flash_kmeans_mlx.backends.metal import kernels, launch, sums, sums_launch, topk
from flash_kmeans_mlx.backends.metal.device import Device, ceil_div
from metal.emulator import EmulatedKernel, emulation

TABLE = Path(__file__).parents[2] / "benchmark" / "results" / "metal-bytes.md"
KERNELS = ("assign", "argmax", "topk", "topk of rows", "sums", "move")
TOP = 8
UNIFORM = ("sizes", "running")
LINE = 128
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


Counted = tuple[tuple[int, int], int, int]  # of `count`; the least; floating-point operations


@dataclass(frozen=True)
class Row:
    """A line of the table: what one kernel moves and computes for one case.

    `lines` are the bytes of the whole lines that threadgroups fetch between two barriers.
    """

    kernel: str
    case: str
    dtype: str
    rows: int
    moved: int
    least: int
    flops: int
    lines: int

    @property
    def ratio(self) -> float:
        return self.moved / self.least


def count(call: Callable[[], object], *, once: bool = False) -> tuple[int, int]:
    """Return the bytes that kernels move in a call, and those of lines of memory that they fetch.

    What all lanes read alike isn't counted.
    """
    with emulation(count=True) as run:
        call()
    moved = [t for launched in run.launches for t in launched.buffers if t.name not in UNIFORM]
    total = sum(t.read_once + t.written_once if once else t.read + t.written for t in moved)
    return total, sum(LINE * t.fetched for t in moved)


def least_assign(
    n: int, k: int, d: int, itemsize: int, tiles: launch.Tiles | launch.PointTiles, top: int = 1
) -> int:
    """Bytes of points, centroids and results.

    x is read once, or once per tile of centroids where it is streamed; centroids and bias once per
    tile of rows.
    """
    streamed = isinstance(tiles, launch.Tiles) and tiles.res == 0
    x = n * d * itemsize * (ceil_div(k, tiles.centroids) if streamed else 1)
    return x + ceil_div(n, tiles.rows) * k * (d + 1) * 4 + 8 * n * top


def draw(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(shape).standard_normal(shape, np.float32))


def rows_of(kernel: str, case: str, dtype: mx.Dtype, d: int, k: int, n: int) -> Row:
    """A line of the table: one of KERNELS over n rows."""
    top = min(TOP, k) if kernel.startswith("topk") else 1
    rows = k if kernel == "move" else n
    (moved, lines), least, flops = {
        "assign": _assign,
        "argmax": _argmax,
        "topk": _topk,
        "topk of rows": _top_of_rows,
        "sums": _sums,
        "move": _move,
    }[kernel](dtype, d, k, n, top)
    return Row(kernel, case, str(dtype).rpartition(".")[2], rows, moved, least, flops, lines)


def _assign(dtype: mx.Dtype, d: int, k: int, n: int, _: int) -> Counted:
    x, c, bias = draw(1, n, d).astype(dtype), draw(1, k, d), draw(1, k)
    moved = count(lambda: kernels.assign(x, c, bias, device=Busy()))
    return moved, least_assign(n, k, d, dtype.size, launch.assign_tiles(d)[0]), 2 * n * k * d


def _topk(dtype: mx.Dtype, d: int, k: int, n: int, top: int) -> Counted:
    x, c, bias = draw(1, n, d).astype(dtype), draw(1, k, d), draw(1, k)
    moved = count(lambda: topk.topk(x, c, bias, top, device=Busy()))
    return moved, least_assign(n, k, d, dtype.size, launch.topk_tiles(d), top), 2 * n * k * d


def _argmax(dtype: mx.Dtype, _: int, k: int, n: int, __: int) -> Counted:
    scores = draw(n, k).astype(dtype)
    return count(lambda: kernels.argmax(scores)), scores.nbytes + 8 * n, n * k


def _top_of_rows(dtype: mx.Dtype, _: int, k: int, n: int, top: int) -> Counted:
    scores = draw(n, k).astype(dtype)
    return count(lambda: topk.top_of_rows(scores, top)), scores.nbytes + 8 * n * top, n * k


def _sums(dtype: mx.Dtype, d: int, k: int, n: int, _: int) -> Counted:
    x = draw(1, n, d).astype(dtype)
    labels = mx.array(np.random.default_rng(0).integers(0, k, (1, n)).astype(np.uint32))
    moved, lines = count(lambda: sums.accumulate(x, labels, k), once=True)
    # Labels of the E-step, old ones and new ones; the order if there is one.
    arrays = 3 if k <= sums_launch.DENSE_CLUSTERS else 4
    return (moved, lines), x.nbytes + arrays * 4 * n + 4 * k * (d + 2), 2 * n * d


def _move(_: mx.Dtype, d: int, k: int, __: int, ___: int) -> Counted:
    c, weight_sum = draw(1, k, d), mx.abs(draw(1, k))
    moved = count(
        lambda: kernels.move_centroids(
            sums=c + 1,
            weight_sum=weight_sum,
            old=c,
            active=mx.array([1], mx.uint32),
            spherical=False,
        ),
        once=True,
    )
    return moved, 4 * k * (4 * d + 5), 4 * k * d


def table() -> list[Row]:
    """Every kernel at the shapes of the benchmark."""
    rows = []
    for kernel in KERNELS:
        for case, (d, k, sum_rows) in CASES.items():
            n = sum_rows if kernel == "sums" else min(sum_rows, max(64, PRODUCTS // (k * d)))
            for dtype in (mx.float32, mx.float16)[: 1 if kernel == "move" else 2]:
                rows.append(rows_of(kernel, case, dtype, d, k, n))
    return rows


def markdown(rows: list[Row]) -> str:
    lines = [
        "# Bytes that the Metal kernels move",
        "",
        "Counted by the emulator of `tests/metal` (`PYTHONPATH=tests python -m metal.traffic`), not"
        " on a GPU; no times. `least`",
        "is what the kernel's tiling must move; for sums it is x, new and old labels"
        " and order (from K = 65) moved once and the sums written once.",
        "Assign, argmax and topk as lanes ask, caches aside; sums and moves as each byte once per"
        " threadgroup.",
        "`lines`: bytes of the whole lines of 128 that threadgroups fetch between two barriers,"
        " over `bytes`.",
        "",
        "| kernel | case | D | K | dtype | rows counted | bytes | least | ratio | FLOP/byte"
        " | lines |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        d, k, _ = CASES[row.case]
        lines.append(
            f"| {row.kernel} | {row.case} | {d} | {k} | {row.dtype} | {row.rows} | {row.moved}"
            f" | {row.least} | {row.ratio:.3f} | {row.flops / row.moved:.1f}"
            f" | {row.lines / row.moved:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    mx.fast.metal_kernel = EmulatedKernel
    text = markdown(table())
    print(text)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
