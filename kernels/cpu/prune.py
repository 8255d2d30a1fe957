"""An exact E-step that skips what bounds rule out.

A point carries an upper bound of the distance to its own centroid and a lower bound of the distance to the other ones, per
group of centroids (Hamerly, 2010, with one group; Ding et al., Yinyang k-means, 2015); the centroids' drift wears them
down. Where they cross, features (see features.py) bound the scores from above. The centroids whose bound beats the score of
the own one are compared in all dimensions. Rounding is part of every bound, and a comparison that it could turn is made with
the scores of tile.py, so that the labels are those of `step_rows`, bit for bit.

Distances are Euclidean, of unit rows where centroids are unit vectors: squared, they are a point's ``own - 2 score``, with
own 2 then and ||row||^2 otherwise. Features and the scores that they bound are of unit rows then, too, of rows and centroids
as they are: only the scores of tile.py are shifted and centred, and what that changes is within rounding.
"""

import numpy as np

from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS, ROWS, best_by_lanes, dot_at, gap_at, rows_above, score_at
from .options import INNER, JIT, NEG_INF
from .rows import read_rows, row_at
from .sizes import DEBUG
from .tile import UNSET, move_rows

DENSE = 0.6  # share of a tile's points from which gathering them doesn't pay
UP, DOWN = (
    np.float32(1 + 2.0**-22),
    np.float32(1 - 2.0**-22),
)  # for what carrying a bound rounds off
TWO, ZERO = np.float32(2), np.float32(0)


@njit(**INNER)
def _gap(row, c, n_dims, spherical, inverse):
    """The squared distance of a row and a centroid, given by their addresses."""
    if spherical:
        return max(TWO - TWO * inverse * dot_at(row, c, n_dims), ZERO)
    return gap_at(row, c, n_dims)


@njit(**INNER)
def _own_scores(features, s, index, m, place, columns, row_bias, tail, out):
    """out[:m]: no more than the scores of the points s + index[:m] with the centroids at their places, from the features.

    columns (Q, K) is the table of features transposed. Dimensions are the outer loop: neighbouring points share pages.
    """
    for j in range(m):
        out[j] = row_bias[place[index[j]]]
    for d in range(columns.shape[0]):
        sign = np.float32(-1.0 if tail and d == columns.shape[0] - 1 else 1.0)
        column, row = features[d, s:], columns[d]
        for j in range(m):
            i = np.uint32(index[j])
            out[j] += sign * column[i] * row[np.uint32(place[i])]


@njit(**INNER)
def _carry(upper, lower, drift, group_drift, label, s, n, reach):
    """Wear the bounds of points s:s+n down by the drift; reach (n,) = the least of the lower ones."""
    for i in range(n):
        upper[s + i] = (upper[s + i] + drift[label[i]]) * UP
        reach[i] = np.float32(np.inf)
    for g in range(lower.shape[0]):
        for i in range(n):
            v = lower[g, s + i] * DOWN - group_drift[g]
            lower[g, s + i] = v
            reach[i] = min(reach[i], v)


@njit(**INNER)
def _gather(columns, s, chosen, count, few):
    """few[:, :count] = columns[:, s + chosen]."""
    for d in range(columns.shape[0]):
        for j in range(count):
            few[d, j] = columns[d, s + chosen[j]]


@njit(**INNER)
def _start_points(source, c, table, features, state, spherical, s, n, first, label, scratch, work):
    """Find the points s:s+n whose bounds cross and prepare their search; returns how many.

    Unless `exact`, their own distances come from the features, and are found in all dimensions once a rival shows up.
    OUT by point: reach, its least lower bound; own place in the table; bound of its distance, -inf if its label can't change.
    """
    position, columns, row_bias, tail, drift, group_drift, eps, most, exact = table[1], *table[4:]
    square, inverse, upper, lower = state
    near, _, floats, ints, known, tile, _ = scratch
    reach, threshold, gaps, lost, slack, bound, rest = floats[:7]
    place, index = ints[1:3]
    kept = features.shape[0] > 0
    _carry(upper, lower, drift, group_drift, label, s, n, reach)
    crossing = np.int64(0)
    for i in range(n):
        place[i] = position[label[i]]
        index[crossing] = i
        crossing += not upper[s + i] < reach[i]
    first_c, size = address(c), np.int64(c.strides[0])
    guess = kept and not first and not exact
    if guess:
        _own_scores(features, s, index, crossing, place, columns, row_bias, tail, rest)
    for i in range(n):
        bound[i] = NEG_INF
        threshold[i] = np.float32(np.inf)
    active = 0
    for j in range(crossing):
        i = np.int64(index[j])
        p = s + i
        r = inverse[p] if inverse.size else np.float32(1)
        if r == ZERO:  # no direction: the label is 0 and stays
            continue
        own = square[p] if square.size else TWO
        e = eps * (own + most)
        known[i] = not guess
        if guess:
            upper[p] = min(upper[p], np.sqrt(max(own - TWO * (rest[j] - e), ZERO)))
        else:
            gaps[i] = _gap(
                row_at(source, p, tile), first_c + size * label[i], c.shape[1], spherical, r
            )
            upper[p] = np.sqrt(gaps[i] + TWO * e)
            work[2] += 1
        if upper[p] < reach[i]:
            continue
        if not kept:
            row = read_rows(source, p, np.int64(1), tile)[0]
            for d in range(row.size):
                near[d, i] = row[d] * r
        active += 1
        bound[i] = upper[p]
        slack[i] = e
        lost[i] = np.float32(np.inf)
        threshold[i] = (own - bound[i] * bound[i]) / TWO - e
    return active


