"""A second look at queries whose candidates are not proven: rounding may hide a neighbour."""

from __future__ import annotations

import numpy as np

from ..neighbours import Found
from . import kernels
from .scoring import Measurements, Scoring, score_op
from .tasks import ONE_THREAD_PRODUCTS, SearchSizes, tile_rows
from .workers import Workers
from .workspace import NO_ROW, Workspace

__all__ = ["doubtful_queries", "look_again"]

PROVEN_QUERIES = 1 << 14  # queries that are proven at a time
SECOND_ROWS = 2048  # rows that are scored before the nearest of them are taken
EXACT_WHOLE = 1 << 24  # float32 is exact for whole numbers up to this
MAX_GROUP = 256  # queries of a task


def doubtful_queries(
    scoring: Scoring, distances: np.ndarray, limit: np.ndarray | None, measured: Measurements
) -> np.ndarray:
    """Return the queries for which a row that was left out may be among the nearest.

    Args:
        scoring: How the first look scored rows.
        distances: (Q, k) float64 it found.
        limit: (Q,) distances beyond which rows do not count, or None.
        measured: What it measured.
    """
    b, op, scores = scoring.b, scoring.op, kernels.scores
    square = float(measured.largest_squares[b])
    whole: bool | None = None
    found = [np.zeros(0, np.int64)]
    for lo in range(0, len(distances), PROVEN_QUERIES):
        part = slice(lo, lo + PROVEN_QUERIES)
        tau = distances[part, -1] if limit is None else np.minimum(distances[part, -1], limit[part])
        norms, lowest = measured.norms[b, part], measured.lowest_scores[b, part]
        least = scoring.least_scores(tau, norms, measured.shift_products[b, part], square)
        doubtful = lowest > least
        if not doubtful.any():
            continue
        if op in (scores.COSINE, scores.DOT):
            doubtful &= scoring.queries.x[b, part].any(1)  # or all products are 0
        elif op != scores.CHORD:
            doubtful &= tau > 0  # equal rows score 0, the first of them are kept
        if op not in (scores.COSINE, scores.CHORD):
            # Sums of whole numbers that float32 holds are exact, and so are ties.
            whole = scoring.reads_whole_numbers() if whole is None else whole
            size = norms * np.sqrt(square) if op == scores.DOT else -lowest.astype(np.float64)
            doubtful &= (size >= EXACT_WHOLE) | (not whole)
        doubtful |= np.isposinf(lowest)  # candidates were lost
        found.append(lo + np.flatnonzero(doubtful))
    return np.concatenate(found)


def look_again(
    scoring: Scoring,
    which: np.ndarray,
    limit: np.ndarray | None,
    banned: np.ndarray,
    out: Found,
    measured: Measurements,
    *,
    room: int,
    workers: Workers,
    threads: int,
) -> None:
    """Add every row that may be among the nearest of some queries to their results.

    Args:
        scoring: How rows score.
        which: The queries.
        limit: (Q,) distances beyond which rows do not count, or None.
        banned: (Q,) row that a query may not get, -1 for none.
        out: Distances and indices (Q, k) so far, sorted.
        measured: What the first look measured.
        room: Bytes for all threads.
        workers: Threads.
        threads: How many of them may be used.
    """
    b, queries = scoring.b, scoring.queries
    (_, n, d), k = scoring.rows.x.shape, out[0].shape[1]
    distance_op = score_op(scoring.proximity)
    if len(which) * n * (d + 8) < ONE_THREAD_PRODUCTS:
        threads = 1
    group, piece, threads = _fit(len(which), n, d, k, threads, room)
    tile = tile_rows(n, d)
    spaces = [Workspace(group, piece + 1, tile, d) for _ in range(threads)]
    square = float(measured.largest_squares[b])

    def search(slot: int, i: int) -> None:
        mine, space = which[i * group : (i + 1) * group], spaces[slot]
        asked = queries.some(b, mine)
        source = asked.source(0, scoring.view.query_shift, scoring.view.query_scale)
        space.load(scoring, source, 0, len(mine))
        norms, products = np.empty(len(mine)), measured.shift_products[b, mine]
        space.measure(scoring, norms)
        distances, indices = out[0][mine], out[1][mine]
        farthest = np.inf if limit is None else limit[mine]
        for lo in range(0, n, piece):
            tau = np.minimum(distances[:, -1], farthest)
            space.start(scoring.least_scores(tau, norms, products, square))
            space.search(scoring, lo, min(n, lo + piece), skip=NO_ROW, keep=piece)
            kernels.finish.take_nearer(
                distance_op,
                asked.source(0),
                scoring.given_row_source,
                banned[mine],
                space.buffers,
                distances,
                indices,
                space.scratch.tile,
            )
        out[0][mine], out[1][mine] = distances, indices

    workers.n = threads
    workers.run(search, -(-len(which) // group))


def _fit(q: int, n: int, d: int, k: int, threads: int, room: int) -> tuple[int, int, int]:
    """Return queries of a task, rows at a time and threads, within `room` bytes if possible."""
    group, piece, tile = min(MAX_GROUP, -(-q // threads)), min(n, SECOND_ROWS), tile_rows(n, d)

    def thread_bytes() -> int:
        sizes = SearchSizes(k, piece + 1, group, 1, tile, 1)
        return sizes.thread_bytes(d) + group * (8 * d + 32 + 16 * k)

    while threads * thread_bytes() > room and threads * group * piece > 1:
        if threads > 1:
            threads -= 1
        elif group > 1:
            group = -(-group // 2)
        else:
            piece = -(-piece // 2)
    return group, piece, threads
