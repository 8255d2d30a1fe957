"""Features of points: a few columns that bound products with anything from above.

They are the projection on some directions and the norm of the remainder, which by Cauchy and
Schwarz is one more column of the product. The values of one column lie next to one another.
"""

import numpy as np

from .jit import njit
from .lanes import scores_by_lanes, to_lanes
from .rows import read_rows

SLACK = np.float32(1e-6)  # relative to the squared norm: by how much rounding may shorten a tail
ZERO = np.float32(0)


@njit
def project_rows(source, basis, inverse, lo, hi, features, scratch):
    """Write the features of rows lo:hi to features[:, lo:hi]; the array is (Q + 1, N).

    They are the coordinates along `basis` (Q, D) and the norm of the remainder, of the rows or, if
    inverse is (N,) and not (0,), of unit rows: rows times inverse.
    """
    tile, lanes = scratch.rows, scratch.lanes
    zeros = np.zeros(basis.shape[0], np.float32)
    q = basis.shape[0]
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        to_lanes(rows, lanes[0])
        scores_by_lanes(n, lanes[0], basis, zeros, features, s)
        tail = features[q, s:]
        for i in range(n):
            square = np.float32(1)
            if inverse.size == 0:
                square = ZERO
                for d in range(rows.shape[1]):
                    square += rows[i, d] * rows[i, d]
            tail[i] = square * (np.float32(1) + SLACK)
        for j in range(q):
            along = features[j, s:]
            if inverse.size:
                for i in range(n):
                    along[i] *= inverse[s + i]
            for i in range(n):
                tail[i] -= along[i] * along[i]
        for i in range(n):
            tail[i] = np.sqrt(max(tail[i], ZERO))


@njit
def copy_rows(source, inverse, lo, hi, features, tile):
    """Write rows lo:hi, or unit rows as above, to features[:, lo:hi]; the array is (D, N)."""
    for s in range(lo, hi, tile.shape[0]):
        n = min(tile.shape[0], hi - s)
        rows = read_rows(source, s, n, tile)
        for d in range(rows.shape[1]):
            for i in range(n):
                factor = inverse[s + i] if inverse.size else np.float32(1)
                features[d, s + i] = rows[i, d] * factor
