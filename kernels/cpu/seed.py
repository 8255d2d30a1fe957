"""Greedy k-means++ in one kernel: a round draws candidates, adds up what each would gain, and takes the best.

The candidates of a round are SIMD lanes, the points go by one after another. Features of the points (see prune.py), where
they are kept, tell first which of them a candidate could be nearer to than their nearest centre; the others are not read.
"""

import numpy as np

from .candidates import AT_ONCE, CANDIDATES, try_points
from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS, ROWS, rows_above
from .options import INNER, JIT
from .rows import read_rows, row_at
from .sizes import DEBUG, SHARD_ROWS
from .team import NEXT, add, meet

DRAW = SHARD_ROWS  # points whose weight is added up, so that a draw searches sums before points
WINNER = CANDIDATES  # where `picks` has the round's best candidate
ONE, TWO = np.float32(1), np.float32(2)


@njit(**INNER)
def _places(norms, candidate_norms, lanes, nearest, index, scratch):
    """The addresses that `_try` passes on; computed once, as an array's costs a count of its references."""
    own, inverse = norms[:2]
    rows, identity, values, masks = scratch[:4]
    return (
        address(index),
        address(lanes),
        np.int64(lanes.shape[0]),
        address(candidate_norms),
        address(own),
        address(inverse),
        np.int64(4 if inverse.size > 1 else 0),
        address(nearest),
        address(values),
        address(masks),
        address(rows),
        np.int64(rows.strides[0]),
        address(identity),
    )


@njit(**INNER)
def _try(source, places, rows, index, first, count, n_points):
    """`try_points` for index[first:first + AT_ONCE], the last of count again beyond it; index goes on that far."""
    for p in range(count - first, AT_ONCE):
        index[first + p] = index[count - 1]
    if DEBUG:
        for p in range(AT_ONCE):
            if index[first + p] < 0 or index[first + p] >= n_points:
                raise IndexError("no such point")
    here = places[0] + 4 * first
    base, row_bytes, row_index = source[0], source[1], here
    if not source[4]:
        for p in range(AT_ONCE):
            row_at(source, np.int64(index[first + p]), rows[p])
        base, row_bytes, row_index = places[10:]
    return try_points(base, row_bytes, row_index, here, *places[1:10])  # pyright: ignore[reportCallIssue]


