"""A model of the E-step on Apple GPUs: exact counts of the emulator, and published rates of chips.

    PYTHONPATH=tests python -m metal.model

prints the tables and writes them to benchmark/results/metal-model.md. Nothing here was measured on
a GPU. What the model assumes is in `ASSUMPTIONS`, which the tables come with.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mlx.core as mx
from flash_kmeans_mlx.benchmark.cases import CASES

from flash_kmeans_mlx.backends.metal import kernels, launch
from flash_kmeans_mlx.backends.metal.device import Device, ceil_div
from flash_kmeans_mlx.backends.metal.launch import PointTiles, Tiles
from metal.chips import CHIPS, Chip
from metal.emulator import EmulatedKernel, Launch, emulation
from metal.traffic import CASES as COUNTED
from metal.traffic import Busy, draw

TABLE = Path(__file__).parents[2] / "benchmark" / "results" / "metal-model.md"
FEATURES = (64, 128, 256, 768)
CLUSTERS = 1000
ROWS = 50_000

# Of a core, per cycle of its clock.
SCHEDULERS = 4
L1_BYTES = 64
SHARED_BYTES = 64
L2_BYTES = 32
# Cycles of a scheduler.
MATRIX_CYCLES = 18
SCORE_OPERATIONS = 3
DEVICE_OPERATIONS = 2
SHARED_OPERATIONS = 1
# Of a core.
REGISTERS = 1664  # of each lane: 208 KiB over 32 lanes
ADDRESS_REGISTERS = 24
SHARED_MEMORY = 60 << 10
SIMDGROUPS = 96
BANK_BYTES = 128  # of one cycle of the counted banks
LINE = 128
SLC_RATIO = 2  # rate of the last-level cache over that of memory
LAUNCH_SECONDS = 5e-6

ASSUMPTIONS = """\
- A core has 4 schedulers and 128 multiply-adds a cycle (metal-benchmarks). An 8x8x8 product takes
  18 cycles of a scheduler, measured on the M1 (metal-benchmarks, "MATMUL<8x8xF32> ~18"), where 16
  would be the peak: 89% of FP32 is the most that the matrix units give. The same is assumed for
  later chips.
- Other instructions share the units: 3 a score (bias; best score and index, each one comparison
  with selection), 1 for the index of a centroid once for all rows of a lane, 2 a load or store of
  device memory, 1 a load or store of threadgroup memory. These are not counted, as no compiler for
  these GPUs ran. On the M3 and later integer instructions run beside the others, which the model
  leaves out.
- Threadgroup memory has 32 banks of 4 bytes and gives 64 bytes a cycle and core: 671 GB/s were
  measured on the M1 (Chips and Cheese, 2022). The banks are an assumption, as for other GPUs.
- The first-level cache gives 64 bytes and at most one line of 128 bytes a cycle (metal-benchmarks:
  64 bytes). It keeps a line until the next barrier of the threadgroup.
- The second-level cache gives 32 bytes a cycle and core (metal-benchmarks). Centroids that fill at
  most half of it are read from the next level once.
- The last-level cache gives twice the rate of memory (metal-benchmarks; 134 GB/s on the M1 by Chips
  and Cheese). What threadgroups in flight read again hits it as far as it has room for their rows
  and all centroids.
- In flight are as many simdgroups as 208 KiB of registers (`Tiles.registers` and 24 for addresses)
  and 60 KiB of threadgroup memory hold. Latency is hidden; barriers cost nothing.
- A launch takes 5 microseconds; no source. Threadgroups are dealt evenly: the fullest core counts.
- The time is the largest of these limits and that of the launches added. float32, no
  normalisation."""


STAGING = """\
The model sees no gain, also for the M3 and later, in loading centroids straight from memory,
without threadgroup memory and barriers. By count a simdgroup with two blocks of rows would ask the
first-level cache for 4 lines a product (1.00 of the time at FP32 peak); if it loads the four
matrices of a line one after the other, the second-level cache for 128 bytes a product (1.00), and
where centroids do not fit there, the last-level cache too (2.2 on the M3 Max). The matrix units
take about 1.2 in either form."""


@dataclass(frozen=True)
class Shape:
    """A problem: B batch elements of N points of D features, K clusters."""

    name: str
    b: int
    n: int
    d: int
    k: int


@dataclass(frozen=True)
class Prediction:
    """Seconds of each limit of one E-step, and of its launches."""

    shape: Shape
    chip: Chip
    limits: dict[str, float]
    launches: float

    @property
    def seconds(self) -> float:
        return max(self.limits.values()) + self.launches

    @property
    def binding(self) -> str:
        """The limit that is the largest."""
        limits = {**self.limits, "launch": self.launches}
        return max(limits, key=lambda name: limits[name])

    @property
    def of_peak(self) -> float:
        """The share of the chip's FP32 peak."""
        s = self.shape
        return 2e-9 * s.b * s.n * s.k * s.d / self.seconds / self.chip.gflops


