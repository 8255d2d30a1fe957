"""MLX in forked processes: the threads that it computes on exist in their parent only."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import mlx.core as mx

__all__ = ["check_mlx"]

PATIENCE = 5.0  # seconds that one addition may take
_child = False  # whether this process was forked
_here = threading.local()  # computes: whether MLX does in this thread of it


def check_mlx() -> None:
    """Refuse to compute with MLX where that would never end.

    Raises:
        RuntimeError: This process was forked from one that had computed with MLX.
    """
    if not _child:
        return
    if not hasattr(_here, "computes"):
        _here.computes = _computes()
    if not _here.computes:
        raise RuntimeError(
            "MLX was in use before this process was forked, and can't compute in it: start processes"
            ' with multiprocessing.get_context("spawn"), or pass NumPy arrays and backend="cpu"'
        )


def _computes() -> bool:
    if mx.default_device().type != mx.DeviceType.cpu or mx.metal.is_available():
        return not (mx.get_peak_memory() or mx.get_active_memory())  # not on a GPU that was in use
    stream, done = mx.default_stream(mx.default_device()), threading.Event()

    def add() -> None:
        with suppress(RuntimeError):  # the stream isn't in use yet, and belongs to the caller
            mx.eval(mx.add(mx.array(1.0), mx.array(1.0), stream=stream))
        done.set()

    threading.Thread(target=add, name="flash-kmeans-mlx-probe", daemon=True).start()
    return done.wait(PATIENCE)


def _forked() -> None:
    global _child, _here  # facts about the process
    _child, _here = True, threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
