"""Lloyd's whole loop in one kernel, for problems too small for a call per iteration.

The loop follows ``flash_kmeans_mlx/kmeans/lloyd.py`` and stops by its rules. MOVED, PENDING, STABLE
and SETTLED are the states of ``flash_kmeans_mlx/backends/points.py``: what a batch element's run
ended with.
"""

from typing import NamedTuple

import numpy as np

from . import int8_labels
from .centroids import Coordinates, all_zero, coordinates_of, move, to_frame
from .int8 import Int8Centroids, Int8Points, round_centroids
from .jit import njit
from .rows import Sources, kept_rows, read_rows, source_of
from .team import NEXT, add, meet
from .tile import (
    Changes,
    Scored,
    Totals,
    changes_of,
    clear_empty,
    measure_rows,
    merge,
    step_rows,
    totals_of,
)

RUNNING = -2  # the loop goes on
MOVED = -1  # the limit is reached, and the centroids have moved: the labels are one step behind
PENDING = 0  # labels and sums are those of the centroids; the centroids have not moved yet
STABLE = 1  # an E-step changed no label
SETTLED = 2  # no centroid moved by more than tol; the labels are one step behind


class Batch(NamedTuple):
    """Points of a batch, and what holds for all its iterations.

    Attributes:
        sources: Rows (B, N, D).
        weights: (B, N) float32, or (B, 0) for all ones.
        coordinates: Normalised coordinates of the batch.
        cuts: (S + 1,) int64, first rows of the S shards, and N. Each shard has sums of its own: the
            result does not depend on the size of the team.
        labels: (B, N) uint32.
        totals: Sums of the batch, consistent with the labels on entry and exit.
        tol: Shift at which a batch element stops.
        summed: Whether `tol` bounds the norm of all shifts together, not the largest shift.
        skip_empty: Whether the loop goes on where a cluster is empty.
    """

    sources: Sources
    weights: np.ndarray
    coordinates: Coordinates
    cuts: np.ndarray
    labels: np.ndarray
    totals: Totals
    tol: float
    summed: bool
    skip_empty: bool


class Shared(NamedTuple):
    """Memory that the threads of a team share.

    Attributes:
        rows: (N, D) float32 to keep converted rows in, or (0, D).
        lanes: (tiles, D, T + padding) float32 to keep the points in, or none: see `step_rows`.
        scored: Centroids in normalised coordinates, and their bias.
        changed: (S,) int64, labels that changed.
        changes: Changes by the S shards, cleared.
    """

    rows: np.ndarray
    lanes: np.ndarray
    scored: Scored
    changed: np.ndarray
    changes: Changes


class Bytes(NamedTuple):
    """Memory of a thread for assigning by bytes, shared by a team but for the scratch.

    Attributes:
        points: The points as bytes: see int8.py.
        centroids: The centroids as bytes.
        compared: (S,) int64, pairs that bytes did not decide.
        most: (1,) int64, as many of them as are worth it; -1 once bytes are given up.
        scratch: Memory of the thread.
    """

    points: Int8Points
    centroids: Int8Centroids
    compared: np.ndarray
    most: np.ndarray
    scratch: int8_labels.Int8Scratch


@njit(inline="always")
def _step_by_bytes(source, weights, cuts, s, fill, labels, shared, by_bytes, scratch):
    """Do the E-step of shard s, by bytes unless they are given up; `fill` is true at the first."""
    lo, hi, changes = cuts[s], cuts[s + 1], changes_of(shared.changes, s)
    if by_bytes.most[0] < 0:
        always = np.bool_(True)
        return step_rows(
            source, weights, shared.scored, scratch.lanes, always, lo, hi, labels, changes, scratch
        )
    changed, compared = int8_labels.step_rows(
        source,
        weights,
        shared.scored,
        by_bytes.centroids,
        by_bytes.points,
        np.bool_(True),
        fill,
        lo,
        hi,
        labels,
        changes,
        scratch,
        by_bytes.scratch,
    )
    by_bytes.compared[s] = compared
    return changed


@njit
def _round(by_bytes, scored):
    """Round the centroids to bytes, unless these are to be given up."""
    if by_bytes.compared.sum() > by_bytes.most[0]:
        by_bytes.most[0] = -1
    if by_bytes.most[0] >= 0:
        round_centroids(scored.c, scored.bias, by_bytes.centroids)


