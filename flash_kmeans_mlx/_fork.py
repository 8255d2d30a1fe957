"""MLX after a fork: its threads exist in the parent process only, so it may wait for ever."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import mlx.core as mx

__all__ = ["check_mlx"]

PATIENCE = 5.0  # seconds that one addition may take


class _Process:
    """Facts about this process.

    Attributes:
        is_fork: Whether it was forked.
        this_thread: Values of each thread; `works` says whether MLX computes in it after a fork.
    """

    is_fork = False
    this_thread = threading.local()


def check_mlx() -> None:
    """Refuse to compute with MLX in a forked process where it would never end.

    Raises:
        RuntimeError: This process was forked from one that had computed with MLX.
    """
    if not _Process.is_fork:
        return
    if not hasattr(_Process.this_thread, "works"):
        _Process.this_thread.works = _try_mlx()
    if not _Process.this_thread.works:
        raise RuntimeError(
            "MLX was in use before this process was forked, and can't compute in it:"
            ' start processes with multiprocessing.get_context("spawn"),'
            ' or pass NumPy arrays and backend="cpu"'
        )


def _try_mlx() -> bool:
    """Return whether MLX adds two numbers in time."""
    if mx.default_device().type != mx.DeviceType.cpu or mx.metal.is_available():
        return not (mx.get_peak_memory() or mx.get_active_memory())  # a GPU that the parent used
    stream = mx.default_stream(mx.default_device())
    done = threading.Event()

    def add() -> None:
        with suppress(RuntimeError):  # the stream is not in use yet, and belongs to the caller
            mx.eval(mx.add(mx.array(1.0), mx.array(1.0), stream=stream))
        done.set()

    threading.Thread(target=add, name="flash-kmeans-mlx-probe", daemon=True).start()
    return done.wait(PATIENCE)


def _mark_fork() -> None:
    _Process.is_fork = True
    _Process.this_thread = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)
