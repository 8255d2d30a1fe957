"""The CPU backend's points: each pass in the way that is fastest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ..points import Problem, Step
from . import kernels
from .blas import single_threaded
from .plan import Plan
from .seeds import kmeans_plusplus
from .tiles import TiledPoints
from .tuner import Tuner

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CpuPoints"]


class CpuPoints(TiledPoints):
    """Points in host memory, assigned in the ways that `tuner` chooses."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        super().__init__(problem, plan)
        self.tuner = Tuner(self, problem.strategy)

    def __enter__(self) -> Self:
        with ExitStack() as on_error:
            # Bounds are prepared by NumPy's BLAS, whose threads would take the place of ours.
            if self.tuner.open:
                on_error.enter_context(single_threaded())
            super().__enter__()
            self._exit = on_error.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._exit:
            self.tuner.close()
            super().__exit__(*exc)

    def products(self) -> float:
        return self.tuner.share

    def reset(self) -> None:
        self.tuner.reset()
        super().reset()

    def kmeans_plusplus(self, first: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return kmeans_plusplus(self, first, uniforms, self.tuner.for_seeding())

    def step(self, centroids: np.ndarray, limits: np.ndarray, tol: float, skip_empty: bool) -> Step:
        step = super().step(centroids, limits, tol, skip_empty)
        self.tuner.count(int((limits > 0).sum()))
        return step

    def assign(self, centroids: np.ndarray, elements: np.ndarray) -> None:
        super().assign(centroids, elements)
        self.tuner.count(int(elements.sum()))

    def prepared_step(
        self, centroids: np.ndarray, elements: np.ndarray, passes: int
    ) -> Callable[[int, int, int, kernels.tile.Changes], int]:
        scored = self.scored(centroids)
        by_tiles = self.by_tiles(scored)
        way = self.tuner.prepare(centroids, scored, elements, passes)
        if way is None:
            return by_tiles

        def step_rows(slot: int, b: int, s: int, changes: kernels.tile.Changes) -> int:
            return (way.step_rows if way.pays() else by_tiles)(slot, b, s, changes)

        return step_rows
