"""Kernels that run once per point on a device, shipped as ``flash_kmeans_mlx.kernels``.

``cpu/`` holds Numba functions, ``metal/`` Metal sources, which are read as package resources.
The code that calls them is in ``flash_kmeans_mlx.backends``.

Kernels of k-means know no metric: they see points, centroids and a bias, and rank centroids by
``<x, c> + bias(c)``, ties to the lowest index. Kernels of the search for neighbours take an `op`
that says how rows are scored. Other differences between metrics are flags and arrays.
"""
