"""The top-k kernels as functions of arrays: the k best centroids of points, the k best of rows.

Lists of more than 32 entries take one more pass over the scores for every 32.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import mlx.core as mx

from . import launch as launches
from .device import Device
from .kernels import Normalisation, normalisation_inputs, tile_arguments
from .sources import BEST_TYPES, call

__all__ = ["top_of_rows", "topk"]


class Entry(NamedTuple):
    """The last entry of a pass; the next pass looks for entries that it beats."""

    score: mx.array
    label: mx.array


class Pass(Protocol):
    """Return labels and scores (..., count) of the `count` best entries after `after`."""

    def __call__(self, count: int, after: Entry | None) -> tuple[mx.array, mx.array]: ...


def topk(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    k: int,
    normalisation: Normalisation | None = None,
    *,
    device: Device | None = None,
) -> tuple[mx.array, mx.array]:
    """Return the k best centroids of each point, best first, by <x, c> + bias.

    Ties go to the lowest index; NaN counts as -inf. Scores are computed anew in every pass and
    never stored. Work for several launches is waited for after each of them.

    Args:
        x: (B, N, D) points.
        c: (B, K, D) float32 centroids.
        bias: (B, K) float32.
        k: Entries of a list.
        normalisation: Normalisation of points, or None to read them as they are.
        device: The GPU, or None for the smallest of its kind.

    Returns:
        Indices (B, N, k) uint32 and scores (B, N, k) float32.
    """
    b, n, d = x.shape
    if b * n > launches.launch_rows(c.shape[1], d):
        found = []
        for elements, rows in launches.cuts(b, n, c.shape[1], d):
            own = normalisation and Normalisation(*(a[elements] for a in normalisation))
            points = x[elements, rows]
            found.append(_topk(points, c[elements], bias[elements], k, own, device or Device()))
            mx.eval(*found[-1])
        flat = ([a.reshape(-1, k) for a in arrays] for arrays in zip(*found, strict=True))
        index, score = (mx.concatenate(arrays).reshape(b, n, k) for arrays in flat)
        return index, score
    return _topk(x, c, bias, k, normalisation, device or Device())


def _topk(
    x: mx.array,
    c: mx.array,
    bias: mx.array,
    k: int,
    normalisation: Normalisation | None,
    device: Device,
) -> tuple[mx.array, mx.array]:
    """Return `topk` by one launch a pass."""
    b, n, d = x.shape
    shift_size = c.size if normalisation is None else normalisation.shift.size
    tiles = launches.topk_tiles(d, narrow=min(x.size, c.size, shift_size) < 8)
    launch = launches.topk_launch(tiles, b, n, c.shape[1], device)
    parts = launch.grid[2]
    points = [x, c, bias, *normalisation_inputs(normalisation, c)]

    def best(count: int, after: Entry | None) -> tuple[mx.array, mx.array]:
        label, score = call(
            "top_rows",
            inputs=[*points, *(after or [bias, bias]), mx.array([count], mx.uint32)],
            launch=launch,
            shapes=[(parts, b, n, count)] * 2,
            dtypes=BEST_TYPES,
            T=x.dtype,
            **tile_arguments(tiles),
            FRAMED=normalisation is not None,
            AFTER=after is not None,
        )
        if parts == 1:
            return label[0], score[0]
        flat = (b * n, parts * count)
        label, score = (a.transpose(1, 2, 0, 3).reshape(flat) for a in (label, score))
        label, score = _top_of_rows(score, count, index=label)
        return label.reshape(b, n, count), score.reshape(b, n, count)

    return _in_passes(k, best)


def top_of_rows(scores: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Return the k best of each row of scores (R, M), best first.

    Ties go to the lowest index; NaN counts as -inf.

    Returns:
        Indices (R, k) uint32 and scores (R, k) float32.
    """
    return _in_passes(k, lambda count, after: _top_of_rows(scores, count, after=after))


def _top_of_rows(
    scores: mx.array, k: int, *, index: mx.array | None = None, after: Entry | None = None
) -> tuple[mx.array, mx.array]:
    """Return the k <= 32 best of each row; `index` (R, M) uint32 names the candidates."""
    r, m = scores.shape
    rows = launches.top_of_rows_launch(r, m)
    label, score = call(
        "top_of_rows",
        inputs=[
            scores,
            scores if index is None else index,
            *(after or [scores, scores]),
            mx.array([k], mx.uint32),
        ],
        launch=rows.launch,
        shapes=[(r, k)] * 2,
        dtypes=BEST_TYPES,
        T=scores.dtype,
        W=rows.width,
        INDEXED=index is not None,
        AFTER=after is not None,
    )
    return label, score


def _in_passes(k: int, best: Pass) -> tuple[mx.array, mx.array]:
    """Return k entries, found 32 at a time."""
    labels: list[mx.array] = []
    scores: list[mx.array] = []
    after: Entry | None = None
    for done in range(0, k, launches.FUSED_K):
        label, score = best(min(launches.FUSED_K, k - done), after)
        labels.append(label)
        scores.append(score)
        after = Entry(score[..., -1], label[..., -1])
    if len(labels) == 1:
        return labels[0], scores[0]
    return mx.concatenate(labels, axis=-1), mx.concatenate(scores, axis=-1)
