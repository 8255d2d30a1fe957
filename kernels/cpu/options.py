"""Options that Numba compiles the kernels with."""

import numpy as np

from .sizes import DEBUG

NEG_INF = np.float32(-np.inf)

# Numba gives a literal 0 or True a type of its own and compiles a kernel once more for it:
# kernels pass np.int64(0) and np.bool_(True) to one another.
# Without `ninf`, as a running best starts at -inf. With `nnan`, as NaN is refused before.
JIT = {
    "nogil": True,
    "cache": not DEBUG,
    "boundscheck": DEBUG,
    "error_model": "numpy",
    "fastmath": {"nnan", "nsz", "contract", "reassoc", "arcp"},
    "no_cfunc_wrapper": True,
}
# For functions that only kernels call: they compile in half the time.
INNER = {**JIT, "no_cpython_wrapper": True}
