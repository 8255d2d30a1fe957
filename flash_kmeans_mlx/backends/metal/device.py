"""Facts of GPUs and limits of Metal: checked launches, and which problems the kernels take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Device", "Launch", "ceil_div", "power_of_two", "supports"]

MAX_THREADS = 1024  # of a threadgroup
MAX_THREADGROUP_BYTES = 32768
MAX_GRID = 2**31 - 1  # threads along one axis: Metal takes a uint32, MLX's Python call an int
MAX_ROWS = 2**26 - 4  # of argmax and of topk over rows: up to 32 threads a row
MAX_POINTS = 2**30 - 2**16  # of a batch element: two threads a row, and the rounding up of rows
MAX_CLUSTERS = 2**23  # 128 threads each in sum_clusters
MAX_BATCH = 65535
MAX_FEATURES = 2**24
SIMD = 32
DTYPES = ("float32", "float16", "bfloat16")


class Size(NamedTuple):
    """The cores of a chip, and the MiB of cache that they share."""

    cores: int
    cache: int


SIZES = {"p": Size(6, 4), "g": Size(10, 8), "s": Size(32, 48), "c": Size(40, 48), "d": Size(64, 96)}
SMALLEST = SIZES["p"]  # of chips that nobody knows
PRO = Size(16, 24)  # from the M4 on, Pro chips are "s" too


@dataclass(frozen=True)
class Device:
    """Facts of a GPU that launches depend on.

    Attributes:
        architecture: `mx.device_info()["architecture"]`, such as "applegpu_g13s": the generation
            and the size of the chip.
    """

    architecture: str = "applegpu_g13g"

    @property
    def generation(self) -> int:
        """13 for the M1, 17 for the M5, 0 where it is unknown."""
        found = re.search(r"g(\d+)\w$", self.architecture)
        return int(found[1]) if found else 0

    @property
    def size(self) -> Size:
        """The least that a chip of this name has."""
        letter = self.architecture[-1:]
        if not self.generation:
            return SMALLEST
        return PRO if letter == "s" and self.generation >= 16 else SIZES.get(letter, SMALLEST)

    @property
    def threadgroups(self) -> int:
        """Number of threadgroups that keep every core busy: 8 a core."""
        return 8 * self.size.cores

    @property
    def cache_bytes(self) -> int:
        """About half of the cache that all cores share."""
        return self.size.cache << 19

    @property
    def rounds_products(self) -> bool:
        """Whether MLX may compute float32 products in TF32: from the M5 on, by default.

        A chip of unknown generation may.
        """
        return not 0 < self.generation < 17


@dataclass(frozen=True)
class Launch:
    """A checked grid, in threads.

    Raises:
        ValueError: There are more threads or more threadgroup memory than Metal takes.
    """

    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    threadgroup_bytes: int = 0

    def __post_init__(self) -> None:
        threads = self.threadgroup[0] * self.threadgroup[1] * self.threadgroup[2]
        if threads > MAX_THREADS:
            raise ValueError(f"a threadgroup of {threads} threads must be <= {MAX_THREADS}")
        if self.threadgroup_bytes > MAX_THREADGROUP_BYTES:
            raise ValueError(
                f"{self.threadgroup_bytes} bytes of threadgroup memory must be"
                f" <= {MAX_THREADGROUP_BYTES}"
            )
        if not all(0 < side <= MAX_GRID for side in self.grid):
            raise ValueError(
                f"a grid of {self.grid} threads must be in [1, {MAX_GRID}] along every axis;"
                " cut the rows"
            )


def supports(b: int, n: int, k: int, d: int, dtype: str) -> str | None:
    """Return None if the kernels take this shape, else the reason why not."""
    if dtype not in DTYPES:
        return f"dtype={dtype} must be one of {', '.join(DTYPES)}"
    if min(b, n, k, d) < 1:
        return f"B={b}, N={n}, K={k}, D={d} must all be >= 1"
    for name, value, limit in (
        ("B", b, MAX_BATCH),
        ("N", n, MAX_POINTS),
        ("K", k, MAX_CLUSTERS),
        ("D", d, MAX_FEATURES),
    ):
        if value > limit:
            return f"{name}={value} must be <= {limit}, the most that a launch takes"
    return None


def power_of_two(n: int) -> int:
    """Return the least power of two that is >= n."""
    return 1 << (n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)
