"""Strategies of the E-step.

They are the fused kernel, MLX's products and the best of each row, or the fused kernel's labels by
bounds of groups.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from . import kernels
from .device import Device
from .kernels import Found, Normalisation
from .launch import PointTiles, Tiles, assign_tiles, cuts, launch_rows, score_rows

__all__ = ["Strategy", "candidates", "choose"]

# A measurement runs each of three candidates three times, on a fifteenth of the products of an
# iteration at most: less than 3% of a fit of 20 iterations.
MEASURED = 5 * 10**9  # products of a run: 10 GFLOP
SHARE = 15
LEAST_MEASURED = 10**8  # products; a shorter run is mostly the launch
BEHIND = 1.3  # an option so much slower isn't run again
REMEMBERED = 256  # classes of shapes


@dataclass(frozen=True)
class Strategy:
    """The E-step.

    Attributes:
        name: "fused", "addmm" or "groups".
        tiles: Tiles of the fused kernel. Every score is summed feature by feature whatever they
            are, so labels are the same.
        capped: Whether addmm waits for every chunk of rows, so that the scores of one chunk exist
            at a time.
        groups: Tiles of the kernel with bounds, for iterations under "groups". A single assignment
            is by the fused kernel.
    """

    name: str
    tiles: Tiles | PointTiles | None = None
    capped: bool = False
    groups: Tiles | None = None

    def waits(self, shape: tuple[int, int, int], k: int) -> bool:
        """Return whether it waits for the GPU on the way: it can't be compiled then."""
        b, n, d = shape
        return self.capped or (self.name != "addmm" and launch_rows(k, d) < b * n)

    def find(
        self,
        x: mx.array,
        c: mx.array,
        bias: mx.array,
        normalisation: Normalisation | None,
        device: Device,
        running: mx.array | None = None,
    ) -> Found:
        """Return the best centroid of each point; arguments are those of `kernels.find`."""
        b, n, d = x.shape
        k = c.shape[1]
        if self.name == "addmm":
            return self._find_by_products(x, c, bias, normalisation, device)
        if not self.waits((b, n, d), k):
            return kernels.find(x, c, bias, normalisation, running, tiles=self.tiles, device=device)
        found = []
        for elements, rows in cuts(b, n, k, d):
            best = kernels.assign(
                x[elements, rows],
                c[elements],
                bias[elements],
                normalisation and Normalisation(*(a[elements] for a in normalisation)),
                None if running is None else running[elements],
                tiles=self.tiles,
                device=device,
            )
            mx.eval(*best)
            found.append(best)
        return _joined(found, b, n)

    def _find_by_products(
        self,
        x: mx.array,
        c: mx.array,
        bias: mx.array,
        normalisation: Normalisation | None,
        device: Device,
    ) -> Found:
        b, n, _ = x.shape
        found = []
        # One batch element at a time: MLX chooses kernels by shape, and a stack of fits must equal
        # the fits of the stack.
        step = score_rows(c.shape[1], device)
        for i in range(b):
            for lo in range(0, n, step):
                rows = x[i, lo : lo + step].astype(mx.float32)
                if normalisation is not None:
                    rows = (rows - normalisation.shift[i]) * normalisation.factor[i]
                found.append(kernels.argmax(mx.addmm(bias[i], rows, c[i].T)))
                if self.capped:
                    mx.eval(*found[-1])
        return _joined(found, b, n)


def _joined(found: list[tuple[mx.array, mx.array]], b: int, n: int) -> Found:
    """Return labels and scores of cuts that follow each other, as one part."""
    labels, scores = zip(*found, strict=True)
    return Found(
        mx.concatenate([part.reshape(-1) for part in labels]).reshape(1, b, n),
        mx.concatenate([part.reshape(-1) for part in scores]).reshape(1, b, n),
    )


def candidates(name: str | None, d: int, device: Device, *, capped: bool) -> list[Strategy]:
    """Return the strategies that `name` allows; the first needs no measurement."""
    fused = [Strategy("fused", tiles) for tiles in assign_tiles(d)]
    addmm = Strategy("addmm", capped=capped)
    if name == "addmm":
        return [addmm]
    exact = os.environ.get("MLX_ENABLE_TF32") == "0" or not device.rounds_products
    return fused if name in ("fused", "groups") or capped or not exact else [*fused, addmm]


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
    products = min(MEASURED, n * k * d // SHARE)
    if len(options) == 1 or products < LEAST_MEASURED or not mx.metal.is_available():
        return options[0]
    plain = normalisation is None
    key = (name, capped, str(x.dtype), plain, n.bit_length(), k.bit_length(), d, device)
    fastest = _fastest.get(key)
    if fastest is not None:
        return fastest
    if not measure:
        return options[0]
    sample = x[:1, : max(1, products // (k * d))]
    c = mx.zeros((1, k, d))
    bias = mx.zeros((1, k))
    mx.eval(sample, c, bias)
    if normalisation is not None:
        normalisation = Normalisation(normalisation.shift[:1], normalisation.factor[:1])
    fastest = _fastest_of(
        options, lambda option: _seconds(option, sample, c, bias, normalisation, device)
    )
    while len(_fastest) >= REMEMBERED:
        _fastest.pop(next(iter(_fastest)), None)
    _fastest[key] = fastest
    return fastest


def _fastest_of(options: list[Strategy], seconds: Callable[[Strategy], float]) -> Strategy:
    """Return the option of the least time: of two runs each, after one that compiles."""
    fastest, least = options[0], float("inf")
    for option in options:
        seconds(option)
        time_taken = seconds(option)
        if time_taken < BEHIND * least:
            time_taken = min(time_taken, seconds(option))
        if time_taken < least:
            fastest, least = option, time_taken
    return fastest


def _seconds(
    strategy: Strategy,
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    normalisation: Normalisation | None,
    device: Device,
) -> float:
    start = time.perf_counter()
    mx.eval(*strategy.find(x, c, bias, normalisation, device))
    return time.perf_counter() - start
