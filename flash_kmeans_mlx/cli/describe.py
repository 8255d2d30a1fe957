"""What a file holds, for `flash-kmeans info`."""

from __future__ import annotations

from pathlib import Path

from ..files import Vectors, contents, results
from ..files import models as _modelfile
from ..files.atomic import json_object

__all__ = ["describe"]

MOST_BYTES = 1 << 16  # of the arrays in .npz files whose values are shown

Row = tuple[str, str, str, str]


def describe(path: str) -> tuple[dict[str, str], list[Row]]:
    """Facts by name, and a row (name, shape, dtype, remark) for every array of the file.

    Raises:
        OSError, VectorFileError: It can't be read.
    """
    size = Path(path).stat().st_size
    facts = {"file": path, "size": f"{size:,} bytes"}
    if Path(path).suffix.lower() == ".npz":
        facts["format"] = ".npz"
        arrays = results.read_npz(path, MOST_BYTES)
        facts |= {name: str(array) for name, array in arrays.items() if array.ndim == 0}
        return facts, [
            (name, _shape(a.shape), str(a.dtype), "") for name, a in arrays.items() if a.ndim
        ]
    found = contents(path)
    facts["format"] = Path(path).suffix.lower()
    if facts["format"] == ".safetensors":
        facts |= _model_facts(path)
    return facts, [
        (name, _shape(v.shape), v.dtype, "")
        if isinstance(v, Vectors)
        else (name, "", "", f"no vectors: {v}")
        for name, v in found.items()
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def _model_facts(path: str) -> dict[str, str]:
    """The parameters of a model that `FlashKMeans.save` wrote."""
    try:
        arrays, metadata = _modelfile.read(path)
        parameters = json_object(metadata["parameters"].encode())
    except (ValueError, KeyError):
        return {}
    facts = {"model": metadata.get("class", "")} | {
        str(name): str(value) for name, value in parameters.items()
    }
    return facts | {
        name: str(array.tolist())
        for name, array in arrays.items()
        if array.ndim < 2 and array.size <= 8
    }
