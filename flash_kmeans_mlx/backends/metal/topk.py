"""The k best of each row, fused or from scores: selection of lists and exact nearest neighbours."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from . import launch as launches
from .device import Device
from .kernels import frame_inputs, tile_arguments
from .sources import BEST_TYPES, call

__all__ = ["top_of_rows", "topk"]


def topk(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    k: int,
    shift: mx.array | None = None,
    factor: mx.array | None = None,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """The k best centroids of each point, best first: (B, N, k) uint32 and their scores (B, N, k) float32.

    Ties go to the lowest index; NaN counts as -inf. Every 32 of k take one more pass over the scores, which are computed
    anew: none is ever stored.
    """
    b, n, d = x.shape
    framed = shift is not None
    narrow = min(x.size, c.size, c.size if shift is None else shift.size) < 8
    config = launches.topk_config(d, narrow=narrow)
    launch = launches.topk_launch(config, b, n, c.shape[1], device or Device())
    parts = launch.grid[2]
    points = [x, c, bias, *frame_inputs(shift, factor, c)]

    def some(count: int, after: list[mx.array] | None) -> tuple[mx.array, mx.array]:
        label, score = call(
            "top_rows",
            [*points, *(after or [bias, bias]), mx.array([count], mx.uint32)],
            launch,
            [(parts, b, n, count)] * 2,
            BEST_TYPES,
            T=x.dtype,
            **tile_arguments(config),
            FRAMED=framed,
            AFTER=after is not None,
        )
        if parts == 1:
            return label[0], score[0]
        flat = (b * n, parts * count)
        label, score = (a.transpose(1, 2, 0, 3).reshape(flat) for a in (label, score))
        label, score = _top_of_rows(score, count, label, None)
        return label.reshape(b, n, count), score.reshape(b, n, count)

    return _in_rounds(k, some)


def top_of_rows(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """The k best of each row of scores (R, M), best first: (R, k) uint32 and (R, k) float32; ties to the lowest index."""
    return _in_rounds(k, lambda count, after: _top_of_rows(scores, count, None, after))


def _top_of_rows(scores: mx.array, k: int, index: mx.array | None, after: list[mx.array] | None) -> tuple[mx.array, mx.array]:
    r, m = scores.shape
    rows = launches.topk_rows_launch(r, m)
    label, score = call(
        "top_of_rows",
        [scores, scores if index is None else index, *(after or [scores, scores]), mx.array([k], mx.uint32)],
        rows.launch,
        [(r, k)] * 2,
        BEST_TYPES,
        T=scores.dtype,
        W=rows.width,
        INDEXED=index is not None,
        AFTER=after is not None,
    )
    return label, score


def _in_rounds(k: int, some: Any) -> tuple[mx.array, mx.array]:
    """k entries, 32 at a time; every round looks beyond the last entry of the one before."""
    labels, scores, after = [], [], None
    for done in range(0, k, launches.FUSED_K):
        label, score = some(min(launches.FUSED_K, k - done), after)
        labels.append(label)
        scores.append(score)
        after = [score[..., -1], label[..., -1]]
    if len(labels) == 1:
        return labels[0], scores[0]
    return mx.concatenate(labels, axis=-1), mx.concatenate(scores, axis=-1)
