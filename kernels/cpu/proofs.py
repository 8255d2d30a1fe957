"""Proofs that a row is farther than a distance, from its score in float32.

These are the bounds of backends/bounds.py, for one row or one query at a time.
"""

import numpy as np

from .jit import njit
from .scores import COSINE, DOT, SQUARES

EPS, EPS64 = 2.0**-24, 2.0**-53  # half a unit in the last place of 1
TINY = 2.0**-126


@njit
def largest_score(op, distance, n_dims):
    """Return a sum of squares or magnitudes that only farther rows exceed, for SQUARES and L1.

    This is `least_by_differences`, of rows as they are.
    """
    rest = 1.0 - (n_dims + 8) * EPS
    if rest <= 0.5:
        return np.inf
    size = np.sqrt(distance) if op == SQUARES else distance
    size = (size + n_dims * TINY) / rest * (1.0 + 8 * EPS64)
    return size * size * (1.0 + 8 * EPS64) + n_dims * TINY if op == SQUARES else size


@njit
def least_distance(op, product, norm, reach, rounded, n_dims):
    """Return what the distance of a row is at least, for DOT and COSINE.

    This is `least_by_products`.

    Args:
        op: DOT or COSINE, whose queries and rows are of norm 1.
        product: Of the query and the row.
        norm: The query's.
        reach: The row's norm at most.
        rounded: The relative error of the product beyond that of sums in float32.
        n_dims: Dimensions.
    """
    error = ((n_dims + 8) * (EPS + 4 * EPS64) + rounded) * norm * reach
    error += n_dims * TINY * (1.0 + norm + reach)
    return (1.0 if op == COSINE else 0.0) - product - error


@njit
def is_farther(op, score, distance, query, reach):
    """Return whether rows that score no more than `score` are farther than a distance.

    Scores are those of scan.py; False where that is not known.

    Args:
        op: SQUARES, DOT or COSINE.
        score: Minus a sum of squares, or a product.
        distance: A distance, float64.
        query: (D,) float32, as given.
        reach: The largest norm of the rows; for COSINE, above 1 where a row is too small.
    """
    n_dims = np.int64(query.size)
    if op == SQUARES:
        return -score > largest_score(op, distance, n_dims)
    norm, rounded = 1.0, 4 * EPS
    if op == DOT:
        square, rounded = 0.0, 0.0
        for d in range(n_dims):
            square += np.float64(query[d]) * np.float64(query[d])
        norm = np.sqrt(square)
    elif op != COSINE or reach > 1.0:
        return False
    return least_distance(op, score, norm, reach, rounded, n_dims) > distance
