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
from . import groups
from .block import Constants, Options, State, block
from .device import Device, supports
from .kernels import Normalisation
from .launch import Tiles, launch_rows
from .memory import step_bytes
from .order import take_labels
from .strategy import Strategy, choose

__all__ = ["MetalPoints"]

# Iterations of a block. Past the end of a fit they cost launches only, but under "addmm": its
# products are computed for batch elements that have stopped, too.
LENGTHS = {"fused": 8, "addmm": 2, "groups": 8}
# Bounds that rule out less than a twentieth after so many iterations are given up.
TRIED = 8
PAYS = 0.95
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
        self._group_bounds: tuple[mx.array, ...] = ()
        self._tried = 0  # iterations with bounds
        self._iterations = 0
        self._computed = 0.0  # iterations, each by its share of the products

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
        self._group_bounds = ()
        self._tried = 0
        self._constants = self._constants._replace(grouping=None)

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        strategy = self._choose_strategy(measure=False)
        running = mx.array(elements.astype(np.uint32))
        found = strategy.find(self.x, c, bias, self._normalisation, self.device, running)
        self._labels = take_labels(found, self._labels, running)[0]
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
        self._group_bounds = state.bounds
        centroids[elements] = np.array(state.centroids)[elements]
        counts = np.array(state.counts, np.int64)
        return Step(
            iterations=limits - np.array(state.remaining, np.int64),
            status=np.array(state.status, np.int64),
            sums=np.array(state.sums, np.float64),
            weight_sum=np.array(state.weight_sum, np.float64),
            counts=counts,
            shift=np.array(state.moved, np.float64),
        )

    def _run_blocks(self, state: State, tol: float, options: Options) -> State:
        """Run blocks of iterations until no batch element is running."""
        constants = self._constants._replace(tol=mx.array(tol, mx.float32))
        strategy = options.strategy
        k = self.problem.n_clusters
        compiled = self.problem.compiled and not strategy.waits(self.shape, k)
        length = self._block_length(strategy.name, int(np.array(state.remaining).max()))
        while True:
            state = block(length, options, compiled)(constants, state)
            _evaluate(*state)
            options, state = self._count_products(length, options, state)
            if not np.array(state.running).any():
                return state

    def _count_products(self, length: int, options: Options, state: State) -> tuple[Options, State]:
        """Count the products of a block, and go on without bounds where they rule out little."""
        self._iterations += length
        tiles = options.strategy.groups
        if tiles is None or not state.bounds:
            self._computed += length
            return options, state
        bounds = groups.Bounds(*state.bounds)
        share = groups.share_compared(bounds, tiles)
        self._computed += share * length
        self._tried += length
        if self._tried < TRIED or share <= PAYS:
            return options, state._replace(bounds=tuple(groups.recount(bounds)))
        self._strategy = replace(options.strategy, name="fused", groups=None)
        self.strategy = self._strategy.name
        return options._replace(strategy=self._strategy), state._replace(bounds=())

    def products(self) -> float:
        return self._computed / self._iterations if self._iterations else 1.0

    def _block_length(self, strategy: str, limit: int) -> int:
        """Return 1, or as many iterations as compute no more than a launch may."""
        if limit == 1 or self.problem.max_bytes:
            return 1
        b, n, d = self.shape
        length = LENGTHS[strategy]
        while length > 1 and length * b * n > launch_rows(self.problem.n_clusters, d):
            length //= 2
        return length

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
        if measure and self.problem.strategy == "groups":
            chosen = self._with_groups(chosen)
        self.strategy = chosen.name
        self._strategy = chosen if measure else None
        return chosen

    def _with_groups(self, fused: Strategy) -> Strategy:
        """Return "groups" where distances are Euclidean and the kernels take the shape."""
        tiles = groups.tiles_for(self.problem.n_clusters, self.shape[2])
        refused = self.metric.spherical or self.problem.max_bytes
        return fused if tiles is None or refused else replace(fused, name="groups", groups=tiles)

    def _start_bounds(self, c: mx.array, tiles: Tiles) -> None:
        """Group centroids c (B, K, D), and begin with bounds that rule nothing out."""
        grouping = groups.group_centroids(np.array(c), tiles)
        square = self.gather(lambda x, _lo, _hi: mx.square(x).sum(-1))
        self._constants = self._constants._replace(grouping=(*grouping, square))
        self._group_bounds = tuple(groups.start(self.shape[1], c, tiles))

    def _start(self, centroids: np.ndarray, limits: np.ndarray) -> State:
        b, k, d = centroids.shape
        c, bias = self._inner(centroids)
        tiles = self._strategy.groups if self._strategy else None
        if tiles is not None and not self._group_bounds:
            self._start_bounds(c, tiles)
        remaining = mx.array(limits.astype(np.int32))
        return State(
            centroids=mx.array(centroids),
            normalised=c,
            bias=bias,
            labels=self._labels,
            running=mx.array((limits > 0).astype(np.uint32)),
            remaining=remaining,
            status=mx.full((b,), PENDING, mx.int32),
            moved=mx.zeros((b,)),
            sums=mx.zeros((b, k, d)),
            weight_sum=mx.zeros((b, k)),
            counts=mx.zeros((b, k), mx.uint32),
            bounds=self._group_bounds,
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


def _evaluate(*arrays: mx.array | tuple[mx.array, ...]) -> None:
    """Wait for the arrays; the error names a kernel that Metal's compiler refuses."""
    try:
        mx.eval(*arrays)
    except RuntimeError as error:
        if "[metal::" not in str(error):
            raise
        raise RuntimeError(
            f"Metal refused a kernel of backend='metal' under MLX {version('mlx')}: {error}"
        ) from error
