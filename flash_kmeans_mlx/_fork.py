"""MLX in forked processes: the threads that it computes on exist in their parent only."""

from __future__ import annotations

import os
import threading

import mlx.core as mx

__all__ = ["check_mlx"]

PATIENCE = 5.0  # seconds that one addition may take
_child = False  # forked, and not known yet to be able to compute
_stuck = False


def check_mlx() -> None:
    """Refuse to compute with MLX where that would never end.

    Raises:
        RuntimeError: this process was forked from one that had computed with MLX.
    """
    global _child, _stuck  # noqa: PLW0603  # facts about the process
    if _child:
        _stuck = _stuck or not _computes()
        if _stuck:
            raise RuntimeError(
                "MLX was in use before this process was forked, and can't compute in it: start processes with"
                ' multiprocessing.get_context("spawn"), or pass NumPy arrays and backend="cpu"'
            )
        _child = False


def _computes() -> bool:
    if mx.default_device().type != mx.DeviceType.cpu or mx.metal.is_available():
        return not (mx.get_peak_memory() or mx.get_active_memory())  # GPUs don't take a fork once in use
    stream, done = mx.default_stream(mx.default_device()), threading.Event()

    def add() -> None:
        try:
            mx.eval(mx.add(mx.array(1.0), mx.array(1.0), stream=stream))
        finally:
            done.set()

    threading.Thread(target=add, name="flash-kmeans-mlx-probe", daemon=True).start()
    return done.wait(PATIENCE)


def _forked() -> None:
    global _child  # noqa: PLW0603
    _child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
