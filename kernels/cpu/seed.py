"""Greedy k-means++: every candidate of a round against every point, the draw of the next candidates."""

import numpy as np
from numba import njit

from .blas import JIT, gemm_nt
from .lanes import to_lanes
from .rows import read_rows

DRAW = 512  # points whose weight is added up, so that a draw searches sums before points
NOISE = np.float32(1e-6)  # relative to the norms: below it an expanded distance is rounding, and the point a duplicate


@njit(**JIT)
def try_rows(
    sgemm, source, square, inverse, potential, candidates, candidate_square, lo, hi, nearest, out, totals, scratch
):  # fmt: skip
    """Potentials of rows lo:hi if each candidate in turn became a centre; out (L, N) or (1, 0): the distances behind them.

    Squared distance = square[i] + candidate_square[l] - 2 inverse[i] <row, candidate>, at most nearest[i] (N,).
    inverse, potential: (N,) float32 or (0,) for all ones; square (N,), or (0,) for unit rows: 1, or 0 where inverse is 0.
    totals (L,) float64 is added to.
    """
    products, tile, lanes, work = scratch
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        product = products[: candidates.shape[0], :n]
        if lanes.shape[0] == 0:
            gemm_nt(sgemm, candidates, rows, product, work)
        else:
            to_lanes(rows, lanes)
            for c in range(candidates.shape[0]):
                product[c] = 0.0
                for d in range(rows.shape[1]):
                    for i in range(n):
                        product[c, i] += lanes[d, i] * candidates[c, d]
        for c in range(candidates.shape[0]):
            total = np.float32(0.0)
            for i in range(n):
                r = inverse[s + i] if inverse.size else np.float32(1.0)
                own = square[s + i] if square.size else np.float32(r > 0)
                norms = own + candidate_square[c]
                v = norms - np.float32(2.0) * r * product[c, i]
                v = np.float32(0.0) if v < NOISE * norms else v
                v = min(v, nearest[s + i])
                if out.shape[1]:
                    out[c, s + i] = v
                total += v * (potential[s + i] if potential.size else np.float32(1.0))
            totals[c] += total


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
                chosen = i  # rounding may leave `left` beyond the last one: then the last with weight
                if left < v:
                    break
                left -= v
        out[j] = chosen
    return whole