@cache
def count(tiles: Tiles | PointTiles, d: int, k: int) -> Launch:
    """Return the counted launch of one threadgroup over all k centroids."""
    x, c, bias = draw(1, tiles.rows, d), draw(1, k, d), draw(1, k)
    with emulation(count=True) as run:
        mx.eval(kernels.assign(x, c, bias, tiles=tiles, device=Busy()))
    (counted,) = run.launches
    return counted


def in_flight(tiles: Tiles | PointTiles) -> int:
    """Return the threadgroups that a core holds at a time."""
    simdgroups = min(SIMDGROUPS, REGISTERS // (tiles.registers() + ADDRESS_REGISTERS))
    by_registers = simdgroups * 32 // tiles.threads
    return max(1, min(by_registers, SHARED_MEMORY // tiles.tile_bytes))


def predict(shape: Shape, chip: Chip, tiles: Tiles | PointTiles | None = None) -> Prediction:
    """Return the model of an E-step with these tiles, or with the first candidate."""
    device = Device(chip.architecture)
    tiles = tiles or launch.assign_tiles(shape.d)[0]
    grid = launch.assign_launch(tiles, shape.b, shape.n, shape.k, device).grid
    row_tiles = shape.b * ceil_div(shape.n, tiles.rows)
    groups = grid[0] // tiles.threads * grid[1] * grid[2]
    one = count(tiles, shape.d, shape.k)
    work = one.work
    buffers = {traffic.name: traffic for traffic in one.buffers}
    instructions = sum(t.instructions for t in buffers.values())

    # Of one threadgroup over all centroids, in cycles of a core.
    padded = ceil_div(shape.k, tiles.centroids) * tiles.centroids
    scores = tiles.rows * (shape.k if isinstance(tiles, PointTiles) else padded) / 32
    rows_of_lane = tiles.points if isinstance(tiles, PointTiles) else tiles.rb
    others = (
        (SCORE_OPERATIONS + 1 / rows_of_lane) * scores
        + DEVICE_OPERATIONS * instructions
        + SHARED_OPERATIONS * (work.shared_reads + work.shared_writes)
    )
    products = MATRIX_CYCLES * work.matrix if work.matrix else shape.d * scores
    lines = sum(t.lines for t in buffers.values())
    asked = sum(t.read + t.written for t in buffers.values())
    fetched = {name: float(LINE * t.fetched) for name, t in buffers.items()}
    cycles = {
        "matrix" if work.matrix else "ALU": (products + others) / SCHEDULERS,
        "threadgroup memory": work.cycles * BANK_BYTES / SHARED_BYTES,
        "L1": max(lines, asked / L1_BYTES),
        "L2": sum(fetched.values()) / L2_BYTES,
    }
    fullest = ceil_div(groups, chip.cores) * chip.cores / groups
    each = row_tiles * fullest / (chip.cores * chip.ghz * 1e9)
    limits = {name: amount * each for name, amount in cycles.items()}

    # Of the whole launch, in bytes.
    centroids = 4 * shape.b * shape.k * shape.d
    if 4 * shape.k * shape.d <= chip.l2 / 2:
        fetched["c"] = min(fetched["c"], centroids / row_tiles)
    slc = row_tiles * sum(fetched.values())
    once = 4 * shape.b * (shape.n * (shape.d + 2) + shape.k * (shape.d + 1))
    rows = min(row_tiles, in_flight(tiles) * chip.cores) * tiles.rows
    working_set = 4 * shape.d * (rows + shape.k)
    missed = max(0.0, 1 - chip.slc / working_set)
    memory = once + missed * max(0.0, slc - once)
    limits["SLC"] = slc / (SLC_RATIO * chip.bandwidth * 1e9)
    limits["memory"] = memory / (chip.bandwidth * 1e9)
    launches = 1 if grid[2] == 1 else 4  # the best of several parts: argmax and two gathers
    return Prediction(shape, chip, limits, launches * LAUNCH_SECONDS)


def shapes() -> list[Shape]:
    """The cases of the benchmark, then other numbers of features."""
    named = {case.name: case for case in CASES}
    chosen = [named[name] for name in COUNTED]
    return [
        *(Shape(c.name, c.B, c.N, c.D, c.K) for c in chosen),
        *(Shape(f"D={d}", 1, ROWS, d, CLUSTERS) for d in FEATURES),
    ]


def table_row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*names: str) -> list[str]:
    return [table_row(names), "|" + "---|" * len(names)]


def markdown() -> str:
    """Return the tables."""
    every = shapes()
    lines = [
        "# A model of the E-step on Apple GPUs",
        "",
        "**A model, not a measurement**: nobody has run these kernels on a GPU yet.",
        "`PYTHONPATH=tests python -m metal.model` computes it from exact counts of the emulator",
        "(products, bank conflicts, lines, bytes) and published rates.",
        "",
        "## Share of FP32 peak, by chip",
        "",
        "And the limit that binds, in the model. The matrix units can give"
        f" {16 / MATRIX_CYCLES:.0%}. First candidate of the tiles, float32.",
        "",
        *header("case", "B", "N", "D", "K", *(chip.name for chip in CHIPS)),
    ]
    for s in every:
        cells = [predict(s, chip) for chip in CHIPS]
        lines.append(
            table_row(
                [s.name, s.b, s.n, s.d, s.k, *(f"{p.of_peak:.0%} {p.binding}" for p in cells)]
            )
        )
    lines += [
        "",
        "## The model: microseconds of an E-step, by chip",
        "",
        "Predicted, not measured.",
        "",
        *header("case", *(chip.name for chip in CHIPS)),
    ]
    for s in every:
        lines.append(table_row([s.name, *(f"{1e6 * predict(s, c).seconds:.0f}" for c in CHIPS)]))
    lines += [
        "",
        *candidates(),
        "",
        "## Without threadgroup memory",
        "",
        STAGING,
        "",
        "## Chips",
        "",
    ]
    lines += header("chip", "cores", "GHz", "FP32 TFLOP/s", "GB/s", "L2 KiB", "SLC MiB", "source")
    for c in CHIPS:
        facts = (c.cores, c.ghz, f"{c.gflops / 1000:.1f}", f"{c.bandwidth:g}")
        lines.append(table_row([c.name, *facts, c.l2 >> 10, c.slc >> 20, c.source]))
    lines += [
        "",
        "metal-benchmarks, applegpuinfo: github.com/philipturner. Chips and Cheese:",
        "chipsandcheese.com/2022/05/21/igpu-cache-setups-compared-including-m1.",
        "",
        "## Assumptions",
        "",
        ASSUMPTIONS,
        "",
    ]
    return "\n".join(lines)


def candidates() -> list[str]:
    """Return each limit of every candidate, in shares of the time that the peak would take."""
    chip = CHIPS[1]
    lines = [
        f"## Candidates on the {chip.name}",
        "",
        f"N={ROWS}, K={CLUSTERS}. Each limit as a share of the time at FP32 peak; conflicts are",
        "cycles of threadgroup memory over the least for the same words. Tiles: NSG, RB, CB, BK,",
        "RES, as in `scores.metal`.",
        "",
    ]
    names = ("matrix", "threadgroup memory", "L1", "L2", "SLC", "memory")
    lines += header("D", "tiles", "registers", "simdgroups a core", "conflicts", *names, "of peak")
    for d in FEATURES:
        for tiles in launch.assign_tiles(d):
            p = predict(Shape("", 1, ROWS, d, CLUSTERS), chip, tiles)
            work = count(tiles, d, CLUSTERS).work
            peak = 2e-9 * ROWS * CLUSTERS * d / chip.gflops
            lines.append(
                table_row(
                    [
                        d,
                        describe(tiles),
                        tiles.registers(),
                        in_flight(tiles) * tiles.threads // 32,
                        f"{work.cycles / (work.read_least + work.write_least):.2f}",
                        *(f"{p.limits[name] / peak:.2f}" for name in names),
                        f"{p.of_peak:.0%}",
                    ]
                )
            )
    return lines


def describe(tiles: Tiles | PointTiles) -> str:
    if isinstance(tiles, PointTiles):
        return f"{tiles.points} points a thread"
    return ", ".join(map(str, (tiles.nsg, tiles.rb, tiles.cb, tiles.bk, tiles.res)))


if __name__ == "__main__":
    mx.fast.metal_kernel = EmulatedKernel
    text = markdown()
    print(text)
    TABLE.write_text(text, encoding="utf-8")
