"""Files of vectors in every format, written by other libraries or byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_kmeans_mlx.files.base import STORED

FLOATS = ("float16", "float32", "float64")
WHOLE = np.array(
    [[0, 1, 2], [3, 100, 5], [6, 7, 127], [9, 10, 11], [12, 13, 14], [15, 16, 17], [1, 0, 1]]
)
VALUES = WHOLE / 8 - 3.5  # exact in float16


def npy(path: Path, x: np.ndarray, **_: Any) -> None:
    np.save(path, x)


def safetensors(path: Path, x: np.ndarray, dtype: str, **_: Any) -> None:
    code = {"bfloat16": "BF16", "bool": "BOOL"}.get(dtype) or dtype[0].upper() + "".join(
        filter(str.isdigit, dtype)
    )
    other = b"\0" * 6
    header = {
        "__metadata__": {"by": "a test"},
        "other": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6]},
        "vectors": {"dtype": code, "shape": list(x.shape), "data_offsets": [6, 6 + x.nbytes]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + other + x.tobytes())


def vecs(path: Path, x: np.ndarray, **_: Any) -> None:
    path.write_bytes(b"".join(struct.pack("<i", x.shape[1]) + row.tobytes() for row in x))


def arrow_table(x: np.ndarray) -> Any:
    pa = pytest.importorskip("pyarrow")
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"id": list(range(len(x))), "vector": column})


def parquet(path: Path, x: np.ndarray, rows: int = 3, **_: Any) -> None:
    table = arrow_table(x)
    import pyarrow.parquet as pq

    pq.write_table(table, path, row_group_size=rows)


def arrow(path: Path, x: np.ndarray, rows: int = 4, **_: Any) -> None:
    table = arrow_table(x)
    import pyarrow as pa

    new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def pt(path: Path, x: np.ndarray, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = (
        torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
        if dtype == "bfloat16"
        else torch.from_numpy(x)
    )
    torch.save({"vectors": tensor, "k": 3} if path.stem == "dict" else tensor, path)


CASES = [
    *(("x.npy", npy, dtype) for dtype in STORED if dtype != "bfloat16"),
    *(("x.safetensors", safetensors, dtype) for dtype in STORED),
    ("x.fvecs", vecs, "float32"),
    ("x.bvecs", vecs, "uint8"),
    ("x.ivecs", vecs, "int32"),
    *(("x.parquet", parquet, dtype) for dtype in (*FLOATS, "uint8", "int32")),
    *(
        (name, arrow, dtype)
        for name in ("x.arrow", "x.feather", "x.arrows")
        for dtype in ("float16", "float32", "int8")
    ),
    *(
        (name, pt, dtype)
        for name in ("x.pt", "dict.pt")
        for dtype in (*FLOATS, "bfloat16", "uint8", "int64")
    ),
]


def example(dtype: str) -> np.ndarray:
    """(7, 3) as stored; bfloat16 by its bits."""
    if dtype == "bfloat16":
        return (VALUES.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return VALUES.astype(dtype) if dtype.startswith("float") else WHOLE.astype(dtype)


def expected(dtype: str) -> np.ndarray:
    return (VALUES if "float" in dtype else WHOLE.astype(dtype)).astype(np.float64)


def write(folder: Path, name: str, writer: Any, dtype: str) -> Path:
    path = folder / name
    writer(path, example(dtype), dtype=dtype)
    return path


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }"


def npy_bytes(header: str = HEADER, data: bytes = bytes(48), version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


def st_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}
