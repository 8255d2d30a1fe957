"""The state of a fit in a file, from which it goes on after it was stopped at any moment."""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backends.stream import RowStream
from ..files import models
from ..files.results import check_place
from ..validation import to_numpy
from .lloyd import Fit, LoopState

__all__ = ["Checkpoint", "Saved", "describe"]

SAMPLE_ROWS = 16  # of an array, that its checksum is made from


class Saved(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        run: The number of the run, of `n_init`.
        state: The state of its loop.
        best: The best of the runs before, or None.
        inertia: (B,) float64, the inertia of `best`.
    """

    run: int
    state: LoopState
    best: Fit | None
    inertia: np.ndarray


class Checkpoint:
    """One file, replaced whole.

    Args:
        path: The file.
        about: The arguments that decide the result of the fit; another fit's file is refused.
        seconds: The least time between two writes.
    """

    def __init__(self, path: str | os.PathLike[str], about: dict[str, Any], seconds: float) -> None:
        check_place(path)
        self._path = path
        from importlib.metadata import version  # takes longer than many a fit

        about = about | {"version": version("flash-kmeans-mlx")}
        self._about = json.loads(json.dumps(about))  # as a file gives it back
        self._seconds = seconds
        self._written = -np.inf
        self._waiting: Saved | None = None

    def load(self) -> Saved | None:
        """Return what the file holds, or None if there is no file.

        Raises:
            ValueError: It is damaged, or of another fit.
        """
        if not Path(self._path).exists():
            return None
        arrays, metadata = models.read(self._path)
        try:
            if metadata["class"] != "Checkpoint":
                raise ValueError(f"it holds a {metadata['class']}")
            self._check_same(json.loads(metadata["about"]))
            state = LoopState(
                centroids=arrays["centroids"],
                labelled=arrays["labelled"],
                state=arrays["state"],
                n_iter=arrays["n_iter"],
                exhausted=arrays["exhausted"] > 0,
                totals=_with_prefix(arrays, "totals."),
            )
            best = None
            if "best.centroids" in arrays:
                kept = _with_prefix(arrays, "best.")
                kept |= {name: kept[name] > 0 for name in ("converged", "exhausted")}
                best = Fit(**kept)
            return Saved(int(metadata["run"]), state, best, arrays["inertia"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"can't resume from checkpoint={os.fspath(self._path)!r}: {error};"
                " remove it, or fit with resume=False"
            ) from error

    def _check_same(self, about: dict[str, Any]) -> None:
        """Refuse the checkpoint of another fit, naming the first difference."""
        for name, value in self._about.items():
            if about.get(name) != value:
                raise ValueError(
                    f"it is of another fit, with {name}={about.get(name)!r:.200},"
                    f" and this one has {value!r:.200}"
                )

    def save(self, saved: Saved) -> None:
        """Write the file, unless it is too early."""
        self._waiting = saved
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what `save` left."""
        if self._waiting is None:
            return
        run, state, best, inertia = self._waiting
        arrays = {
            "centroids": state.centroids,
            "labelled": state.labelled,
            "state": state.state.astype(np.int64),
            "n_iter": state.n_iter,
            "exhausted": state.exhausted.astype(np.int64),
            "inertia": inertia,
            **{f"totals.{name}": array for name, array in state.totals.items()},
        }
        if best is not None:
            flags = {"converged": best.converged, "exhausted": best.exhausted}
            kept = best._asdict() | {name: flag.astype(np.int64) for name, flag in flags.items()}
            arrays |= {f"best.{name}": array for name, array in kept.items()}
        about = {"class": "Checkpoint", "run": str(run), "about": json.dumps(self._about)}
        models.write(self._path, arrays, about)
        self._written = time.monotonic()
        self._waiting = None


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names have this prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def describe(x: Any) -> Any:
    """Return, for JSON, what tells points (B, N, D), weights or centroids from others.

    It is the shape, the dtype and a checksum of some rows; of files, their sizes and times too.
    """
    if x is None or callable(x):
        return None if x is None else "a callable"
    if isinstance(x, RowStream):
        return x.rows.signature()
    rows = x[:, :: max(1, x.shape[1] // SAMPLE_ROWS)]
    return [x.shape, str(x.dtype), zlib.crc32(np.ascontiguousarray(to_numpy(rows)).data)]
