import json
import pickle
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_kmeans_mlx.files import models as _modelfile
from flash_kmeans_mlx.files.models import FORMAT, read, write

OURS = {"format": FORMAT, "format_version": "1"}  # version 1 has no sum
ARRAYS = {
    "counts": np.arange(3, dtype=np.uint32),
    "centroids": np.arange(42, dtype=np.float32).reshape(2, 3, 7) - 20.5,
    "shift": np.array([1e-300, np.pi]),
    "seen": np.array(2**40 + 1),
    "none": np.zeros((0, 5), np.float32),
}
METADATA = {"metric": "euclidean", "k": "3", "remark": 'naïve "quotes"\n'}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write(path, ARRAYS, METADATA)
    return path


def file_with(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (
            found[name].dtype == array.dtype.newbyteorder("=") and found[name].shape == array.shape
        )
        np.testing.assert_array_equal(found[name], array)


def test_round_trip(model: Path) -> None:
    arrays, metadata = read(model)
    assert_same(arrays, ARRAYS)
    assert metadata == METADATA
    assert all(array.flags.writeable for array in arrays.values())
    assert list(model.parent.iterdir()) == [model]


def test_views_and_foreign_byte_order(tmp_path: Path) -> None:
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {
        "fortran": np.asfortranarray(grid),
        "strided": grid[::2, ::-3],
        "big": grid.astype(">f4"),
    }
    write(str(tmp_path / "model"), arrays, {})
    assert_same(read(str(tmp_path / "model"))[0], arrays)


def test_mlx_reads_all_but_float64(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    expected = {name: array for name, array in ARRAYS.items() if array.dtype != np.float64}
    write(path, expected, METADATA)
    arrays, metadata = mx.load(str(path), return_metadata=True)
    assert isinstance(arrays, dict)
    assert_same({name: np.asarray(array) for name, array in arrays.items()}, expected)
    assert isinstance(metadata, dict) and len(metadata.pop("file_crc32")) == 8
    assert metadata == {"format": FORMAT, "format_version": "3"} | METADATA


def test_arrays_are_aligned_to_their_items(model: Path) -> None:
    content = model.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert all(
        header[name]["data_offsets"][0] % array.itemsize == 0 for name, array in ARRAYS.items()
    )


def test_truncated_at_every_length(model: Path) -> None:
    content = model.read_bytes()
    for length in range(len(content)):
        model.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"cannot load '.*model.safetensors': .*; .*"
        ) as caught:
            read(model)
        assert re.search("truncated|has [0-7] bytes", str(caught.value))


@given(st.data())
def test_flipped_bytes_give_a_value_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    write(path, ARRAYS, METADATA)
    content = bytearray(path.read_bytes())
    # Most of the bytes that matter are in front.
    place = st.integers(0, 15) | st.integers(0, len(content) - 1)
    for where, value in data.draw(
        st.dictionaries(place, st.integers(0, 255), min_size=1, max_size=6)
    ).items():
        content[where] = value
    path.write_bytes(content)
    try:
        arrays, metadata = read(path)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = f"cannot load {str(path)!r}: "
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
        assert all(isinstance(value, str) for value in metadata.values())
    assert refusal.startswith(f"cannot load {str(path)!r}: ")


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "no .safetensors file.*no JSON object"),
        (b"[1]", b"", "no .safetensors file.*no JSON object"),
        (b"{", b"", "header is damaged"),
        (b'{"a":' * 100_000, b"", "header is damaged"),
        (b'{"\xff":1}', b"", "header is damaged.*utf-8"),
        (b'{"a":1,"a":1}', b"", "a name appears twice"),
        ({}, b"", "no metadata"),
        ({"__metadata__": ["format"]}, b"", "no metadata"),
        ({"__metadata__": OURS | {"k": 3}}, b"", "no metadata"),
        (
            {"__metadata__": {"format": "mlx"}},
            b"",
            "format is 'mlx', not 'flash-kmeans-mlx model'; check the path",
        ),
        ({"__metadata__": {"format": FORMAT}}, b"", "format_version='' must be a positive number"),
        (
            {"__metadata__": OURS | {"format_version": "-1"}},
            b"",
            "format_version='-1' must be a positive number",
        ),
        (
            {"__metadata__": OURS | {"format_version": "4"}},
            b"",
            "format_version=4 must be <= 3; upgrade",
        ),
        ({"__metadata__": OURS | {"format_version": "2"}}, b"", "it is damaged: its sum is wrong"),
        (
            {"__metadata__": OURS | {"file_crc32": "00000000"}},
            b"",
            "it is damaged: its sum is wrong",
        ),
        ({"a": 1}, b"", "tensor 'a' has a header of '1', without dtype, shape or data_offsets"),
        ({"a": entry([1], 0, 2, "BF16")}, b"12", "dtype 'BF16', not one of F32, F64, I64, U32"),
        ({"a": entry([1], 0, 4, ["F32"])}, b"1234", r"has a header of .*\['F32'\].*without dtype"),
        ({"a": entry([-1], 0, 4)}, b"1234", r"has a header of .*'shape': \[-1\].*without dtype"),
        ({"a": entry([True], 0, 4)}, b"1234", r"has a header of .*\[True\]"),
        ({"a": entry(None, 0, 4)}, b"1234", "has a header of .*None"),
        ({"a": entry([1] * 65, 0, 4)}, b"1234", "has a header of"),
        ({"a": entry([0] + [2**47] * 9, 0, 0)}, b"", "cannot have the shape"),
        (
            {"a": entry([2], 0, 4)},
            b"1234",
            r"tensor 'a' of shape \[2\] and dtype F32 can't have data_offsets=\[0, 4\]",
        ),
        ({"a": entry([1], 4, 0)}, b"1234", r"can't have data_offsets=\[4, 0\]"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", "has a header of"),
        ({"a": entry([1], 0, -4)}, b"1234", "has a header of"),
        ({"a": entry([1], 4, 8)}, b"12345678", r"data_offsets=\[4, 8\], not \[0, 4\]"),
        (
            {"a": entry([1], 0, 4), "b": entry([1], 0, 4)},
            b"1234",
            r"'b' has data_offsets=\[0, 4\], not \[4, 8\]",
        ),
        (
            {"a": entry([3], 0, 12)},
            b"12345678",
            "truncated: array 'a' ends at data byte 12 of 8; copy the file again",
        ),
        ({"a": entry([2**40], 0, 2**42)}, b"", "truncated"),
        ({"a": entry([1], 0, 4)}, b"12345", "1 bytes follow its last array"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    if isinstance(header, dict) and header and "__metadata__" not in header:
        header = {"__metadata__": OURS, **header}
    with pytest.raises(ValueError, match=r"cannot load '.*broken': .*" + message):
        read(file_with(tmp_path / "broken", header, data))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(pickle.dumps({"centroids": [0.5] * 20}))
    with pytest.raises(
        ValueError,
        match=r"no \.safetensors file: its header would take .* bytes; check the path: only files that",
    ):
        read(path)
    mx.save_safetensors(str(path), {"x": mx.zeros(3)})
    with pytest.raises(ValueError, match="it has no metadata"):
        read(path.with_suffix(".safetensors"))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(
    model: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]
) -> None:
    def fail(*args: object) -> None:
        raise error

    before = model.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(*((_modelfile.os, "fsync") if step == "fsync" else (Path, "replace")), fail)
        with pytest.raises(error):
            write(model, {"x": np.zeros(5)}, {})
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_a_link_keeps_pointing_to_the_model(model: Path) -> None:
    link = model.with_name("latest")
    link.symlink_to(model)
    write(link, {"x": np.zeros(5)}, {})
    assert link.is_symlink()
    assert_same(read(model)[0], {"x": np.zeros(5)})


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "message"),
    [
        (
            {"x": np.zeros(3, np.float16)},
            {},
            TypeError,
            r"arrays\['x'\].dtype=float16 must be float32, float64, int64, uint32 or uint8",
        ),
        ({"x": np.zeros(3, complex)}, {}, TypeError, "dtype=complex128 must be"),
        ({"x": np.array([None])}, {}, TypeError, r"dtype=object must be"),
        ({}, {"k": 3}, TypeError, r"metadata\['k'\]=3 must be a string"),
        ({}, {3: "k"}, TypeError, r"metadata\[3\]='k' must be a string with a string key"),
        ({}, {"format": "x"}, ValueError, "'format' is reserved"),
        ({}, {"file_crc32": "x"}, ValueError, "'file_crc32' is reserved"),
        ({"__metadata__": np.zeros(3)}, {}, ValueError, "'__metadata__' is reserved"),
        (
            {},
            {"long": "x" * (1 << 20)},
            ValueError,
            "names and metadata take .* must be <= .*: shorten them",
        ),
        ({}, {"half": "\ud800"}, ValueError, "surrogates"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(
    tmp_path: Path, arrays: Any, metadata: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write(tmp_path / "model", arrays, metadata)
    assert list(tmp_path.iterdir()) == []
