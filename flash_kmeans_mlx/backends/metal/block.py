"""Iterations on the GPU: a block of them is one graph, and the host waits once for it.

A block applies the stop rules of Lloyd's loop (`kmeans/lloyd.py`) to each batch element by itself
and reports the states of `backends/points.py`:

- PENDING: the E-step reached the limit, or left a cluster empty that the host must repair. The host
  does the M-step.
- STABLE: the E-step changed no label.
- SETTLED: the M-step moved no centroid by more than `tol`. Labels are one step behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import mlx.core as mx

from . import groups, kernels
from .device import Device
from .kernels import Found, Normalisation
from .strategy import Strategy
from .sums import Progress, Rows, Sums, reduce

__all__ = ["Constants", "Options", "State", "block"]


class Constants(NamedTuple):
    """Arrays that iterations read and never change.

    Attributes:
        x: (B, N, D) points.
        weights: (B, N) float32, or None for ones.
        shift: (B, D) float32, `Normalisation.shift` of points, or None where they are normalised.
        factor: (B,) float32, `Normalisation.factor` of points, or None likewise.
        frame_shift: (B, D) float32, `Frame.shift`, or None where centroids are the same in both
            coordinates.
        frame_scale: (B,) float32, `Frame.scale`, or None likewise.
        tol: () float32.
        grouping: The arrays of a `Grouping` and squared norms (B, N) of points as they are read, or
            None where the strategy carries no bounds.
    """

    x: mx.array
    weights: mx.array | None
    shift: mx.array | None
    factor: mx.array | None
    frame_shift: mx.array | None
    frame_scale: mx.array | None
    tol: mx.array
    grouping: tuple[mx.array, ...] | None = None

    @property
    def normalisation(self) -> Normalisation | None:
        """Normalisation of points, or None to read them as they are."""
        if self.shift is None or self.factor is None:
            return None
        return Normalisation(self.shift, self.factor)


class State(NamedTuple):
    """The state of every batch element; one that isn't running keeps all of it.

    Attributes:
        centroids: (B, K, D) float32 in the user's coordinates.
        normalised: (B, K, D) float32, the same in normalised coordinates.
        bias: (B, K) float32.
        labels: (B, N) uint32.
        running: (B,) uint32, 0 where a batch element has stopped.
        remaining: (B,) int32, E-steps to the limit.
        status: (B,) int32, PENDING, STABLE or SETTLED.
        moved: (B,) float32, `Step.shift`: how far centroids moved in the last M-step.
        sums: (B, K, D) float32, of points in normalised coordinates.
        weight_sum: (B, K) float32.
        counts: (B, K) uint32.
        bounds: The arrays of `groups.Bounds`, or ().
    """

    centroids: mx.array
    normalised: mx.array
    bias: mx.array
    labels: mx.array
    running: mx.array
    remaining: mx.array
    status: mx.array
    moved: mx.array
    sums: mx.array
    weight_sum: mx.array
    counts: mx.array
    bounds: tuple[mx.array, ...] = ()


class Options(NamedTuple):
    """Choices that make another graph of an iteration.

    Attributes:
        spherical: Whether centroids are directions.
        skip_empty: Whether an empty cluster keeps its centroid, without the host.
        strategy: The E-step.
        device: The GPU.
        summed_shift: Whether `tol` bounds the moves of all centroids together.
    """

    spherical: bool
    skip_empty: bool
    strategy: Strategy
    device: Device
    summed_shift: bool = False


@lru_cache(maxsize=64)
def block(length: int, options: Options, compiled: bool) -> Callable[[Constants, State], State]:
    """Return `length` iterations as one function; all fits share what is compiled."""
    iterate = partial(_iterate, options=options)

    def run(constants: list[Any], state: list[Any]) -> list[Any]:
        fixed = Constants(*constants)
        current = State(*state)
        for _ in range(length):
            current = iterate(fixed, current)
        return list(current)

    graph = mx.compile(run) if compiled else run
    return lambda constants, state: State(*graph(list(constants), list(state)))


def _iterate(constants: Constants, state: State, options: Options) -> State:
    """Do one E-step, and the M-step of the batch elements that go on.

    The kernels do nothing for a batch element that has stopped but copy its state.
    """
    found, bounds = _e_step(constants, state, options)
    labels, sums, checked = reduce(
        Rows(constants.x, constants.weights, constants.normalisation),
        found,
        state.labels,
        Sums(state.sums, state.weight_sum, state.counts),
        Progress(state.running, state.remaining, state.status),
        keep_empty=options.skip_empty,
    )
    moved = kernels.move_centroids(
        sums=sums.sums,
        weight_sum=sums.weight_sum,
        old=state.centroids,
        active=checked.running,
        shift=constants.frame_shift,
        scale=constants.frame_scale,
        spherical=options.spherical,
    )
    running, status, shift = kernels.check_moves(
        moved,
        active=checked.running,
        status=checked.status,
        shift=state.moved,
        tol=constants.tol,
        scale=constants.frame_scale,
        summed=options.summed_shift,
    )
    return State(
        centroids=moved.centroids,
        normalised=moved.normalised,
        bias=moved.bias,
        labels=labels,
        running=running,
        remaining=checked.remaining,
        status=status,
        moved=shift,
        sums=sums.sums,
        weight_sum=sums.weight_sum,
        counts=sums.counts,
        bounds=bounds,
    )


def _e_step(
    constants: Constants, state: State, options: Options
) -> tuple[Found, tuple[mx.array, ...]]:
    """Return the best centroid of each point, and bounds if there are any."""
    points = (constants.x, state.normalised, state.bias, constants.normalisation)
    tiles = options.strategy.groups
    if tiles is None or constants.grouping is None:
        return options.strategy.find(*points, options.device, state.running), ()
    order, position, square = constants.grouping
    labels, bounds = groups.assign_in_launches(
        *points,
        tiles=tiles,
        grouping=groups.Grouping(order, position),
        square=square,
        bounds=groups.Bounds(*state.bounds),
    )
    return Found(labels[None], labels[None]), tuple(bounds)  # scores of one part aren't read
