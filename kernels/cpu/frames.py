"""A look at a sample of rows, which shows that they need no normalised coordinates.

The rule and its constants are those of ``flash_kmeans_mlx/frame.py``.
"""

import numpy as np

from .jit import njit

# Sums here are in another order than those of frame.py: what is this close to the limit is left
# for those.
MARGIN = 0.99


@njit
def is_plain(x, step, spherical, small, large, far, mean):
    """Return whether rows x (B, N, D) float32 need neither a shift, nor a scale, nor a centre.

    False if it is a close call. Looks at every `step`-th row; `mean` (D,) float64 is scratch.
    """
    for b in range(x.shape[0]):
        mean[:] = 0.0
        largest = np.float32(0.0)
        squares = 0.0
        count = 0
        for i in range(0, x.shape[1], step):
            square = 0.0
            for d in range(x.shape[2]):
                v = x[b, i, d]
                largest = max(largest, abs(v))
                square += np.float64(v) * np.float64(v)
            if square == 0.0 and spherical:
                continue  # a row without a direction
            factor = 1.0 / np.sqrt(square) if spherical else 1.0
            for d in range(x.shape[2]):
                mean[d] += factor * np.float64(x[b, i, d])
            squares += square
            count += 1
        if not small <= largest <= large:
            return False
        length = 0.0
        for d in range(x.shape[2]):
            length += mean[d] * mean[d]
        if spherical:
            if length * (1.0 + far) > MARGIN * far * count * count:
                return False
        elif length * (1.0 + far) > MARGIN * far * squares * count:
            return False
    return True
