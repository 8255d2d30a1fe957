"""Points on an Apple GPU: blocks of Lloyd iterations on the device, one synchronisation a block."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

import mlx.core as mx
import numpy as np

from ...errors import BackendUnavailableError
from ..points import PENDING, Problem, Step
from ..portable.points import PortablePoints
from .block import Held, Rules, State, block
from .device import Device, supports
from .memory import step_bytes
from .strategy import Strategy, choose

__all__ = ["MetalPoints"]

BLOCK = 8  # iterations: a synchronisation costs less than one, and what runs past the end of a fit is wasted
LEFT = 2**31 - 1  # iterations that the device can count


class MetalPoints(PortablePoints):
    """Assignment and sums by the kernels of `kernels/metal/`; the rest, once per fit, as `PortablePoints` does it.

    A batch element whose E-step left a cluster empty stops there, and the host repairs it; blocks are then short until a step
    leaves none empty. Members do not see each other: a stack of fits is the fits of the stack. Under a memory cap a block
    is one iteration, so that one iteration's arrays exist at a time.
    """

    backend = "metal"

    def __init__(self, problem: Problem) -> None:
        b, n, d = problem.x.shape
        x, k = problem.x, problem.n_clusters
        reason = supports(
            b, n, k, d, str(x.dtype).rpartition(".")[2] if isinstance(x, mx.array) else "float32"
        )
        if reason is not None:
            raise BackendUnavailableError(
                f"backend='metal' can't take x.shape={problem.given_shape} with n_clusters={k}: {reason};"
                " use backend='portable'"
            )
        self.gpu = (
            Device(str(mx.device_info()["architecture"])) if mx.metal.is_available() else Device()
        )
        self._copied = 0
        if isinstance(x, mx.array) and not _contiguous(x):  # kernels would copy it at every call
            problem, self._copied = replace(problem, x=mx.contiguous(x)), x.nbytes
        super().__init__(problem)
        shift, factor = (None, None) if self._plain else (self._shift[:, 0], self._factor[:, 0, 0])
        origin, scale = None, None
        if not self.metric.spherical and not self.frame.identity.all():
            origin, scale = self._shift[:, 0], mx.array(self.frame.scale.astype(np.float32))
        self._held = Held(self.x, self.weights, shift, factor, origin, scale, mx.array(0.0))
        self._strategy: Strategy | None = None
        self._longest = 1 if problem.max_bytes else BLOCK
        self._length = 1

    def _tile_rows(self, bytes_in_use: int) -> int:
        own = step_bytes(
            self.shape, self.problem.n_clusters, self.gpu, products=self.problem.strategy == "addmm"
        )
        return super()._tile_rows(bytes_in_use + own + self._copied)

    def _framed(self, x: np.ndarray) -> mx.array:
        if x.dtype in (np.float32, np.float16) and self.frame.identity.all():
            return mx.array(np.ascontiguousarray(x))
        return super()._framed(x)

    def reset(self) -> None:
        super().reset()
        self._length = 1

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        c, bias = self._inner(centroids)
        new = self._assigner(measure=False).labels(
            self.x, c, bias, self._held.shift, self._held.factor, self.gpu
        )
        self._labels = mx.where(mx.array(elements.tolist())[:, None], new, self._labels)
        _evaluate(self._labels)

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        elements = limits > 0
        # The M-step on the device does not centre centroids; the host's does.
        limits = np.clip(limits, 0, 1 if self.frame.centred else LEFT)
        held = self._held._replace(tol=mx.array(tol, mx.float32))
        rules = Rules(
            self.metric.spherical,
            skip_empty,
            self._assigner(measure=True),
            self.gpu,
            self.problem.summed_shift,
        )
        compiled = self.problem.compiled and not rules.strategy.waits
        state = self._start(centroids, limits)
        while True:
            length = min(self._length, int(np.array(state.left).max()))
            state = block(length, rules, compiled)(held, state)
            _evaluate(*state)
            self._length = min(2 * self._length, self._longest)
            if not np.array(state.running).any():
                break
        self._labels = state.labels
        centroids[elements] = np.array(state.c)[elements]
        counts = np.array(state.counts, np.int64)
        if not skip_empty and (counts[elements] == 0).any():
            self._length = 1
        return Step(
            limits - np.array(state.left, np.int64),
            np.array(state.status, np.int64),
            np.array(state.sums, np.float64),
            np.array(state.weight_sum, np.float64),
            counts,
            np.array(state.shift, np.float64),
        )

    def _assigner(self, *, measure: bool) -> Strategy:
        """What finds labels: measured for iterations only, and then the same to the end."""
        if self._strategy is not None:
            return self._strategy
        held, problem = self._held, self.problem
        options = {"capped": problem.max_bytes > 0, "measure": measure}
        chosen = choose(
            problem.strategy,
            self.x,
            problem.n_clusters,
            held.shift,
            held.factor,
            self.gpu,
            **options,
        )
        self.strategy = chosen.name
        self._strategy = chosen if measure else None
        return chosen

    def _start(self, centroids: np.ndarray, limits: np.ndarray) -> State:
        b, k, d = centroids.shape
        inner, bias = self._inner(centroids)
        left = mx.array(limits.astype(np.int32))
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


def _contiguous(x: mx.array) -> bool:
    return np.asarray(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x).flags.c_contiguous


def _evaluate(*arrays: mx.array) -> None:
    """Waits for the arrays; a kernel that Metal's compiler refuses is named by its message."""
    try:
        mx.eval(*arrays)
    except RuntimeError as error:
        if "[metal::" not in str(error):
            raise
        raise RuntimeError(
            f"Metal refused a kernel of backend='metal' under MLX {version('mlx')}: {error}"
        ) from error