@njit(inline="always")
def fit_element(batch, b, limit, c, outcome, shared, by_bytes, team, scratch):  # noqa: C901, PLR0912
    """Run up to `limit` E-steps of batch element b, by bytes unless `by_bytes` is None.

    One long function: handed to another one, arrays have their references counted.

    Stops before the M-step at an empty cluster, unless `skip_empty`. All threads of a team call it
    with the same arguments but `team` and `scratch`.
    INOUT c (K, D) float32. OUT outcome (3,) float64: E-steps; the state; the last shift.
    """
    source = source_of(batch.sources, b)
    weights, labels, cuts = batch.weights[b], batch.labels[b], batch.cuts
    coordinates = coordinates_of(batch.coordinates, b)
    totals = totals_of(batch.totals, b)
    changed, changes, scored = shared.changed, shared.changes, shared.scored
    keep = shared.lanes.shape[0] > 0
    lanes = shared.lanes if keep else scratch.lanes
    read = shared.rows.shape[0] > 0 and not source.direct
    if team.slot == 0:
        outcome[0], outcome[1], outcome[2] = 0.0, RUNNING, 0.0
        if read:
            read_rows(source, np.int64(0), shared.rows.shape[0], shared.rows)
        _begin(c, coordinates, scored, team.state)
        if by_bytes is not None:
            _round(by_bytes, scored)
    if not meet(team):
        return
    if read:
        source = kept_rows(source, shared.rows)
    while True:
        s = add(team.state, NEXT, 1)
        while s < cuts.size - 1:
            fill = not keep or outcome[0] == 0.0
            if by_bytes is None:  # then Numba compiles no more than this
                changed[s] = step_rows(
                    source,
                    weights,
                    scored,
                    lanes,
                    fill,
                    cuts[s],
                    cuts[s + 1],
                    labels,
                    changes_of(changes, s),
                    scratch,
                )
            else:
                first = outcome[0] == 0.0
                changed[s] = _step_by_bytes(
                    source, weights, cuts, s, first, labels, shared, by_bytes, scratch
                )
            s = add(team.state, NEXT, 1)
        if not meet(team):
            return
        k0 = c.shape[0] * team.slot // team.size
        k1 = c.shape[0] * (team.slot + 1) // team.size
        merge(changes, totals, k0, k1)
        clear_empty(totals, k0, k1)
        if not meet(team):
            return
        if team.slot == 0:
            _end(batch, c, coordinates, totals, limit, changed, outcome)
            _begin(c, coordinates, scored, team.state)
            if by_bytes is not None:
                _round(by_bytes, scored)
        if not meet(team) or outcome[1] != RUNNING:
            return


@njit
def _begin(c, coordinates, scored, state):
    to_frame(c, coordinates, scored.c, scored.bias)
    state[NEXT] = 0


@njit
def _any_zero(values):
    for v in values:  # noqa: SIM110  # Numba has no generator expressions
        if v == 0:
            return True
    return False


@njit
def _end(batch, c, coordinates, totals, limit, changed, outcome):
    """Do the M-step, unless the loop stops at the E-step before it."""
    outcome[0] += 1.0
    if all_zero(changed):
        outcome[1] = STABLE
        return
    if not batch.skip_empty and _any_zero(totals.counts):
        outcome[1] = PENDING
        return
    outcome[2] = move(c, totals.sums, totals.weight_sum, coordinates, batch.summed)
    if outcome[2] <= batch.tol:
        outcome[1] = SETTLED
    elif outcome[0] == limit:
        outcome[1] = MOVED


@njit
def fit_elements(batch, limits, b0, b1, c, outcomes, shared, by_bytes, team, scratch):
    """Call `fit_element` for the batch elements b0:b1 with limits[b] > 0.

    INOUT c (B, K, D) float32. OUT outcomes (B, 3) float64.
    """
    for b in range(b0, b1):
        if limits[b] > 0:
            fit_element(batch, b, limits[b], c[b], outcomes[b], shared, by_bytes, team, scratch)


@njit
def assign_elements(sources, elements, m0, m1, scored, labels, nothing, scratch):
    """Label the points of batch elements[m0:m1]; scored: centroids of the batch.

    nothing: (no weights, empty `Changes`), as sums stay.
    """
    weights, changes = nothing
    for b in elements[m0:m1]:
        step_rows(
            source_of(sources, b),
            weights,
            Scored(scored.c[b], scored.bias[b]),
            scratch.lanes,
            np.bool_(True),
            np.int64(0),
            labels.shape[1],
            labels[b],
            changes,
            scratch,
        )


@njit
def measure_elements(sources, weights, c, labels, cost, inverse, cuts, m0, m1, totals, out, tile):
    """Write totals[b, s] = `measure_rows` of shard s, for the batch elements m0:m1."""
    for b in range(m0, m1):
        source = source_of(sources, b)
        for s in range(cuts.size - 1):
            totals[b, s] = measure_rows(
                source,
                weights[b],
                c[b],
                labels[b],
                cuts[s],
                cuts[s + 1],
                cost,
                inverse[b],
                out,
                0.0,
                tile,
            )
