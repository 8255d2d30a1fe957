"""Points on an Apple GPU: blocks of Lloyd iterations on the device, one synchronisation a block."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ...errors import BackendUnavailableError
from ..base import PENDING, SETTLED, STABLE, Problem, Step
from ..portable import PortablePoints
from . import kernels
from .launch import Device, supports

__all__ = ["MetalPoints"]

BLOCK = 8  # iterations: a synchronisation costs less than one, and what runs past the end of a fit is wasted


class Held(NamedTuple):
    """What iterations read and never change; None for weights of one, and for a frame that is the user's."""

    x: mx.array
    weights: mx.array | None
    shift: mx.array | None
    factor: mx.array | None
    scale: mx.array | None
    tol: mx.array


class State(NamedTuple):
    """Where every member is; members that aren't running keep all of it."""

    c: mx.array
    inner: mx.array
    bias: mx.array
    labels: mx.array
    running: mx.array
    left: mx.array  # E-steps to the limit
    status: mx.array
    shift: mx.array
    sums: mx.array
    mass: mx.array
    counts: mx.array


class MetalPoints(PortablePoints):
    """Assignment and sums by the kernels of `kernels/metal/`; the rest, once per fit, as `PortablePoints` does it.

    A member whose E-step left a cluster empty stops there, and the host repairs it; blocks are then short until a step
    leaves none empty. Members do not see each other: a stack of fits is the fits of the stack.
    """

    backend = "metal"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        b, n, d = self.shape
        reason = supports(b, n, problem.n_clusters, d, str(self.x.dtype).rpartition(".")[2])
        if reason is not None:
            raise BackendUnavailableError(f"backend='metal' can't run here: {reason}")
        self.gpu = Device(str(mx.device_info()["architecture"])) if mx.metal.is_available() else Device()
        shift, factor, scale = None, None, None
        if not self._plain:
            shift, factor = self._shift[:, 0], self._factor[:, 0, 0]
            scale = mx.array(self.frame.scale.astype(np.float32))
        self._held = Held(self.x, self.weights, shift, factor, scale, mx.array(0.0))
        self._length = 1

    def reset(self) -> None:
        super().reset()
        self._length = 1

    def assign(self, centroids: np.ndarray, members: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        new, _ = kernels.assign(self.x, c, bias, self._held.shift, self._held.factor, device=self.gpu)
        self._labels = mx.where(mx.array(members.tolist())[:, None], new, self._labels)
        mx.eval(self._labels)

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        members = limits > 0
        held = self._held._replace(tol=mx.array(tol, mx.float32))
        state = self._start(centroids, limits)
        while True:
            length = min(self._length, int(np.array(state.left).max()))
            block = _block(length, self.metric.spherical, skip_empty, self.gpu, self.problem.compiled)
            state = block(held, state)
            mx.eval(*state)
            running = np.array(state.running)
            self._length = min(2 * self._length, BLOCK)
            if not running.any():
                break
        self._labels = state.labels
        centroids[members] = np.array(state.c)[members]
        counts = np.array(state.counts, np.int64)
        if not skip_empty and (counts[members] == 0).any():
            self._length = 1
        return Step(
            np.maximum(limits, 0) - np.array(state.left, np.int64),
            np.array(state.status, np.int64),
            np.array(state.sums, np.float64),
            np.array(state.mass, np.float64),
            counts,
            np.array(state.shift, np.float64),
        )

    def _start(self, centroids: np.ndarray, limits: np.ndarray) -> State:
        b, k, d = centroids.shape
        inner, bias = self._inner(centroids)
        left = mx.array(np.maximum(limits, 0).astype(np.int32))
        return State(
            mx.array(centroids),
            inner,
            bias,
            self._labels,
            left > 0,
            left,
            mx.full((b,), PENDING, mx.int32),
            mx.zeros((b,)),
            mx.zeros((b, k, d)),
            mx.zeros((b, k)),
            mx.zeros((b, k), mx.uint32),
        )


@lru_cache(maxsize=64)
def _block(length: int, spherical: bool, skip_empty: bool, gpu: Device, compiled: bool) -> Callable[..., State]:
    """`length` iterations as a function of (held, state); one compiled function serves all fits."""
    iterate = partial(_iterate, spherical=spherical, skip_empty=skip_empty, gpu=gpu)

    def block(held: list[Any], state: list[mx.array]) -> list[mx.array]:
        fixed, current = Held(*held), State(*state)
        for _ in range(length):
            current = iterate(fixed, current)
        return list(current)

    run = mx.compile(block) if compiled else block
    return lambda held, state: State(*run(list(held), list(state)))


def _iterate(held: Held, state: State, *, spherical: bool, skip_empty: bool, gpu: Device) -> State:
    """One E-step, and the M-step of the members that go on."""
    running = state.running
    new, _ = kernels.assign(held.x, state.inner, state.bias, held.shift, held.factor, device=gpu)
    labels = mx.where(running[:, None], new, state.labels)
    sums = kernels.accumulate(held.x, labels, state.c.shape[1], held.weights, held.shift, held.factor)
    left = state.left - running.astype(mx.int32)
    stable = running & (labels == state.labels).all(axis=1)
    stop = stable | (left == 0)
    if not skip_empty:
        stop = stop | (sums.counts == 0).any(axis=1)
    going = running & ~stop
    c, inner, bias, moved = kernels.move_centroids(
        sums.sums, sums.mass, state.c, going, held.shift, held.scale, spherical=spherical
    )
    shift = mx.sqrt(moved.max(axis=1))
    rests = (c == state.c).all(axis=(1, 2)) | ((held.tol > 0) & (shift <= held.tol))  # squares of tiny moves are zero
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
