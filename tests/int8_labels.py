"""Labels by 8-bit products against those of tiles, bit for bit, on random problems.

Needs NumPy and Numba only, not the package: it also runs where MLX doesn't, as in an emulator.

    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma python tests/int8_labels.py --rates
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    KERNELS = "kernels.cpu"
else:
    KERNELS = "flash_kmeans_mlx.kernels.cpu"

int8: Any = import_module(f"{KERNELS}.int8")
e_step: Any = import_module(f"{KERNELS}.int8_labels")
ir: Any = import_module(f"{KERNELS}.ir")
lanes: Any = import_module(f"{KERNELS}.lanes")
rows: Any = import_module(f"{KERNELS}.rows")
tile: Any = import_module(f"{KERNELS}.tile")

KINDS = (
    *("normal", "offset", "whole numbers", "repeated", "zero rows", "outliers", "tiny rows"),
    *("scales", "no bias", "subnormal", "near ties", "signs"),
)
TILE = 256  # rows
POINTS = lanes.POINTS
NO_WEIGHTS = np.zeros(0, np.float32)
NO_CHANGES = tile.Changes(
    np.zeros((0, 0)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_)
)


def problem(kind: str, rng: np.random.Generator, n: int, d: int, k: int) -> tuple[Any, Any, Any]:
    """Return x (n, d), c (k, d) and bias (k,), all float32."""
    x, c = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    magnitudes = 2.0 ** rng.integers(-149, 1, (n, 1))
    match kind:
        case "offset":
            x, c = x + 100, c + 100
        case "whole numbers":
            x, c = np.rint(2 * x), np.rint(2 * c)
        case "repeated":
            c = c[rng.integers(0, -(-k // 3), k)]
            x = c[rng.integers(0, k, n)] + 0.01 * x * rng.integers(0, 2, (n, 1))
        case "zero rows":
            x[rng.random(n) < 0.3] = 0
            c[rng.random(k) < 0.3] = 0
        case "outliers":
            x[rng.random((n, d)) < 0.02] *= 1e4
            c[rng.random((k, d)) < 0.01] *= 1e3
        case "tiny rows" | "no bias":
            x *= magnitudes
        case "scales":
            x *= 2.0 ** rng.integers(-100, 57)
            c *= 2.0 ** rng.integers(-100, 57)
        case "subnormal":
            x *= magnitudes * 2.0**-60
            c *= 2.0 ** rng.integers(-100, -60)
        case "signs":  # the largest sums that bytes have
            x, c = np.sign(x), np.sign(c) * rng.integers(0, 2, (k, 1))
        case "near ties":
            c = c[0] + 1e-6 * c
            x = c[0] + 1e-3 * x
    c = np.ascontiguousarray(c, np.float32)
    bias = -0.5 * np.square(c.astype(np.float64)).sum(1)
    if kind == "no bias" or (kind == "subnormal" and rng.random() < 0.5):
        bias *= 0
    return np.ascontiguousarray(x, np.float32), c, bias.astype(np.float32)


def aligned(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Return an array that begins at a cache line, of NaN: kernels must write before they read."""
    buffer = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize + 64, 0xFF, np.uint8)
    skip = -buffer.ctypes.data % 64
    return buffer[skip : buffer.size - 64 + skip].view(dtype).reshape(shape)


