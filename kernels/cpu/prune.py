"""An exact E-step that skips products that bounds rule out.

A point carries an upper bound of the distance to its own centroid and a lower bound of the distance
to the other ones, per group of centroids (Hamerly, 2010, with one group; Ding et al., Yinyang
k-means, 2015). Bounds loosen as centroids move. Where they cross, features (see features.py) bound
the scores from above. Centroids whose bound beats the score of the own one are compared in all
dimensions. Every bound allows for rounding, and a comparison that rounding could turn is made with
the scores of tile.py: the labels are those of `step_rows`, bit for bit.

Distances are Euclidean. Squared, they are ``own - 2 score`` of a point: own is ||row||^2, or 2
where centroids are unit vectors and rows are taken as unit rows. Bounds and features are of those
rows and of centroids as they are. Only the scores of tile.py are shifted and centred; that changes
them by no more than rounding.
"""

import numpy as np

from .bounds import carry, own_scores
from .ir import address, lowest_bit
from .jit import njit
from .lanes import POINTS, ROWS, best_by_lanes, dot_at, gap_at, rows_above, score_at
from .rows import read_rows, row_at
from .sizes import DEBUG, NEG_INF
from .tile import UNSET, move_rows

DENSE = 0.6  # share of a tile's points from which gathering them takes longer than it saves
TWO, ZERO = np.float32(2), np.float32(0)

# Fields of `work`, (5,) int64, sums so far: scores of features, distances of rivals and of own
# centroids in all dimensions, points whose bounds crossed, points.
SCORES, RIVALS, OWN, CROSSED, ROWS_DONE = range(5)


@njit
def _gap(row, c, n_dims, spherical, inverse):
    """Return the squared distance of a row and a centroid, given by their addresses."""
    if spherical:
        return max(TWO - TWO * inverse * dot_at(row, c, n_dims), ZERO)
    return gap_at(row, c, n_dims)


@njit
def _gather(columns, s, chosen, count, gathered):
    """Copy columns[:, s + chosen] to gathered[:, :count]."""
    for d in range(columns.shape[0]):
        for j in range(count):
            gathered[d, j] = columns[d, s + chosen[j]]


@njit
def _start_points(source, table, features, bounds, s, n, first, scratch, work):
    """Find the points s:s+n whose bounds cross and prepare their search; return how many.

    Unless `exact`, their own distances come from the features, and are found in all dimensions once
    a rival shows up. OUT reach, place, bound, and for points whose bounds cross threshold, gaps,
    lost, slack and known.
    """
    c, position, eps, most = table.c, table.position, table.eps, table.most
    square, inverse, upper, lower = bounds
    known, tile = scratch.known, scratch.row
    reach, threshold, gaps = scratch.reach, scratch.threshold, scratch.gaps
    lost, slack, bound, rest = scratch.lost, scratch.slack, scratch.bound, scratch.rest
    label, place, index = scratch.label, scratch.place, scratch.chosen
    carry(upper, lower, table.drift, table.group_drift, label, s, n, reach)
    crossing = np.int64(0)
    for i in range(n):
        place[i] = position[label[i]]
        index[crossing] = i
        crossing += not upper[s + i] < reach[i]
    first_c, size = address(c), np.int64(c.strides[0])
    guess = not first and not table.exact
    if guess:
        own_scores(features, s, index, crossing, place, table, rest)
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
            row = row_at(source, p, tile)
            gaps[i] = _gap(row, first_c + size * label[i], c.shape[1], table.spherical, r)
            upper[p] = np.sqrt(gaps[i] + TWO * e)
            work[OWN] += 1
        if upper[p] < reach[i]:
            continue
        active += 1
        bound[i] = upper[p]
        slack[i] = e
        lost[i] = np.float32(np.inf)
        threshold[i] = (own - bound[i] * bound[i]) / TWO - e
    return active


