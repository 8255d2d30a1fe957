"""Numba kernels of the CPU backend: compiled on first use, cached on disk, run without the GIL."""
