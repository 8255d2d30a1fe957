"""Strategies of the E-step: the fused kernel, or MLX's products and the best of each row."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import mlx.core as mx

from . import kernels
from .device import Device
from .kernels import Normalisation
from .launch import PointTiles, Tiles, assign_tiles, score_rows

__all__ = ["Strategy", "candidates", "choose"]

SMALL = 1 << 26  # N * K * D: up to here a measurement takes longer than it can save
TIMED_ROWS = 1 << 17
REMEMBERED = 256  # classes of shapes


@dataclass(frozen=True)
class Strategy:
    """The E-step.

    Attributes:
        name: "fused" or "addmm".
        tiles: Tiles of the fused kernel. Every score is summed feature by feature whatever they
            are, so labels are the same.
        waits: Whether addmm waits for every chunk of rows, so that the scores of one chunk exist at
            a time. It can't be compiled then.
    """

    name: str
    tiles: Tiles | PointTiles | None = None
    waits: bool = False

    def labels(
        self,
        x: mx.array,
        c: mx.array,
        bias: mx.array,
        normalisation: Normalisation | None,
        device: Device,
    ) -> mx.array:
        """Return labels (B, N) uint32; arguments are those of `kernels.assign`."""
        if self.name == "fused":
            return kernels.assign(x, c, bias, normalisation, tiles=self.tiles, device=device)[0]
        b, n, _ = x.shape
        step = score_rows(c.shape[1], device)
        parts = []
        # One batch element at a time: MLX chooses kernels by shape, and a stack of fits must equal
        # the fits of the stack.
        for i in range(b):
            for lo in range(0, n, step):
                rows = x[i, lo : lo + step].astype(mx.float32)
                if normalisation is not None:
                    rows = (rows - normalisation.shift[i]) * normalisation.factor[i]
                parts.append(kernels.argmax(mx.addmm(bias[i], rows, c[i].T))[0])
                if self.waits:
                    mx.eval(parts[-1])
        return mx.concatenate(parts).reshape(b, n)


def candidates(name: str | None, d: int, device: Device, *, capped: bool) -> list[Strategy]:
    """Return the strategies that `name` allows; the first needs no measurement."""
    fused = [Strategy("fused", tiles) for tiles in assign_tiles(d)]
    addmm = Strategy("addmm", waits=capped)
    if name == "addmm":
        return [addmm]
    exact = os.environ.get("MLX_ENABLE_TF32") == "0" or not device.rounds_products
    return fused if name == "fused" or capped or not exact else [*fused, addmm]


_fastest: dict[tuple[object, ...], Strategy] = {}


def choose(
    name: str | None,
    x: mx.array,
    k: int,
    normalisation: Normalisation | None,
    *,
    device: Device,
    capped: bool,
    measure: bool,
) -> Strategy:
    """Return the fastest candidate on this GPU, measured once per class of shapes.

    The class does not depend on the batch. The first candidate is returned for small problems,
    without a GPU, and where nothing has been measured and `measure` is False.
    """
    _, n, d = x.shape
    options = candidates(name, d, device, capped=capped)
    if len(options) == 1 or n * k * d <= SMALL or not mx.metal.is_available():
        return options[0]
    plain = normalisation is None
    key = (name, capped, str(x.dtype), plain, n.bit_length(), k.bit_length(), d, device)
    fastest = _fastest.get(key)
    if fastest is not None:
        return fastest
    if not measure:
        return options[0]
    fastest = _measure(options, x, k, normalisation, device)
    while len(_fastest) >= REMEMBERED:
        _fastest.pop(next(iter(_fastest)), None)
    _fastest[key] = fastest
    return fastest


def _measure(
    options: list[Strategy],
    x: mx.array,
    k: int,
    normalisation: Normalisation | None,
    device: Device,
) -> Strategy:
    """Return the fastest option on some of the points."""
    _, n, d = x.shape
    sample = x[: max(1, TIMED_ROWS // n), :TIMED_ROWS]
    b = len(sample)
    c = mx.zeros((b, k, d))
    bias = mx.zeros((b, k))
    mx.eval(sample, c, bias)
    if normalisation is not None:
        normalisation = Normalisation(normalisation.shift[:b], normalisation.factor[:b])
    return min(options, key=lambda option: _seconds(option, sample, c, bias, normalisation, device))


def _seconds(
    strategy: Strategy,
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None,
    device: Device,
) -> float:
    """Return the best time of three runs, after one that compiles."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        mx.eval(strategy.labels(x, c, bias, normalisation, device))
        times.append(time.perf_counter() - start)
    return min(times[1:])
