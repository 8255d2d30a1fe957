"""Models of `FlashKMeans` in files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import validation
from ..files import models
from ..files.safetensors import json_object
from .empty_clusters import POLICIES
from .seeding import INITS

__all__ = ["SAVED", "read", "write"]

SAVED = (
    "d",
    "k",
    "niter",
    "tol",
    "seed",
    "metric",
    "compiled",
    "max_mem_gb",
    "n_init",
    "empty",
    "check_finite",
)
Arrays = dict[str, np.ndarray]


def write(path: str | os.PathLike[str], parameters: dict[str, Any], arrays: Arrays) -> None:
    """Write a model to one safetensors file, whole or not at all."""
    models.write(path, arrays, {"class": "FlashKMeans", "parameters": json.dumps(parameters)})


def read(path: str | os.PathLike[str], make: Callable[..., Any]) -> tuple[Any, Arrays]:
    """Return ``make(**parameters)``, the model, and its arrays, checked.

    Raises:
        ValueError: The file holds no model, is of a newer format, or is damaged; the message says
            which.
    """
    arrays, metadata = models.read(path)
    try:
        if metadata["class"] != "FlashKMeans":
            raise ValueError(f"it holds a {metadata['class']}")
        model = make(**_checked(json_object(metadata["parameters"].encode())))
        _check_arrays(model, arrays)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is not a FlashKMeans model, or a damaged one: {error}"
        ) from error
    return model, arrays


def _check_arrays(model: Any, arrays: Arrays) -> None:
    """Refuse arrays that can't be those of the model."""
    c = arrays["centroids"]
    inertia = arrays["inertia"]
    if (
        c.ndim not in (2, 3, 4)
        or c.shape[-2] != model.k
        or model.d not in (None, c.shape[-1])
        or c.dtype != np.float32
    ):
        raise ValueError(f"centroids of shape {c.shape} do not fit k={model.k}, d={model.d}")
    if not np.isfinite(c).all():
        raise ValueError("centroids are not finite")
    if inertia.shape != (c.shape[:-2] or (1,)):
        raise ValueError(
            f"inertia of shape {inertia.shape} does not fit centroids of shape {c.shape}"
        )
    int(arrays["n_iter"][0])
    for name, shape in {"counts": c.shape[:-1], "sums": c.shape}.items():
        array = arrays.get(name)
        if array is None:  # older versions had none
            continue
        if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(
                f"{name} of shape {array.shape} and dtype {array.dtype} must be finite, {shape} of"
                " float64"
            )
    if "counts" in arrays and arrays["counts"].min() < 0:
        raise ValueError("counts must be >= 0")
    if "sums" in arrays and "counts" not in arrays:
        raise ValueError("there are sums without counts")


def _checked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the parameters of a file, those that `__init__` leaves to `fit` included."""
    if unknown := parameters.keys() - {*SAVED, "init"}:
        raise ValueError(f"there is no parameter {min(unknown)!r:.60}")
    checks: dict[str, Callable[[Any], object]] = {
        "tol": lambda value: validation.check_real("tol", value),
        "seed": lambda value: validation.check_count("seed", value, 0),
        "n_init": lambda value: validation.check_count("n_init", value, 1),
        "max_mem_gb": validation.cap,
        "empty": lambda value: validation.check_choice("empty", value, POLICIES),
        "init": lambda value: validation.check_choice("init", value, INITS),
        "compiled": lambda value: validation.check_flag("compiled", value),
        "check_finite": lambda value: validation.check_flag("check_finite", value),
    }
    for name in checks.keys() & parameters.keys():
        checks[name](parameters[name])
    return parameters
