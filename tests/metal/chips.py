"""Published facts of Apple GPUs, each with its source. Rates of a core are in `metal.model`."""

from __future__ import annotations

from dataclasses import dataclass

FMA = 128  # of a core, per cycle


@dataclass(frozen=True)
class Chip:
    """Published facts of a GPU.

    Attributes:
        name: Of the chip.
        architecture: As `Device` takes it.
        cores: GPU cores.
        ghz: Clock of the GPU.
        bandwidth: Of memory, GB/s.
        l2: Bytes of the second-level cache.
        slc: Bytes of the last-level cache.
        source: Where the numbers are from.
    """

    name: str
    architecture: str
    cores: int
    ghz: float
    bandwidth: float
    l2: int
    slc: int
    source: str

    @property
    def gflops(self) -> float:
        """FP32 peak: a multiply-add is two."""
        return 2 * FMA * self.cores * self.ghz


CHIPS = (
    Chip(
        *("M1", "applegpu_g13g", 8, 1.278, 68.25, 768 << 10, 8 << 20),
        "Apple newsroom 2020-11-10 (8 cores, 2.6 TFLOPS); clock and caches: metal-benchmarks",
    ),
    Chip(
        *("M1 Max", "applegpu_g13s", 32, 1.296, 400.0, 512 << 10, 48 << 20),
        "Apple newsroom 2021-10-18 (32 cores, 400 GB/s); clock and caches: metal-benchmarks",
    ),
    Chip(
        *("M2 Ultra", "applegpu_g14d", 76, 1.398, 800.0, 2 << 20, 96 << 20),
        "Apple newsroom 2023-06-05 (76 cores, 27.2 TFLOPS, 800 GB/s); clock: metal-benchmarks;"
        " caches: twice its M2 Max",
    ),
    Chip(
        *("M3 Max", "applegpu_g15s", 40, 1.398, 400.0, 1 << 20, 48 << 20),
        "Apple newsroom 2023-10-30 (40 cores, 400 GB/s); clock (14.3 TFLOPS): hmc-tech.com;"
        " L2 as M2 Max; SLC: applegpuinfo",
    ),
    Chip(
        *("M4", "applegpu_g16g", 10, 1.470, 120.0, 768 << 10, 8 << 20),
        "Apple newsroom 2024-05-07 (10 cores, 120 GB/s); clock (3.8 TFLOPS): hmc-tech.com;"
        " caches as M1",
    ),
    Chip(
        *("M5", "applegpu_g17g", 10, 1.740, 153.0, 768 << 10, 8 << 20),
        "Apple newsroom 2025-10-15 (10 cores, 153 GB/s); clock (4.5 TFLOPS): hmc-tech.com;"
        " caches as M1",
    ),
)
