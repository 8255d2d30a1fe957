"""Lloyd's whole loop for problems so small that a call per iteration would cost about as much as the iteration."""

import numpy as np

from .centroids import all_zero, move, to_frame
from .jit import njit
from .options import INNER, JIT
from .rows import element, kept_rows, read_rows
from .team import NEXT, add, meet
from .tile import clear_empty, measure_rows, merge, step_rows

# What a batch element's run ended with.
PENDING = 0  # labels and sums are those of the centroids; the centroids have not moved yet
STABLE = 1  # an E-step changed no label
SETTLED = 2  # no centroid moved by more than tol; the labels are one step behind


@njit(inline="always", **INNER)
def fit_element(
    source,
    frame,
    weights,
    kind,
    tol,
    summed,
    limit,
    skip_empty,
    cuts,
    c,
    labels,
    totals,
    shared,
    outcome,
    team,
    lanes,
    scratch,
):
    """Up to `limit` E-steps of one batch element; stops before the M-step at the limit and, unless `skip_empty`, at an empty cluster.

    All threads of a team call it with the same arguments but `team` = (state, slot, size, address of sched_yield) and
    scratch. Shards, the rows between neighbouring cuts (S + 1,), have sums of their own, so the result does not depend on
    the size of the team.

    INOUT c (K, D) float32, labels (N,) uint32, totals = sums (K, D), weight_sum (K,), counts (K,): consistent with labels on entry
    and exit. OUT outcome (3,) float64: E-steps; PENDING, STABLE or SETTLED; the last shift. shared: rows (N, D) to keep the
    points in or (0, D), kept lanes as in `step_rows`, or none, inner (K, D), bias (K,), changed (S,), and cleared
    sums (S, K, D), weight_sum, counts and touched (S, K). lanes: a thread's own, where none are kept.
    """
    state, slot, size, sched_yield = team
    rows, kept, inner, bias, changed = shared[:5]
    changes = shared[5:]
    keep = kept.shape[0] > 0
    read = rows.shape[0] > 0 and not source[4]
    if slot == 0:
        outcome[0], outcome[1], outcome[2] = 0.0, -1.0, 0.0
        if read:
            read_rows(source, np.int64(0), rows.shape[0], rows)
        _begin(c, frame, kind, inner, bias, state)
    if not meet(state, size, sched_yield):
        return
    if read:
        source = kept_rows(source, rows)
    while True:
        s = add(state, NEXT, 1)
        while s < cuts.size - 1:
            sums, weight_sum, counts, touched = changes
            changed[s] = step_rows(
                source,
                weights,
                inner,
                bias,
                kept if keep else lanes,
                not keep or outcome[0] == 0.0,
                cuts[s],
                cuts[s + 1],
                labels,
                limit > 0,
                sums[s],
                weight_sum[s],
                counts[s],
                touched[s],
                scratch,
            )
            s = add(state, NEXT, 1)
        if not meet(state, size, sched_yield):
            return
        k0, k1 = c.shape[0] * slot // size, c.shape[0] * (slot + 1) // size
        merge(
            changes[0], changes[1], changes[2], changes[3], totals[0], totals[1], totals[2], k0, k1
        )
        clear_empty(totals[0], totals[1], totals[2], k0, k1)
        if not meet(state, size, sched_yield):
            return
        if slot == 0:
            _end(c, frame, kind[0], tol, summed, limit, skip_empty, totals, changed, outcome)
            _begin(c, frame, kind, inner, bias, state)
        if not meet(state, size, sched_yield) or outcome[1] >= 0.0:
            return


@njit(**INNER)
def _begin(c, frame, kind, inner, bias, state):
    to_frame(c, frame, kind, inner, bias)
    state[NEXT] = 0


@njit(**INNER)
def _any_zero(values):
    for v in values:  # noqa: SIM110  # Numba has no generator expressions
        if v == 0:
            return True
    return False


@njit(**INNER)
def _end(c, frame, spherical, tol, summed, limit, skip_empty, totals, changed, outcome):
    """The M-step, unless the E-step before it is one to stop at; outcome[1] stays negative as long as the loop goes on."""
    sums, weight_sum, counts = totals
    outcome[0] += 1.0
    if all_zero(changed):
        outcome[1] = STABLE
        return
    if outcome[0] == limit or (not skip_empty and _any_zero(counts)):
        outcome[1] = PENDING
        return
    outcome[2] = move(c, sums, weight_sum, frame, spherical, summed)
    if outcome[2] <= tol:
        outcome[1] = SETTLED


@njit(**JIT)
def fit_elements(
    sources,
    shift,
    scale,
    centre,
    weights,
    kind,
    tol,
    summed,
    limits,
    skip_empty,
    cuts,
    b0,
    b1,
    c,
    labels,
    totals,
    outcomes,
    shared,
    team,
    lanes,
    scratch,
):
    """`fit_element` for the batch elements b0:b1 with limits[b] > 0; OUT outcomes (B, 3).

    IN sources as in rows.py; shift (B, D), scale (B,) and centre (B, D) float64 as in frame.py; kind as in `to_frame`;
    weights (B, N) or (B, 0).
    """
    sums, weight_sum, counts = totals
    for b in range(b0, b1):
        if limits[b] > 0:
            fit_element(
                element(sources, b),
                (shift[b], scale[b], centre[b]),
                weights[b],
                kind,
                tol,
                summed,
                limits[b],
                skip_empty,
                cuts,
                c[b],
                labels[b],
                (sums[b], weight_sum[b], counts[b]),
                shared,
                outcomes[b],
                team,
                lanes,
                scratch,
            )


@njit(**JIT)
def assign_elements(sources, elements, m0, m1, inner, bias, labels, update, unused, lanes, scratch):
    """Label the points of batch elements[m0:m1] by their centroids `inner` (B, K, D) in the frame; unused: empty accumulators."""
    weights, sums, weight_sum, counts, touched = unused
    for b in elements[m0:m1]:
        step_rows(
            element(sources, b),
            weights,
            inner[b],
            bias[b],
            lanes,
            m1 > m0,
            np.int64(0),
            labels.shape[1],
            labels[b],
            update,
            sums,
            weight_sum,
            counts,
            touched,
            scratch,
        )


@njit(**JIT)
def measure_elements(sources, weights, c, labels, cost, inverse, cuts, m0, m1, totals, out, tile):
    """totals[b, s] = `measure_rows` of the rows between the cuts (S + 1,) of the batch elements m0:m1."""
    for b in range(m0, m1):
        source = element(sources, b)
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
                tile,
            )
