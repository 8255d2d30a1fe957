"""The benchmark: ``python -m flash_kmeans_mlx.benchmark``.

One runner serves five suites. Every contestant runs in a process of its own, on the same data and
with the same number of threads. A result is checked in float64 before its time is shown.
"""
