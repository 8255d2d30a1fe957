"""Points on an Apple GPU: blocks of Lloyd iterations, with one synchronisation a block."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import mlx.core as mx
import numpy as np

from ...errors import BackendUnavailableError
from ...frame import sample_step
from ..points import PENDING, Problem, Step
from ..portable.points import PortablePoints
from .block import Constants, Options, State, block
from .device import Device, supports
from .kernels import Normalisation
from .memory import step_bytes
from .strategy import Strategy, choose

__all__ = ["MetalPoints"]

# Iterations of a block: a synchronisation costs less than one of them, and what runs past the end
# of a fit is wasted.
MAX_LENGTH = 8
MAX_REMAINING = 2**31 - 1  # iterations that the device can count
# A GPU may take values below 2**-126 for zero. Beside magnitudes from here on they are nothing.
TINY = 2.0**-100


class MetalPoints(PortablePoints):
    """Assignment and sums by the kernels of `kernels/metal/`; the rest is that of `PortablePoints`.

    A batch element whose E-step left a cluster empty stops there, and the host repairs it. Blocks
    are then short until a step leaves none empty. Batch elements do not depend on each other: a
    stack of fits is the fits of the stack. Under a memory cap a block is one iteration, so that the
    arrays of one iteration exist at a time.
    """

    backend = "metal"

    def __init__(self, problem: Problem) -> None:
        b, n, d = problem.x.shape
        x = problem.x
        k = problem.n_clusters
        dtype = str(x.dtype).rpartition(".")[2] if isinstance(x, mx.array) else "float32"
        reason = supports(b, n, k, d, dtype)
        if reason is not None:
            raise BackendUnavailableError(
                f"backend='metal' can't take x.shape={problem.given_shape} with n_clusters={k}:"
                f" {reason}; use backend='portable'"
            )
        self.device = _device()
        self._copied_bytes = 0
        if isinstance(x, mx.array) and not _contiguous(x):  # kernels would copy it at every call
            problem = replace(problem, x=mx.contiguous(x))
            self._copied_bytes = x.nbytes
        if isinstance(problem.x, mx.array) and _is_tiny(problem.x):
            problem = replace(problem, x=_on_host(problem.x))
        super().__init__(problem)
        frame_shift, frame_scale = None, None
        if not self.metric.spherical and not self.frame.identity.all():
            frame_shift = self._shift[:, 0]
            frame_scale = mx.array(self.frame.scale.astype(np.float32))
        self._constants = Constants(
            x=self.x,
            weights=self.weights,
            shift=None if self._plain else self._shift[:, 0],
            factor=None if self._plain else self._factor[:, 0, 0],
            frame_shift=frame_shift,
            frame_scale=frame_scale,
            tol=mx.array(0.0),
        )
        self._strategy: Strategy | None = None
        self._max_length = 1 if problem.max_bytes else MAX_LENGTH
        self._length = 1

    @property
    def _normalisation(self) -> Normalisation | None:
        return self._constants.normalisation

    def _tile_rows(self, bytes_in_use: int) -> int:
        products = self.problem.strategy == "addmm"
        step = step_bytes(self.shape, self.problem.n_clusters, self.device, products=products)
        return super()._tile_rows(bytes_in_use + step + self._copied_bytes)

    def _framed(self, x: np.ndarray) -> mx.array:
        if x.dtype in (np.float32, np.float16) and self.frame.identity.all():
            return mx.array(np.ascontiguousarray(x))
        return super()._framed(x)

    def reset(self) -> None:
        super().reset()
        self._length = 1

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        strategy = self._choose_strategy(measure=False)
        labels = strategy.labels(self.x, c, bias, self._normalisation, self.device)
        self._labels = mx.where(mx.array(elements.tolist())[:, None], labels, self._labels)
        _evaluate(self._labels)

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        elements = limits > 0
        # The M-step on the device does not centre centroids, and may flush those that are subnormal
        # in the user's coordinates; the host's does neither.
        on_host = self.frame.centred or (self.frame.scale < TINY).any()
        limits = np.clip(limits, 0, 1 if on_host else MAX_REMAINING)
        options = Options(
            spherical=self.metric.spherical,
            skip_empty=skip_empty,
            strategy=self._choose_strategy(measure=True),
            device=self.device,
            summed_shift=self.problem.summed_shift,
        )
        state = self._run_blocks(self._start(centroids, limits), tol, options)
        self._labels = state.labels
        centroids[elements] = np.array(state.centroids)[elements]
        counts = np.array(state.counts, np.int64)
        if not skip_empty and (counts[elements] == 0).any():
            self._length = 1
        return Step(
            iterations=limits - np.array(state.remaining, np.int64),
            status=np.array(state.status, np.int64),
            sums=np.array(state.sums, np.float64),
            weight_sum=np.array(state.weight_sum, np.float64),
            counts=counts,
            shift=np.array(state.moved, np.float64),
        )

    def _run_blocks(self, state: State, tol: float, options: Options) -> State:
        """Run blocks of growing length until no batch element is running."""
        constants = self._constants._replace(tol=mx.array(tol, mx.float32))
        compiled = self.problem.compiled and not options.strategy.waits
        while True:
            length = min(self._length, int(np.array(state.remaining).max()))
            state = block(length, options, compiled)(constants, state)
            _evaluate(*state)
            self._length = min(2 * self._length, self._max_length)
            if not np.array(state.running).any():
                return state

    def _inner(self, centroids: np.ndarray) -> tuple[mx.array, mx.array]:
        if self.metric.spherical:  # the frame does not scale them, and any power of two ranks alike
            largest = np.abs(centroids).max(axis=(1, 2), keepdims=True)
            is_tiny = (largest > 0) & (largest < TINY)
            centroids = centroids * np.where(is_tiny, 2.0**126, 1.0).astype(np.float32)
        return super()._inner(centroids)

    def _choose_strategy(self, *, measure: bool) -> Strategy:
        """Return the strategy; once measured, for iterations only, it stays the same."""
        if self._strategy is not None:
            return self._strategy
        chosen = choose(
            self.problem.strategy,
            self.x,
            self.problem.n_clusters,
            self._normalisation,
            device=self.device,
            capped=self.problem.max_bytes > 0,
            measure=measure,
        )
        self.strategy = chosen.name
        self._strategy = chosen if measure else None
        return chosen

    def _start(self, centroids: np.ndarray, limits: np.ndarray) -> State:
        b, k, d = centroids.shape
        c, bias = self._inner(centroids)
        remaining = mx.array(limits.astype(np.int32))
        return State(
            centroids=mx.array(centroids),
            normalised=c,
            bias=bias,
            labels=self._labels,
            running=remaining > 0,
            remaining=remaining,
            status=mx.full((b,), PENDING, mx.int32),
            moved=mx.zeros((b,)),
            sums=mx.zeros((b, k, d)),
            weight_sum=mx.zeros((b, k)),
            counts=mx.zeros((b, k), mx.uint32),
        )


def _device() -> Device:
    if not mx.metal.is_available():
        return Device()
    return Device(str(mx.device_info()["architecture"]))


def _is_tiny(x: mx.array) -> bool:
    """Return whether all of a sample of some batch element are below TINY: the host scales them."""
    sample = np.abs(_on_host(x[:, :: sample_step(x.shape[1])])).max(axis=(1, 2))
    return bool(((sample > 0) & (sample < TINY)).any())


def _on_host(x: mx.array) -> np.ndarray:
    """Return points in float32, converted without the GPU."""
    if x.dtype == mx.bfloat16:
        return (np.array(x.view(mx.uint16)).astype(np.uint32) << 16).view(np.float32)
    return np.array(x).astype(np.float32, copy=False)


def _contiguous(x: mx.array) -> bool:
    return np.asarray(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x).flags.c_contiguous


def _evaluate(*arrays: mx.array) -> None:
    """Wait for the arrays; the error names a kernel that Metal's compiler refuses."""
    try:
        mx.eval(*arrays)
    except RuntimeError as error:
        if "[metal::" not in str(error):
            raise
        raise RuntimeError(
            f"Metal refused a kernel of backend='metal' under MLX {version('mlx')}: {error}"
        ) from error
