"""Files of our own formats that are damaged anywhere: refused, or read as they were."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.index import EmbeddingStore, load_index

FOLDER = Path(__file__).parents[1]


def plain(value: Any) -> Any:
    """What can be compared, bit by bit."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return (
        (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
    )


def model(path: Path) -> Any:
    loaded = fk.FlashKMeans.load(path)
    return plain(vars(loaded) | {"centroids": np.array(loaded.centroids)})


def index(path: Path) -> Any:
    loaded = load_index(path)
    parameters, arrays = loaded.state()
    return type(loaded), parameters, plain(arrays)


def store(path: Path) -> Any:
    loaded = EmbeddingStore.load(path.parent)
    assert loaded.index is not None
    parameters, arrays = loaded.index.state()
    own = (
        loaded.metric,
        loaded.max_memory_gb,
        loaded.seed,
        loaded._grows,
        loaded._current.read().metadata,
    )
    return type(loaded.index), parameters, plain(arrays), own


FORMATS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "model": ("batch.safetensors", model),
    "flat": ("flat.safetensors", index),
    "ivf": ("ivf.safetensors", index),
    "opq": ("opq.safetensors", index),
    "store": ("store/store.safetensors", store),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of version 1, saved anew."""
    folder = tmp_path_factory.mktemp("files")
    shutil.unpack_archive(FOLDER / "old_formats.zip", folder)
    for file, load in FORMATS.values():
        path = folder / file
        if load is store:
            EmbeddingStore.load(path.parent).save(path.parent)
        else:
            (fk.FlashKMeans.load if load is model else load_index)(path).save(path)
    return folder


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, replaced, left out, put in or exchanged, in the header for the most part."""
    out, size = bytearray(content), rng.choice([1, 1, 4, 8, 64])
    header = 8 + int.from_bytes(content[:8], "little")
    at, other = (rng.randrange(rng.choice([header, header, len(out)])) for _ in range(2))
    match rng.choice(["flip", "flip", "digit", "cut", "end", "insert", "append", "exchange"]):
        case "flip":
            out[at] ^= 1 << rng.randrange(8)
        case "digit":
            out[at] = rng.choice(b'0123456789abcdef",:[]{}')
        case "cut":
            del out[at : at + size]
        case "end":
            del out[at:]
        case "insert":
            out[at:at] = rng.randbytes(size)
        case "append":
            out += rng.randbytes(size)
        case _:
            out[at : at + size], out[other : other + size] = (
                out[other : other + size],
                out[at : at + size],
            )
    return bytes(out)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_damaged_is_refused(name: str, files: Path) -> None:
    file, load = FORMATS[name]
    path, rng = files / file, random.Random(name)
    content, whole = path.read_bytes(), load(path)
    header = 8 + int.from_bytes(content[:8], "little")
    flips = (
        content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        for at in range(header)
    )
    refused = 0
    for changed in [*flips, *(damaged(content, rng) for _ in range(500))]:
        path.write_bytes(changed)
        try:
            found = load(path)
        except ValueError:
            refused += 1
        else:
            assert found == whole
    path.write_bytes(content)
    assert load(path) == whole and refused > header + 450
