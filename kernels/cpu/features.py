"""Features of points: a few columns, one dimension's values next to one another, that bound products with anything from above.

The projection on some directions, and the norm of what is left, which by Cauchy and Schwarz is one more column of the product.
"""

import numpy as np

from .jit import njit
from .lanes import scores_by_lanes, to_lanes
from .options import JIT
from .rows import read_rows

SLACK = np.float32(1e-6)  # of the squared norm: what a tail's norm may lack by rounding
ZERO = np.float32(0)


@njit(**JIT)
def project_rows(source, basis, zeros, inverse, lo, hi, features, tile, lanes):
    """features[:, lo:hi] = the coordinates of the rows along `basis` (Q, D) and the norm of what is left; (Q + 1, N).

    Those of rows times inverse (N,), where that is not (0,): of unit rows, whatever their norms.
    zeros (Q,) float32; lanes as in `step_rows` for a tile at a time.
    """
    q = basis.shape[0]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        to_lanes(rows, lanes[0])
        scores_by_lanes(n, lanes[0], basis, zeros, features, s)
        left = features[q, s:]
        for i in range(n):
            square = np.float32(1)
            if inverse.size == 0:
                square = ZERO
                for d in range(rows.shape[1]):
                    square += rows[i, d] * rows[i, d]
            left[i] = square * (np.float32(1) + SLACK)
        for j in range(q):
            along = features[j, s:]
            if inverse.size:
                for i in range(n):
                    along[i] *= inverse[s + i]
            for i in range(n):
                left[i] -= along[i] * along[i]
        for i in range(n):
            left[i] = np.sqrt(max(left[i], ZERO))


@njit(**JIT)
def copy_rows(source, inverse, lo, hi, features, tile):
    """features[:, lo:hi] = the rows themselves, or unit rows as above; (D, N)."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for d in range(rows.shape[1]):
            for i in range(n):
                features[d, s + i] = rows[i, d] * (
                    inverse[s + i] if inverse.size else np.float32(1)
                )