@njit
def _select(features, bounds, s, n, g, scratch):
    """Pick the points of the tile that group g may concern, in `chosen`.

    Returns (how many, the address of their lanes, stride). OUT limit, mine and rest.
    """
    gathered = scratch.gathered
    threshold, bound = scratch.threshold, scratch.bound
    rest, limit = scratch.rest, scratch.limit
    place, chosen, mine = scratch.place, scratch.chosen, scratch.mine
    lower = bounds.lower[g]
    count = np.int64(0)
    for i in range(n):
        chosen[count] = i
        count += not bound[i] < lower[s + i]
    if count == 0:
        return count, np.int64(0), np.int64(0)
    if DEBUG and s + -(-n // POINTS) * POINTS > features.shape[1]:
        raise IndexError("points beyond their columns")
    lanes, stride = address(features) + 4 * s, np.int64(features.strides[0])
    if count > DENSE * n:
        count = n
        for i in range(n):
            chosen[i] = i
    else:
        _gather(features, s, chosen, count, gathered)
        lanes, stride = address(gathered), np.int64(gathered.strides[0])
    for j in range(-(-count // POINTS) * POINTS):
        i = chosen[j] if j < count else 0
        concerned = j < count and not bound[i] < lower[s + i]
        limit[j] = threshold[i] if concerned else np.float32(np.inf)
        mine[j] = place[i] if concerned else -1
        rest[j] = NEG_INF
    return count, lanes, stride


@njit
def _search_group(source, unshifted, table, features, bounds, s, n, g, scratch, work):  # noqa: C901, PLR0912, PLR0915
    """Compare centroids of group g with the points of the tile that it may concern.

    One long function: handed to another one, arrays have their references counted, which takes
    longer than the comparison.
    """
    c, inner, bias, spherical = table.c, table.inner, table.bias, table.spherical
    order, position, width = table.order, table.position, table.width
    rows, row_bias = table.rows, table.row_bias
    square, inverse, _, lower = bounds
    threshold, gaps, lost, slack = scratch.threshold, scratch.gaps, scratch.lost, scratch.slack
    bound, rest, limit = scratch.bound, scratch.rest, scratch.limit
    label, place, chosen, mine = scratch.label, scratch.place, scratch.chosen, scratch.mine
    known, tile, masks = scratch.known, scratch.row, scratch.masks
    first_c, size, n_dims = address(c), np.int64(c.strides[0]), np.int64(c.shape[1])
    first_inner = address(inner)
    rivals, owns = np.int64(0), np.int64(0)
    count, lanes, stride = _select(features, bounds, s, n, g, scratch)
    limit_at, mine_at, rest_at = address(limit), address(mine), address(rest)
    k0, k1 = g * width, min((g + 1) * width, c.shape[0])
    work[SCORES] += count * (k1 - k0)
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
                    row = row_at(unshifted, p, tile)
                    if not known[i]:
                        gaps[i] = _gap(row, first_c + size * best, n_dims, spherical, r)
                        known[i] = True
                        owns += 1
                    gap = _gap(row, first_c + size * rival, n_dims, spherical, r)
                    rivals += 1
                    won = gap < gaps[i]
                    # Rounding could decide: then it shall be that of tile.py.
                    if abs(gap - gaps[i]) <= TWO * window:
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
    work[RIVALS] += rivals
    work[OWN] += owns
    for j in range(count):
        if mine[j] < 0:
            continue
        i = np.int64(chosen[j])
        p = s + i
        own = square[p] if square.size else TWO
        v = np.sqrt(max(own - TWO * (rest[j] + slack[i]), ZERO))
        lower[g, p] = min(v, lost[i]) if place[i] // width == g else v


@njit
def prune_rows(
    source, unshifted, weights, table, features, bounds, lo, hi, labels, changes, scratch, work
):
    """Do the E-step of rows lo:hi, with the labels and sums of `step_rows`.

    Returns how many labels changed.
    IN source: rows as tile.py reads them; unshifted: rows without the shift of spherical ones, for
    bounds; features (Q, N). INOUT bounds, labels (N,) uint32, where UNSET ones are guessed from the
    features, changes and work (5,).
    """
    order = table.order
    inverse, upper, lower = bounds.inverse, bounds.upper, bounds.lower
    gaps, slack, bound, rest = scratch.gaps, scratch.slack, scratch.bound, scratch.rest
    label, place, known = scratch.label, scratch.place, scratch.known
    n_clusters = table.c.shape[0]
    size = label.size - POINTS
    only = np.zeros(1, np.int32)  # the index of the one row of a read
    changed = 0
    work[ROWS_DONE] += hi - lo
    for s in range(lo, hi, size):
        n = min(size, hi - s)
        first = labels[s] == UNSET
        if first:
            best_by_lanes(n, features, s, table.rows, table.row_bias, rest, place)
            work[SCORES] += n * n_clusters
        for i in range(n):
            label[i] = order[place[i]] if first else np.int32(labels[s + i])
            if first and inverse.size and inverse[s + i] == ZERO:
                label[i] = 0
            if DEBUG and (label[i] < 0 or label[i] >= n_clusters):
                raise IndexError("a label of other centroids")
        active = _start_points(unshifted, table, features, bounds, s, n, first, scratch, work)
        work[CROSSED] += active
        if active > 0:
            for g in range(lower.shape[0]):
                _search_group(source, unshifted, table, features, bounds, s, n, g, scratch, work)
        for i in range(n):
            p = s + i
            if bound[i] >= ZERO and known[i]:
                upper[p] = np.sqrt(gaps[i] + TWO * slack[i])
            if np.uint32(label[i]) != labels[p]:
                changed += 1
                if changes.touched.size:
                    row = read_rows(source, p, np.int64(1), scratch.row)
                    move_rows(row, p, only, weights, label[i : i + 1], labels, changes)
                labels[p] = np.uint32(label[i])
    return changed
