"""Greedy k-means++ in one kernel.

A round draws candidates, adds up what each would gain, and takes the best. Candidates are SIMD
lanes, points go by one after another. Where bytes or features of the points are kept, they tell
first which points a candidate could be nearer to than their nearest centre; the others are not
read: see near.py.
"""

from typing import NamedTuple

import numpy as np

from .candidates import AT_ONCE, CANDIDATES, fetch_next, places_of, try_some
from .ir import lowest_bit
from .jit import njit
from .near import points_to_try, prepare_candidates, threshold_of
from .rows import read_rows
from .sizes import SHARD_ROWS
from .team import NEXT, add, meet

DRAW = SHARD_ROWS  # points whose weight is added up, so that a draw searches sums before points
SCAN = 8 * DRAW  # points that bounds pass over at a time: enough to read rows ahead
WINNER = CANDIDATES  # where `picks` has the round's best candidate
ONE = np.float32(1)


class Measure(NamedTuple):
    """The distance of one batch element's points that seeds are drawn by.

    Squared, it is own[i] + norm of the candidate - 2 inverse[i] (<row, candidate> + its start).
    Where there are inverse norms, rows are unit rows.

    Attributes:
        own: (N,) float32, squared distance from `centre`, or from 0.
        inverse: (N,) float32, 1 / ||row||, or (1,) for a one.
        whole: (N,) float32, squared norms of the rows that features are of, which have no centre.
        centre: (D,) float64, as in frame.py, taken off unit candidates; zeros otherwise.
        origin: (D,) float64, as in frame.py, added to unit candidates; zeros otherwise.
        noise: Times a candidate's norm, rounding of a squared distance.
        eps: Rounding of scores, relative to squared norms.
        potential: (N,) float32 weights that points are drawn by, or (0,) for all ones.
    """

    own: np.ndarray
    inverse: np.ndarray
    whole: np.ndarray
    centre: np.ndarray
    origin: np.ndarray
    noise: float
    eps: np.float32
    potential: np.ndarray


class Nearest(NamedTuple):
    """Distances of one batch element's points to their nearest centre so far.

    Attributes:
        nearest: (N,) float32, squared distances.
        threshold: (N + POINTS,) float32, what bounds must reach, see near.py; (0,) without bounds.
        blocks: (N / DRAW,) float64, sums of potential times distance.
        found: (N,) int32, points that a candidate of this round is nearer to.
        bits: (N,) uint16, a bit per candidate that is nearer to `found`.
    """

    nearest: np.ndarray
    threshold: np.ndarray
    blocks: np.ndarray
    found: np.ndarray
    bits: np.ndarray


@njit(inline="always")
def _gain(source, filters, measure, lo, hi, state, candidates, gains, scratch):
    """Try the round's candidates on rows lo:hi; return how many rows one of them is nearer to.

    OUT found[lo:], bits[lo:]: those rows, and a bit per candidate. gains (CANDIDATES,) float64:
    potential times what distances would shrink.
    """
    nearest, found, bits = state.nearest, state.found, state.bits
    values, masks, index, rows = scratch.values, scratch.masks, scratch.points, scratch.rows
    threshold, potential = state.threshold, measure.potential
    for c in range(CANDIDATES):
        gains[c] = 0.0
    written = lo
    places = places_of(measure, candidates, nearest, scratch)
    for s in range(lo, hi, SCAN):
        n = min(SCAN, hi - s)
        m = points_to_try(filters, measure, candidates, s, n, threshold, scratch)
        for j in range(0, m, AT_ONCE):
            if m - j >= 2 * AT_ONCE:
                fetch_next(source, places, index, j)
            if not try_some(source, places, rows, index, j, m, nearest.size):
                continue
            for p in range(min(AT_ONCE, m - j)):
                mask = masks[p]
                if mask == 0:
                    continue
                i = np.int64(index[j + p])
                found[written] = i
                bits[written] = mask
                written += 1
                w = np.float64(potential[i]) if potential.size else 1.0
                while mask:
                    c = lowest_bit(mask)
                    mask &= mask - 1
                    gains[c] += w * (
                        np.float64(nearest[i]) - np.float64(values[p * CANDIDATES + c])
                    )
    return written - lo


@njit(inline="always")
def _take(source, filters, measure, lo, hi, size, state, candidates, scratch):
    """Make the round's best candidate a centre for rows lo:hi, where `_gain` found `size` rows."""
    nearest, threshold = state.nearest, state.threshold
    found, bits = state.found, state.bits
    by_bytes = filters.points.words.shape[0] > 0
    own = measure.own if by_bytes else measure.whole
    inverse = measure.inverse
    values, index, rows = scratch.values, scratch.points, scratch.rows
    winner = candidates.picks[WINNER]
    m = 0
    for e in range(lo, lo + size):
        found[lo + m] = found[e]
        m += (bits[e] >> winner) & 1
    mine = found[lo : lo + m]
    places = places_of(measure, candidates, nearest, scratch)
    for j in range(0, m, AT_ONCE):
        n = min(AT_ONCE, m - j)
        if m - j >= 2 * AT_ONCE:
            fetch_next(source, places, mine, j)
        for p in range(n):
            index[p] = mine[j + p]
        try_some(source, places, rows, index, np.int64(0), n, nearest.size)
        for p in range(n):
            i = np.int64(index[p])
            v = values[p * CANDIDATES + winner]
            nearest[i] = v
            if threshold.size:
                r = inverse[i] if by_bytes and inverse.size > 1 else ONE
                threshold[i] = threshold_of(own[i], r, v, measure.eps)
    last = np.int64(-1)
    for i in mine:
        if i // DRAW != last:
            last = i // DRAW
            end = min(last * DRAW + DRAW, hi)
            sum_blocks(nearest, measure.potential, last * DRAW, end, state.blocks)


