"""The benchmark: ``python -m flash_kmeans_mlx.benchmark``.

Every contestant runs in its own process, from the same start, for the same number of iterations, with the same number
of threads; a result is checked in float64 before its time is shown.
"""