@njit(**INNER)
def _near(columns, features, s, n, threshold, scratch, index):
    """index[:m] = those of the points s:s+n that one of the candidates, by their features, could be near; returns m."""
    table, bias, count = features
    masks, none, idle = scratch[3:6]
    m = 0
    if DEBUG and s + -(-n // POINTS) * POINTS > min(columns.shape[1], threshold.size):
        raise IndexError("points beyond their columns")
    for b in range(s, s + n, POINTS):
        bits = np.int64(0)
        for k in range(0, count, ROWS):
            if rows_above(
                address(columns) + 4 * b,
                columns.strides[0],
                table,
                bias,
                k,
                count,
                address(threshold) + 4 * b,
                address(none),
                address(idle),
                masks,
            ):
                for a in range(ROWS):
                    bits |= masks[a]
        while bits:
            index[m] = b + lowest_bit(bits)
            m += 1
            bits &= bits - 1
    return m


@njit(inline="always", **INNER)
def _gain(source, columns, norms, potential, lo, hi, state, table, gains, scratch):
    """Try the round's candidates on rows lo:hi; returns how many rows one of them is nearer to than any centre.

    OUT found[lo:], bits[lo:]: those rows, and a bit per candidate. gains (CANDIDATES,) float64: potential times what distances
    would shrink.
    """
    nearest, threshold, _, found, bits = state
    lanes, candidate_norms, features, feature_bias, _, count = table
    values, masks, index = scratch[2], scratch[3], scratch[6]
    for c in range(CANDIDATES):
        gains[c] = 0.0
    written = lo
    places = _places(norms, candidate_norms, lanes, nearest, index, scratch)
    rows = scratch[0]
    for s in range(lo, hi, DRAW):
        n = min(DRAW, hi - s)
        if columns.shape[0]:
            m = _near(columns, (features, feature_bias, count[0]), s, n, threshold, scratch, index)
        else:
            m = n
            for i in range(n):
                index[i] = s + i
        for j in range(0, m, AT_ONCE):
            if not _try(source, places, rows, index, j, m, nearest.size):
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


@njit(inline="always", **INNER)
def _take(source, norms, potential, lo, hi, size, state, table, eps, scratch):
    """Make the round's best candidate a centre for rows lo:hi, given the `size` rows that `_gain` found."""
    nearest, threshold, blocks, found, bits = state
    lanes, candidate_norms, _, _, picks, _ = table
    whole = norms[2]
    values, index = scratch[2], scratch[6]
    winner = picks[WINNER]
    m = 0
    for e in range(lo, lo + size):
        found[lo + m] = found[e]
        m += (bits[e] >> winner) & 1
    mine = found[lo : lo + m]
    places = _places(norms, candidate_norms, lanes, nearest, index, scratch)
    for j in range(0, m, AT_ONCE):
        n = min(AT_ONCE, m - j)
        for p in range(n):
            index[p] = mine[j + p]
        _try(source, places, scratch[0], index, np.int64(0), n, nearest.size)
        for p in range(n):
            i = np.int64(index[p])
            v = values[p * CANDIDATES + winner]
            nearest[i] = v
            if threshold.size:
                threshold[i] = (whole[i] - v) / TWO - eps * whole[i]
    last = np.int64(-1)
    for i in mine:
        if i // DRAW != last:
            last = i // DRAW
            sum_blocks(nearest, potential, last * DRAW, min(last * DRAW + DRAW, hi), blocks)


@njit(inline="always", **INNER)
def _draw_round(
    source, columns, norms, centre, potential, k, uniforms, first, state, table, eps, scratch
):
    """The candidates of round k: rows, norms and features; none, picks[0] < 0, if every point coincides with a centre."""
    nearest, _, blocks, _, _ = state
    lanes, candidate_norms, features, feature_bias, picks, count = table
    inverse = norms[1]
    middle, origin, noise = centre
    least = 0.0
    for v in middle:
        least += v * v
    count[0] = 1 if k == 0 else uniforms.shape[1]
    if k == 0:
        picks[0] = first
    elif draw(nearest, potential, blocks, uniforms[k], picks) <= 0.0:
        picks[0] = -1
        return
    for c in range(CANDIDATES):
        if c >= count[0]:
            candidate_norms[0, c] = np.float32(np.inf)
            candidate_norms[1, c] = candidate_norms[2, c] = np.float32(0)
            for d in range(lanes.shape[0]):
                lanes[d, c] = np.float32(0)
            continue
        i = picks[c]
        r = inverse[i] if inverse.size > 1 else ONE
        row = read_rows(source, i, np.int64(1), scratch[0][0])[0]
        total, start, square = 0.0, 0.0, 0.0
        for d in range(row.size):
            lanes[d, c] = (np.float64(row[d]) + origin[d]) * np.float64(r) - middle[d]
            v = np.float64(lanes[d, c])
            start += v * origin[d]
            square += v * v
            total += (v + middle[d]) * (v + middle[d])
        candidate_norms[0, c], candidate_norms[1, c] = total - least, start
        candidate_norms[2, c] = noise * np.sqrt(square)
        for f in range(columns.shape[0]):
            features[c, f] = columns[f, i]
        feature_bias[c] = (eps - np.float32(0.5)) * np.float32(total)


@njit(**INNER)
def _most(gains, count):
    """The candidate that gains most over all shards, the first of equals."""
    winner, best = 0, -1.0
    for c in range(count):
        total = 0.0
        for s in range(gains.shape[0]):
            total += gains[s, c]
        if total > best:
            winner, best = c, total
    return winner


@njit(**JIT)
def seed_element(
    source,
    columns,
    norms,
    centre,
    potential,
    uniforms,
    first,
    k0,
    k1,
    chosen,
    cuts,
    state,
    table,
    shared,
    eps,
    team,
    scratch,
):
    """Rounds k0:k1 of k-means++ of one batch element by a team, like `fit_element` of loop.py; OUT chosen (K,), -1 if nothing is left.

    IN columns (Q, N) features or (0, 0); norms = (own (N,), inverse (N,), or (1,) for a one, whole (N,)): squared distance =
    own[i] + norm of the candidate - 2 inverse[i] (<row, candidate> + start of the candidate). Spherical where there are inverse
    norms. centre = (centre (D,), origin (D,), noise): of frame.py for those, zeros otherwise; candidates are unit rows less the
    centre, own are squared distances from it, and noise times a candidate's norm may be rounding of a squared distance.
    Features are of rows that are not centred, whole their squared norms. potential: (N,) weights or (0,);
    uniforms (K, L); first: the first centre; cuts (S + 1,): shards, from a multiple of DRAW on.
    INOUT state = (nearest (N,), threshold (N,) or (0,): scores above it are nearer, blocks, found (N,) int32, bits (N,)
    uint16). table: of candidates. shared = (counts (S,), gains (S, CANDIDATES)).
    """
    state_team, slot, size, sched_yield = team
    counts, gains = shared
    picks = table[4]
    for k in range(k0, k1):
        if slot == 0:
            _draw_round(
                source,
                columns,
                norms,
                centre,
                potential,
                k,
                uniforms,
                first,
                state,
                table,
                eps,
                scratch,
            )
            state_team[NEXT] = 0
        if not meet(state_team, size, sched_yield) or picks[0] < 0:
            return
        s = add(state_team, NEXT, 1)
        while s < cuts.size - 1:
            counts[s] = _gain(
                source,
                columns,
                norms,
                potential,
                cuts[s],
                cuts[s + 1],
                state,
                table,
                gains[s],
                scratch,
            )
            s = add(state_team, NEXT, 1)
        if not meet(state_team, size, sched_yield):
            return
        if slot == 0:
            picks[WINNER] = _most(gains, table[5][0])
            chosen[k] = picks[picks[WINNER]]
            state_team[NEXT] = 0
        if not meet(state_team, size, sched_yield):
            return
        s = add(state_team, NEXT, 1)
        while s < cuts.size - 1:
            _take(
                source,
                norms,
                potential,
                cuts[s],
                cuts[s + 1],
                counts[s],
                state,
                table,
                eps,
                scratch,
            )
            s = add(state_team, NEXT, 1)
        if not meet(state_team, size, sched_yield):
            return


@njit(**JIT)
def sum_blocks(nearest, potential, lo, hi, blocks):
    """blocks[i] = the sum of potential * nearest over DRAW points; lo is a multiple of DRAW."""
    for s in range(lo, hi, DRAW):
        total = np.float64(0.0)
        for i in range(s, min(s + DRAW, hi)):
            total += nearest[i] * (potential[i] if potential.size else np.float32(1.0))
        blocks[s // DRAW] = total


@njit(**JIT)
def draw(nearest, potential, blocks, uniforms, out):
    """out[l] = the point at uniforms[l] of the cumulative weight; returns the whole weight (0: nothing to draw from)."""
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
                chosen = (
                    i  # rounding may leave `left` beyond the last one: then the last with weight
                )
                if left < v:
                    break
                left -= v
        out[j] = chosen
    return whole
