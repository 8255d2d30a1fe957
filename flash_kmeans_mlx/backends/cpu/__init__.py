"""The fast path on machines without a GPU."""

from .points import CpuPoints

__all__ = ["CpuPoints"]
