"""How labels are found: by the fused kernel, or by MLX's own products and the best of each row of their scores."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import mlx.core as mx

from . import kernels
from .device import Device
from .launch import PointTiles, Tiles, assign_configs, score_rows

__all__ = ["Strategy", "candidates", "choose"]

SMALL = 1 << 26  # N * K * D: up to here a fit is over before a measurement pays
TIMED_ROWS = 1 << 17
REMEMBERED = 256  # shape classes


@dataclass(frozen=True)
class Strategy:
    """The E-step.

    Attributes:
        name: "fused" or "addmm".
        tiles: of the fused kernel. Scores add up feature by feature whatever they are: they don't change a bit.
        waits: addmm waits for every chunk of rows, so that one chunk's scores exist at a time; can't be compiled.
    """

    name: str
    tiles: Tiles | PointTiles | None = None
    waits: bool = False

    def labels(
        self,
        x: mx.array,
        c: mx.array,
        bias: mx.array,
        shift: mx.array | None,
        factor: mx.array | None,
        gpu: Device,
    ) -> mx.array:
        """(B, N) uint32, with arguments as those of `kernels.assign`."""
        if self.name == "fused":
            return kernels.assign(x, c, bias, shift, factor, config=self.tiles, device=gpu)[0]
        b, n, _ = x.shape
        rows = score_rows(c.shape[1], gpu)
        parts = []
        for i in range(
            b
        ):  # one batch element at a time: MLX chooses kernels by shape, and a stack must equal its batch elements
            for lo in range(0, n, rows):
                some = x[i, lo : lo + rows].astype(mx.float32)
                if shift is not None and factor is not None:
                    some = (some - shift[i]) * factor[i]
                parts.append(kernels.argmax(mx.addmm(bias[i], some, c[i].T))[0])
                if self.waits:
                    mx.eval(parts[-1])
        return mx.concatenate(parts).reshape(b, n)


def candidates(name: str | None, d: int, gpu: Device, *, capped: bool) -> list[Strategy]:
    """What may be chosen under a given name, the one to take without a measurement first."""
    fused = [Strategy("fused", tiles) for tiles in assign_configs(d)]
    addmm = Strategy("addmm", waits=capped)
    if name == "addmm":
        return [addmm]
    exact = os.environ.get("MLX_ENABLE_TF32") == "0" or not gpu.rounds_products
    return fused if name == "fused" or capped or not exact else [*fused, addmm]


_fastest: dict[tuple[object, ...], Strategy] = {}


def choose(
    name: str | None,
    x: mx.array,
    k: int,
    shift: mx.array | None,
    factor: mx.array | None,
    gpu: Device,
    *,
    capped: bool,
    measure: bool,
) -> Strategy:
    """The fastest candidate on this GPU, measured once per class of shapes; the batch plays no part in the class.

    The first candidate for small problems, without a GPU, and where nothing was measured nor is to be.
    """
    _, n, d = x.shape
    options = candidates(name, d, gpu, capped=capped)
    if len(options) == 1 or n * k * d <= SMALL or not mx.metal.is_available():
        return options[0]
    key = (name, capped, str(x.dtype), shift is None, n.bit_length(), k.bit_length(), d, gpu)
    found = _fastest.get(key)
    if found is None and not measure:
        return options[0]
    if found is None:
        some = x[: max(1, TIMED_ROWS // n), :TIMED_ROWS]
        c = mx.zeros((len(some), k, d))
        bias = mx.zeros((len(some), k))
        mx.eval(some, c, bias)
        frame = (
            (None, None)
            if shift is None or factor is None
            else (shift[: len(some)], factor[: len(some)])
        )
        found = min(options, key=lambda option: _seconds(option, some, c, bias, *frame, gpu))
        while len(_fastest) >= REMEMBERED:
            _fastest.pop(next(iter(_fastest)), None)
        _fastest[key] = found
    return found


def _seconds(strategy: Strategy, *arguments: object) -> float:
    """The best of three turns, after one that compiles."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        mx.eval(strategy.labels(*arguments))  # pyright: ignore[reportArgumentType]
        times.append(time.perf_counter() - start)
    return min(times[1:])