class Run:
    """The two ways to find the labels of one problem."""

    def __init__(self, x: np.ndarray, c: np.ndarray, bias: np.ndarray) -> None:
        self.x, self.c = x, c
        (n, d), k = x.shape, len(c)
        quads = int8.words_of(d)
        blocks, room = -(-n // POINTS), e_step.PENDING + lanes.ROWS * POINTS
        self.source = rows.Source(
            x.ctypes.data, 4 * d, 4, rows.FLOAT32, np.bool_(True), np.zeros(d), 1.0
        )
        self.scored = tile.Scored(c, bias)
        self.points = int8.Int8Points(
            aligned(blocks, quads, POINTS, dtype=np.int32), aligned(3, blocks * POINTS)
        )
        self.centroids = int8.Int8Centroids(
            values=np.zeros((k, 4 * quads), np.int8),
            start=np.zeros(k, np.int32),
            terms=np.zeros((k, 3), np.float32),
            worst=np.zeros(3, np.float32),
            top=np.zeros(1, np.int64),
        )
        self.own = e_step.Int8Scratch(
            values=np.zeros(4 * quads, np.int8),
            limits=aligned(3, POINTS),
            best=aligned(2, POINTS),
            chain=aligned(POINTS),
            known=np.zeros(POINTS, np.bool_),
            wanted=np.zeros(POINTS, np.bool_),
            bounds=aligned(lanes.ROWS, POINTS),
            masks=np.zeros(lanes.ROWS, np.int64),
            point=np.zeros(room, np.int32),
            rival=np.zeros(room, np.int32),
            reach=np.zeros(room, np.float32),
        )
        self.scratch = tile.TileScratch(
            aligned(TILE, d),
            aligned(1, d, TILE + 16),
            aligned(TILE),
            aligned(TILE, dtype=np.int32),
            aligned(TILE, dtype=np.int32),
        )

    def by_tiles(self) -> np.ndarray:
        """Return the labels that tiles find."""
        labels = np.full(len(self.x), tile.UNSET)
        tile.step_rows(
            *(self.source, NO_WEIGHTS, self.scored, self.scratch.lanes, np.bool_(True), 0),
            *(len(self.x), labels, NO_CHANGES, self.scratch),
        )
        return labels

    def by_bytes(self, labels: np.ndarray, fill: bool) -> int:
        """Replace the labels, round points anew if `fill`; return how many pairs were compared."""
        int8.round_centroids(self.scored.c, self.scored.bias, self.centroids)
        return e_step.step_rows(
            *(self.source, NO_WEIGHTS, self.scored, self.centroids, self.points, np.bool_(True)),
            *(np.bool_(fill), 0, len(self.x), labels, NO_CHANGES, self.scratch, self.own),
        )[1]


def check(kind: str, seed: int, n: int, d: int, k: int) -> None:
    """Raise AssertionError if 8-bit products give other labels than tiles, from three starts."""
    rng = np.random.default_rng(seed)
    run = Run(*problem(kind, rng, n, d, k))
    expected = run.by_tiles()
    wrong = np.where(rng.random(n) < 0.5, rng.integers(0, k, n), expected).astype(np.uint32)
    starts = {"no labels": np.full(n, tile.UNSET), "its labels": expected.copy(), "others": wrong}
    for start, labels in starts.items():
        run.by_bytes(labels, fill=start == "no labels")
        other = np.flatnonzero(labels != expected)
        assert not other.size, (
            f"{kind}, seed={seed}, n={n}, d={d}, k={k}, {ir.INT8}: from {start}, labels of rows"
            f" {other[:5]} are {labels[other[:5]]} and not {expected[other[:5]]}"
        )


def check_many(problems: int, first: int = 0) -> None:
    """Check random problems of every kind."""
    for seed in range(first, first + problems):
        rng = np.random.default_rng(seed)
        n, d, k = rng.integers(1, (301, 301, 201))
        check(KINDS[seed % len(KINDS)], seed, int(n), int(d), int(k))


def rates(n: int, d: int, k: int) -> str:
    """Return a line of how fast both are, in multiply-adds a second of its CPU time."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), np.float32)
    c = x[:k] * np.float32(0.3)
    run = Run(x, c, (-0.5 * np.square(c).sum(1)).astype(np.float32))
    labels = run.by_tiles()
    run.by_bytes(np.full(n, tile.UNSET), fill=True)
    calls = {
        "tiles": run.by_tiles,
        "first": lambda: run.by_bytes(np.full(n, tile.UNSET), fill=True),
        "again": lambda: run.by_bytes(labels, fill=False),
    }
    seconds = dict.fromkeys(calls, np.inf)
    for _ in range(9):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            seconds[name] = min(seconds[name], time.thread_time() - start)
    parts = [f"{name} {n * k * d / s / 1e9:.0f} G/s" for name, s in seconds.items()]
    ratios = [f"{seconds['tiles'] / seconds[name]:.2f}" for name in ("first", "again")]
    return f"N={n} D={d} K={k}: {', '.join(parts)}; over tiles {' and '.join(ratios)}"


def main() -> None:
    """Check problems, and print how bytes were multiplied."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first problem's number")
    parser.add_argument("--rates", action="store_true", help="print rates too")
    options = parser.parse_args()
    if not ir.INT8:
        print(f"no products of bytes, vectors of {ir.WIDTH}")
        return
    check_many(options.problems, options.first)
    print(f"{options.problems} problems with {ir.INT8}, vectors of {ir.WIDTH}")
    if options.rates:
        for shape in ((8192, 128, 512), (8192, 64, 256), (4096, 384, 256), (4096, 768, 128)):
            print(rates(*shape))


if __name__ == "__main__":
    main()
