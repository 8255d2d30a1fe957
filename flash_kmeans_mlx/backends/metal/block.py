"""Iterations on the device: a block of them is one graph, for which the host waits once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import mlx.core as mx

from ..points import SETTLED, STABLE
from . import kernels
from .device import Device
from .strategy import Strategy

__all__ = ["Held", "Rules", "State", "block"]


class Held(NamedTuple):
    """What iterations read and never change; None for weights of one, and where there is nothing to shift or scale."""

    x: mx.array
    weights: mx.array | None
    shift: mx.array | None  # of points on their way into the frame
    factor: mx.array | None
    origin: mx.array | None  # of the frame that centroids come out of
    scale: mx.array | None
    tol: mx.array


class State(NamedTuple):
    """Where every batch element is; batch elements that aren't running keep all of it."""

    c: mx.array  # (B, K, D) in the user's coordinates
    inner: mx.array  # the same in the frame
    bias: mx.array
    labels: mx.array
    running: mx.array
    left: mx.array  # E-steps to the limit
    status: mx.array
    shift: mx.array
    sums: mx.array
    weight_sum: mx.array
    counts: mx.array


class Rules(NamedTuple):
    """What an iteration is: a graph of its own for each."""

    spherical: bool
    skip_empty: bool
    strategy: Strategy
    gpu: Device
    summed_shift: bool = False


@lru_cache(maxsize=64)
def block(length: int, rules: Rules, compiled: bool) -> Callable[[Held, State], State]:
    """`length` iterations as a function of (held, state); one compiled function serves all fits."""
    iterate = partial(_iterate, rules=rules)

    def run(held: list[Any], state: list[mx.array]) -> list[mx.array]:
        fixed, current = Held(*held), State(*state)
        for _ in range(length):
            current = iterate(fixed, current)
        return list(current)

    graph = mx.compile(run) if compiled else run
    return lambda held, state: State(*graph(list(held), list(state)))


def _iterate(held: Held, state: State, rules: Rules) -> State:
    """One E-step, and the M-step of the batch elements that go on."""
    running = state.running
    new = rules.strategy.labels(held.x, state.inner, state.bias, held.shift, held.factor, rules.gpu)
    labels = mx.where(running[:, None], new, state.labels)
    sums = kernels.accumulate(
        held.x, labels, state.c.shape[1], held.weights, held.shift, held.factor
    )
    left = state.left - running.astype(mx.int32)
    stable = running & (labels == state.labels).all(axis=1)
    stop = stable | (left == 0)
    if not rules.skip_empty:
        stop = stop | (sums.counts == 0).any(axis=1)
    going = running & ~stop
    c, inner, bias, moved = kernels.move_centroids(
        sums.sums,
        sums.weight_sum,
        state.c,
        going,
        held.origin,
        held.scale,
        spherical=rules.spherical,
    )
    shift = mx.sqrt(moved.sum(axis=1) if rules.summed_shift else moved.max(axis=1))
    if held.scale is not None:
        shift = shift * held.scale
    rests = (c == state.c).all(axis=(1, 2)) | (
        (held.tol > 0) & (shift <= held.tol)
    )  # squares of tiny moves are zero
    settled = going & rests
    at_rest = ~going[:, None]
    return State(
        c,
        mx.where(at_rest[..., None], state.inner, inner),
        mx.where(at_rest, state.bias, bias),
        labels,
        going & ~settled,
        left,
        mx.where(stable, STABLE, mx.where(settled, SETTLED, state.status)),
        mx.where(going, shift, state.shift),
        *sums,
    )
