"""Files that are empty, damaged, or say of themselves what is not true."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype(np.float32)


def safetensors(metadata: Any = None, name: str = "x", data: np.ndarray = X) -> bytes:
    """A file of one tensor, whatever the metadata."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [0, data.nbytes]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data.tobytes()


def model(parameters: str) -> bytes:
    """A model with these parameters, in the first version of the format."""
    parts = {"centroids": X[:2], "inertia": np.ones(1), "n_iter": np.ones(1, np.int64)}
    codes = {"centroids": "F32", "inertia": "F64", "n_iter": "I64"}
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "flash-kmeans-mlx model",
            "format_version": "1",
            "class": "FlashKMeans",
            "parameters": parameters,
        }
    }
    end = 0
    for key, array in parts.items():
        header[key] = {
            "dtype": codes[key],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in parts.values())


def npz(
    header: str | bytes, data: bytes = b"", said: int | None = None, name: str = "x.npy"
) -> bytes:
    """A .npz file of one array with this header; its archive says that it has `said` bytes."""
    text = (
        header
        if isinstance(header, bytes)
        else b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text + data)
    content = file.getvalue()
    if said is not None:
        true = struct.pack("<I", len(text + data))
        assert content.count(true) >= 2
        content = content.replace(true, struct.pack("<I", said))
    return content


def header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


GOOD = '{"k": 2, "d": 4}'
FILES: dict[str, bytes] = {
    "empty.npy": b"",
    "short.npy": b"\x93NUMPY\x01\x00v\x00{",
    "text.csv": b"1,2\n",
    "empty.safetensors": b"",
    "huge.safetensors": (1 << 62).to_bytes(8, "little") + b"{}",
    "deep.safetensors": (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
    "names.safetensors": safetensors({"[/red]": "[bold]\x1b[31m"}, "[/x]\ud800\n"),
    "model.safetensors": model(GOOD),
    "empty.npz": b"",
    "nothing.npz": b"PK\x05\x06" + bytes(18),
    "lie.npz": npz(header("(1000000000000, 4)")),
    "lie2.npz": npz(header("(1000000000, 4)"), said=(1 << 32) - 2),
    "negative.npz": npz(header("(-1, -4)"), bytes(16)),
    "deep.npz": npz(header("(" * 5000)),
    "long.npz": npz(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * (1 << 20)),
    "pickle.npz": npz(header("(1,)", "|O"), b"cos\nsystem\n(S'true'\ntR."),
    "odd.npz": npz(header("()", "<U0")),
    "version.npz": npz(b"\x93NUMPY\x09\x00" + b" " * 100),
    "names.npz": npz(header("(1, 4)"), bytes(16), name="[/x]\x1b.npy"),
    "zeros.npz": npz(header("(4000000, 4)"), bytes(64_000_000)),
}
PARAMETERS = (
    *(
        "[]",
        "null",
        "1",
        '"x"',
        "",
        "{",
        "[" * 100_000,
        '{"k":' + "[" * 100_000,
        '{"k": 2, "k": 2}',
    ),
    *(
        '{"k": 2, "d": 1e999}',
        '{"k": NaN}',
        '{"k": 1e30}',
        '{"k": 2, "niter": 1e400}',
        '{"k": 2, "self": 1}',
    ),
    *(
        '{"k": 2, "max_mem_gb": "x"}',
        '{"k": 2, "max_mem_gb": 1e308}',
        '{"k": 2, "tol": []}',
        '{"k": 2, "tol": NaN}',
    ),
    *(
        '{"k": 2, "seed": {}}',
        '{"k": 2, "metric": []}',
        '{"k": 2, "check_finite": "no"}',
        '{"k": 2, "empty": 3}',
    ),
    *(
        '{"k": 2, "init": [[1]]}',
        '{"k": 2, "n_init": 0}',
        '{"k": 2, "backend": "cpu"}',
        '{"k": 2, "\\ud800": 1}',
    ),
    '{"k": ' + "9" * 5000 + "}",
)
for place, text in enumerate(PARAMETERS):
    FILES[f"model{place}.safetensors"] = model(text)
