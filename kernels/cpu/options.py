"""How Numba compiles the kernels."""

import numpy as np

from .sizes import DEBUG

NEG_INF = np.float32(-np.inf)

# A literal 0 or 1 has a type of its own: as an argument, it would have a kernel compiled once more. Hence np.int64(0).
# `ninf` stays out: a running best starts at -inf. `nnan`: NaN is refused before a kernel sees it.
JIT = {
    "nogil": True,
    "cache": not DEBUG,
    "boundscheck": DEBUG,
    "error_model": "numpy",
    "fastmath": {"nnan", "nsz", "contract", "reassoc", "arcp"},
    "no_cfunc_wrapper": True,
}
INNER = {
    **JIT,
    "no_cpython_wrapper": True,
}  # for functions that only kernels call: half of what they take to compile
