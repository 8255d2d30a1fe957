"""Describe the content of a file, for `flash-kmeans info`."""

from __future__ import annotations

from pathlib import Path

from ..files import Vectors, contents, models, results
from ..files.safetensors import json_object

__all__ = ["describe"]

MOST_BYTES = 1 << 16  # larger arrays of .npz files are described without being read

Row = tuple[str, str, str, str]


def describe(path: str) -> tuple[dict[str, str], list[Row]]:
    """Return facts by name, and a row (name, shape, dtype, remark) for every array of the file.

    Raises:
        OSError: It can't be opened.
        VectorFileError: It can't be read.
    """
    size = Path(path).stat().st_size
    facts = {"file": path, "size": f"{size:,} bytes"}
    if Path(path).suffix.lower() == ".npz":
        facts["format"] = ".npz"
        arrays = results.read_npz(path, MOST_BYTES)
        facts |= {name: str(array) for name, array in arrays.items() if array.ndim == 0}
        rows = [(name, _shape(a.shape), str(a.dtype), "") for name, a in arrays.items() if a.ndim]
        return facts, rows
    arrays = contents(path)
    facts["format"] = Path(path).suffix.lower()
    if facts["format"] == ".safetensors":
        facts |= _model_facts(path)
    return facts, [
        (name, _shape(v.shape), v.dtype, "")
        if isinstance(v, Vectors)
        else (name, "", "", f"no vectors: {v}")
        for name, v in arrays.items()
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def _model_facts(path: str) -> dict[str, str]:
    """Return the parameters of a model that `FlashKMeans.save` wrote; nothing for other files."""
    try:
        arrays, metadata = models.read(path)
        parameters = json_object(metadata["parameters"].encode())
    except (ValueError, KeyError):
        return {}
    facts = {"model": metadata.get("class", "")}
    facts |= {str(name): str(value) for name, value in parameters.items()}
    short = {name: a for name, a in arrays.items() if a.ndim < 2 and a.size <= 8}
    return facts | {name: str(a.tolist()) for name, a in short.items()}