@njit(**INNER)
def _select(table, features, state, s, n, g, scratch):
    """Pick the points of the tile that group g may concern, in `chosen`; returns (how many, where their lanes are, stride).

    OUT by chosen point: limit of scores, mine: the own place, -1 if it came along only, rest.
    """
    near, few, floats, ints = scratch[:4]
    threshold, bound, rest, limit = floats[1], *floats[5:]
    place, chosen, mine = ints[1:]
    lower = state[3][g]
    count = np.int64(0)
    for i in range(n):
        chosen[count] = i
        count += not bound[i] < lower[s + i]
    if count == 0:
        return count, np.int64(0), np.int64(0)
    columns, at = (features, s) if features.shape[0] > 0 else (near, 0)
    if DEBUG and at + -(-n // POINTS) * POINTS > columns.shape[1]:
        raise IndexError("points beyond their columns")
    lanes, stride = address(columns) + 4 * at, np.int64(columns.strides[0])
    if count > DENSE * n:
        count = n
        for i in range(n):
            chosen[i] = i
    else:
        _gather(columns, at, chosen, count, few)
        lanes, stride = address(few), np.int64(few.strides[0])
    for j in range(-(-count // POINTS) * POINTS):
        i = chosen[j] if j < count else 0
        some = j < count and not bound[i] < lower[s + i]
        limit[j] = threshold[i] if some else np.float32(np.inf)
        mine[j] = place[i] if some else -1
        rest[j] = NEG_INF
    return count, lanes, stride


@njit(**INNER)
def _search_group(
    sources, c, scored, table, features, state, spherical, s, n, g, label, scratch, work
):  # noqa: C901, PLR0912, PLR0915
    """Centroids of group g against the points of the tile that it may concern.

    One long function: handed to another one, arrays have their references counted, which takes longer than the comparison.
    """
    source, plain = sources
    order, position, width, rows, _, row_bias = table[:6]
    square, inverse, _, lower = state
    floats, ints, known, tile, masks = scratch[2:]
    threshold, gaps, lost, slack, bound, rest, limit = floats[1:]
    place, chosen, mine = ints[1:]
    first_c, size, n_dims = address(c), np.int64(c.strides[0]), np.int64(c.shape[1])
    first_inner, bias = address(scored[0]), scored[1]
    rivals, owns = np.int64(0), np.int64(0)
    count, lanes, stride = _select(table, features, state, s, n, g, scratch)
    limit_at, mine_at, rest_at = address(limit), address(mine), address(rest)
    k0, k1 = g * width, min((g + 1) * width, c.shape[0])
    work[0] += count * (k1 - k0)
    for b in range(0, count, POINTS):
        for k in range(k0, k1, ROWS):
            if not rows_above(
                lanes + 4 * b,
                stride,
                rows,
                row_bias,
                k,
                k1,
                limit_at + 4 * b,
                mine_at + 4 * b,
                rest_at + 4 * b,
                masks,
            ):
                continue
            for a in range(min(ROWS, k1 - k)):
                mask = masks[a]
                while mask:
                    j = b + lowest_bit(mask)
                    mask &= mask - 1
                    i = np.int64(chosen[j])
                    p = s + i
                    r = inverse[p] if inverse.size else np.float32(1)
                    own = square[p] if square.size else TWO
                    window = TWO * slack[i]
                    best, rival = np.int64(label[i]), np.int64(order[k + a])
                    row = row_at(plain, p, tile)
                    if not known[i]:
                        gaps[i] = _gap(row, first_c + size * best, n_dims, spherical, r)
                        known[i] = True
                        owns += 1
                    gap = _gap(row, first_c + size * rival, n_dims, spherical, r)
                    rivals += 1
                    won = gap < gaps[i]
                    if (
                        abs(gap - gaps[i]) <= TWO * window
                    ):  # rounding could decide: then it shall be that of tile.py
                        row = row_at(source, p, tile)
                        new = score_at(row, first_inner + size * rival, n_dims, bias[rival])
                        old = score_at(row, first_inner + size * best, n_dims, bias[best])
                        won = new > old or (new == old and rival < best)
                    if won:
                        gap, gaps[i], label[i] = gaps[i], gap, rival
                    bound[i] = min(bound[i], np.sqrt(gaps[i] + window))
                    threshold[i] = max(threshold[i], (own - gaps[i]) / TWO - slack[i])
                    limit[j] = threshold[i]
                    # The loser's distance, `gap` now, is a bound of its group.
                    loser = np.int64(position[best if won else rival])
                    low = np.sqrt(max(gap - window, ZERO))
                    if loser // width == g:
                        rest[j] = max(rest[j], (own - gap) / TWO)
                    else:
                        lower[loser // width, p] = min(lower[loser // width, p], low)
                    if loser == place[i]:
                        lost[i] = low
    work[1] += rivals
    work[2] += owns
    for j in range(count):
        if mine[j] < 0:
            continue
        i = np.int64(chosen[j])
        p = s + i
        own = square[p] if square.size else TWO
        v = np.sqrt(max(own - TWO * (rest[j] + slack[i]), ZERO))
        lower[g, p] = min(v, lost[i]) if place[i] // width == g else v


@njit(**JIT)
def prune_rows(
    sources,
    weights,
    c,
    scored,
    table,
    features,
    state,
    spherical,
    lo,
    hi,
    labels,
    update,
    sums,
    weight_sum,
    counts,
    touched,
    scratch,
    work,
):
    """`step_rows` for rows lo:hi, to the same labels and sums; returns how many labels changed.

    IN sources: rows as tile.py reads them and, for bounds, without the shift of spherical ones; c (K, D): centroids for bounds;
    scored = (centroids (K, D), bias (K,)) of tile.py.
    table = (order, position, width, rows, columns, row_bias, tail, drift, group_drift, eps, most, exact): centroid
    order[p] is at place p = position[k], groups are `width` places each; rows (K, Q), columns (Q, K) and row_bias (K,) are the
    features and biases by place, the last feature a norm if `tail`; drift (K,) and group_drift (G,) since the bounds were made;
    eps of a squared norm may be rounding; the centroids' squared norms are `most` at most; own distances are found in all
    dimensions from the start if `exact`. features (Q, N) or, for the rows themselves, (0, N). INOUT state = (square (N,) or
    (0,), inverse (N,) or (0,), upper (N,), lower (G, N)). Labels that are UNSET are guessed from the features. OUT work (4,)
    int64, added to: scores by features, distances of rivals, distances of own centroids, points whose bounds crossed.
    """
    source, plain = sources
    order = table[0]
    floats, ints, tile = scratch[2], scratch[3], scratch[5]
    gaps, slack, bound, rest, label, place = floats[2], *floats[4:7], ints[0], ints[1]
    _, inverse, upper, lower = state
    size = label.size - POINTS
    only = np.zeros(1, np.int32)  # the one row of a read
    changed = 0
    for s in range(lo, hi, size):
        n = min(size, hi - s)
        first = labels[s] == UNSET
        if first:
            best_by_lanes(n, features, s, table[3], table[5], rest, place)
            work[0] += n * c.shape[0]
        for i in range(n):
            label[i] = order[place[i]] if first else np.int32(labels[s + i])
            if first and inverse.size and inverse[s + i] == ZERO:
                label[i] = 0
            if DEBUG and (label[i] < 0 or label[i] >= c.shape[0]):
                raise IndexError("a label of other centroids")
        active = _start_points(
            plain, c, table, features, state, spherical, s, n, first, label, scratch, work
        )
        work[3] += active
        if active > 0:
            for g in range(lower.shape[0]):
                _search_group(
                    sources,
                    c,
                    scored,
                    table,
                    features,
                    state,
                    spherical,
                    s,
                    n,
                    g,
                    label,
                    scratch,
                    work,
                )
        known = scratch[4]
        for i in range(n):
            p = s + i
            if bound[i] >= ZERO and known[i]:
                upper[p] = np.sqrt(gaps[i] + TWO * slack[i])
            if np.uint32(label[i]) != labels[p]:
                changed += 1
                if update:
                    row = read_rows(source, p, np.int64(1), tile)
                    move_rows(
                        row,
                        p,
                        only,
                        weights,
                        label[i : i + 1],
                        labels,
                        sums,
                        weight_sum,
                        counts,
                        touched,
                    )
                labels[p] = np.uint32(label[i])
    return changed
