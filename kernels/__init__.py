"""What runs once per point on a device, shipped as ``flash_kmeans_mlx.kernels``.

``metal/`` holds Metal sources, ``cuda/`` CUDA sources and ``cpu/`` Numba functions; the launch code lives in
``flash_kmeans_mlx.backends``. A kernel knows no metric: it sees points, centroids and a bias, and ranks by
``<x, c> + bias(c)``, ties to the lowest index. Sources are read as package resources, never by file path.
"""