@njit(inline="always")
def _draw_round(source, filters, measure, k, uniforms, first, state, candidates, scratch):
    """Draw the candidates of round k; picks[0] < 0 if every point coincides with a centre."""
    lanes, norms, picks = candidates.lanes, candidates.norms, candidates.picks
    features, number, columns = candidates.features, candidates.number, filters.columns
    inverse, centre, origin = measure.inverse, measure.centre, measure.origin
    centre_square = 0.0
    for v in centre:
        centre_square += v * v
    number[0] = 1 if k == 0 else uniforms.shape[1]
    if k == 0:
        picks[0] = first
    elif draw(state.nearest, measure.potential, state.blocks, uniforms[k], picks) <= 0.0:
        picks[0] = -1
        return
    for c in range(CANDIDATES):
        if c >= number[0]:
            norms[0, c] = np.float32(np.inf)
            norms[1, c] = norms[2, c] = np.float32(0)
            for d in range(lanes.shape[0]):
                lanes[d, c] = np.float32(0)
            continue
        i = picks[c]
        r = inverse[i] if inverse.size > 1 else ONE
        row = read_rows(source, i, np.int64(1), scratch.rows[0])[0]
        total, start, square = 0.0, 0.0, 0.0
        for d in range(row.size):
            lanes[d, c] = (np.float64(row[d]) + origin[d]) * np.float64(r) - centre[d]
            v = np.float64(lanes[d, c])
            start += v * origin[d]
            square += v * v
            total += (v + centre[d]) * (v + centre[d])
        norms[0, c] = total - centre_square
        norms[1, c] = start
        norms[2, c] = measure.noise * np.sqrt(square)
        for f in range(columns.shape[0]):
            features[c, f] = columns[f, i]
        candidates.bias[c] = (measure.eps - np.float32(0.5)) * np.float32(total)
    if filters.points.words.shape[0]:
        prepare_candidates(candidates, measure)


@njit
def _most(gains, count):
    """Return the candidate that gains most over all shards, the first of equals."""
    winner, best = 0, -1.0
    for c in range(count):
        total = 0.0
        for s in range(gains.shape[0]):
            total += gains[s, c]
        if total > best:
            winner, best = c, total
    return winner


@njit
def seed_element(
    source,
    filters,
    measure,
    uniforms,
    first,
    k0,
    k1,
    chosen,
    cuts,
    state,
    candidates,
    team,
    scratch,
):
    """Run rounds k0:k1 of k-means++ of one batch element by a team, as `fit_element` of loop.py.

    IN filters: a `Filters`; uniforms (K, L); first: the first centre; cuts (S + 1,): shards, which
    begin at multiples of DRAW. INOUT state: a `Nearest`.
    OUT chosen (K,), -1 from where every point coincides with a centre.
    """
    counts, gains, picks = candidates.counts, candidates.gains, candidates.picks
    for k in range(k0, k1):
        if team.slot == 0:
            _draw_round(source, filters, measure, k, uniforms, first, state, candidates, scratch)
            team.state[NEXT] = 0
        if not meet(team) or picks[0] < 0:
            return
        s = add(team.state, NEXT, 1)
        while s < cuts.size - 1:
            counts[s] = _gain(
                source, filters, measure, cuts[s], cuts[s + 1], state, candidates, gains[s], scratch
            )
            s = add(team.state, NEXT, 1)
        if not meet(team):
            return
        if team.slot == 0:
            picks[WINNER] = _most(gains, candidates.number[0])
            chosen[k] = picks[picks[WINNER]]
            team.state[NEXT] = 0
        if not meet(team):
            return
        s = add(team.state, NEXT, 1)
        while s < cuts.size - 1:
            _take(
                source,
                filters,
                measure,
                cuts[s],
                cuts[s + 1],
                counts[s],
                state,
                candidates,
                scratch,
            )
            s = add(team.state, NEXT, 1)
        if not meet(team):
            return


@njit
def sum_blocks(nearest, potential, lo, hi, blocks):
    """Write to blocks[i] the sum of potential * nearest over DRAW points.

    lo is a multiple of DRAW.
    """
    for s in range(lo, hi, DRAW):
        total = np.float64(0.0)
        for i in range(s, min(s + DRAW, hi)):
            total += nearest[i] * (potential[i] if potential.size else np.float32(1.0))
        blocks[s // DRAW] = total


@njit
def draw(nearest, potential, blocks, uniforms, out):
    """Write to out[l] the point at uniforms[l] of the cumulative weight.

    Returns the whole weight, 0 if there is nothing to draw from.
    """
    whole = 0.0
    for v in blocks:
        whole += v
    for j in range(uniforms.size):
        left = uniforms[j] * whole
        block = 0
        while block < blocks.size - 1 and left >= blocks[block]:
            left -= blocks[block]
            block += 1
        chosen = -1
        for i in range(block * DRAW, min((block + 1) * DRAW, nearest.size)):
            v = np.float64(nearest[i]) * (potential[i] if potential.size else np.float32(1.0))
            if v > 0.0:
                # Rounding may leave `left` beyond the last one: then it is the last with weight.
                chosen = i
                if left < v:
                    break
                left -= v
        out[j] = chosen
    return whole
