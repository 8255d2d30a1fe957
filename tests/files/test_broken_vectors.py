"""Broken files are refused by name, nothing in them runs, and no sequence of bytes does worse."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vector_files import CASES, HEADER, entry, npy, npy_bytes, safetensors, st_bytes, vecs, write

from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files import Vectors, contents, open_vectors
from flash_kmeans_mlx.files.base import check_shape


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


BROKEN = [
    ("x.npy", b"", "it begins with b''"),
    (
        "x.npy",
        b"PK\x03\x04 a zip",
        r"it begins with b'PK\\x03\\x04 a', a .npy file with b'\\x93NUMPY'",
    ),
    ("x.npy", npy_bytes(version=b"\x09\x00"), r"its version \(9, 0\) must be"),
    ("x.npy", npy_bytes()[:40], "its header would take"),
    (
        "x.npy",
        npy_bytes(data=bytes(47)),
        r"truncated: it has 1\d\d bytes, and <f4 of shape \(4, 3\) with the header take 1",
    ),
    ("x.npy", npy_bytes(data=bytes(49)), "not what its header says"),
    ("x.npy", npy_bytes(HEADER.replace("4,", "10**9,")), "does not describe one plain array"),
    ("x.npy", npy_bytes(HEADER.replace("4,", "999999999999999999,")), "truncated: it has"),
    ("x.npy", npy_bytes(HEADER.replace("4,", "-4,")), "does not describe one plain array"),
    ("x.npy", npy_bytes(HEADER.replace("(4, 3)", "(12,)")), r"it has 1 dimensions, shape \(12,\)"),
    ("x.npy", npy_bytes(HEADER.replace("(4, 3)", "(0, 3)"), b""), "it is empty"),
    ("x.npy", npy_bytes(HEADER.replace("<f4", "|O")), "Python objects"),
    ("x.npy", npy_bytes(HEADER.replace("<f4", "<U3")), "its dtype '<U3' must be"),
    ("x.npy", npy_bytes(HEADER.replace("<f4", "<c8")), "its dtype '<c8' must be"),
    ("x.npy", npy_bytes(HEADER.replace("'<f4'", "[('a', '<f4')]")), "structured ones are not read"),
    (
        "x.npy",
        npy_bytes(HEADER.replace("False", "__import__('os')")),
        "does not describe one plain array",
    ),
    ("x.npy", npy_bytes("(" * 60_000), "does not describe one plain array"),
    ("x.npy", npy_bytes(HEADER.replace("'shape'", "'descr'")), "does not describe one plain array"),
    ("x.safetensors", b"1234", "it is no .safetensors file: it has 4 bytes of 8"),
    ("x.safetensors", b"\xff" * 64, "it is no .safetensors file"),
    (
        "x.safetensors",
        (99).to_bytes(8, "little") + b"{}",
        "it is truncated: its header takes 99 bytes",
    ),
    ("x.safetensors", st_bytes(b"[]"), "no JSON object"),
    ("x.safetensors", st_bytes(b'{"a":' * 100_000), "its header is damaged"),
    ("x.safetensors", st_bytes(b'{"a":1,"a":2}'), "a name appears twice"),
    ("x.safetensors", st_bytes({}), "it holds no arrays"),
    ("x.safetensors", st_bytes({"x": 3}), "tensor 'x' has a header of '3'"),
    ("x.safetensors", st_bytes(entry([2, 3], 0, 24), bytes(23)), "truncated: it has"),
    ("x.safetensors", st_bytes(entry([2, 3], 0, 24), bytes(25)), "not what its header says"),
    (
        "x.safetensors",
        st_bytes(entry([2, 4], 0, 24), bytes(24)),
        r"tensor 'x' of shape \[2, 4\] and dtype F32 can't have",
    ),
    ("x.safetensors", st_bytes(entry([2, 3], 24, 0), bytes(24)), "can't have data_offsets"),
    ("x.safetensors", st_bytes(entry([-2, -3], 0, 24), bytes(24)), "has a header of"),
    ("x.safetensors", st_bytes(entry([2, 3], 0, 1 << 60), bytes(24)), "has a header of"),
    (
        "x.safetensors",
        st_bytes(entry([2, 3], 0, 6, "F8_E4M3"), bytes(6)),
        "its dtype F8_E4M3 is not one of",
    ),
    ("x.safetensors", st_bytes(entry([6], 0, 24), bytes(24)), "array 'x': it has 1 dimensions"),
    ("x.fvecs", b"", "no whole number of rows"),
    (
        "x.fvecs",
        struct.pack("<iff", 2, 1, 2)[:-1],
        "no whole number of rows of 2 values, 12 bytes each",
    ),
    ("x.fvecs", struct.pack("<if", -1, 1), "of -1 values"),
    (
        "x.fvecs",
        struct.pack("<iffiff", 2, 1, 2, 3, 1, 2),
        "its last row has 3 values where row 0 has 2",
    ),
    ("x.bvecs", b"\xff\xff\xff\x7f" * 4, "no whole number of rows"),
    ("x.pt", b"PK\x03\x04 no zip", "torch"),
    ("x.parquet", b"PAR1PAR1", "truncated or damaged"),
    ("x.parquet", b"", "truncated or damaged"),
    ("x.arrow", b"ARROW1 and no more", "truncated or damaged"),
    ("x.arrows", b"", "truncated or damaged"),
    ("x.txt", b"1 2 3", "its format '.txt' is unknown: known are .npy, "),
    ("x", b"1 2 3", "its format '' is unknown"),
]


@pytest.mark.parametrize(("name", "data", "message"), BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if path.suffix in (".parquet", ".arrow", ".arrows"):
        pytest.importorskip("pyarrow")
    with pytest.raises(VectorFileError, match=message) as caught:
        open_vectors(path)
    assert str(caught.value).startswith(f"cannot read {str(path)!r}: ")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    trap = np.array([[Trap(mark)]], object)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap(mark)))
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("x.npy", "bare.npy", "bare.pt"):
        with pytest.raises(VectorFileError):
            open_vectors(tmp_path / name)
    assert not mark.exists()


def test_torch_loads_weights_only(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    mark = tmp_path / "executed"
    torch.save({"x": torch.zeros(2, 3), "trap": Trap(mark)}, tmp_path / "x.pt")
    with pytest.raises(VectorFileError, match="holds more than tensors, which is never loaded"):
        open_vectors(tmp_path / "x.pt")
    assert not mark.exists()
    torch.save(torch.zeros(2, 3, dtype=torch.complex64), tmp_path / "x.pt")
    with pytest.raises(VectorFileError, match="its dtype complex64 or layout is not read"):
        open_vectors(tmp_path / "x.pt")
    torch.save(torch.zeros(2, 3), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(VectorFileError, match=r"before PyTorch 1\.6: save it again"):
        open_vectors(tmp_path / "old.pt")


@pytest.mark.parametrize(
    ("name", "writer"), [("x.npy", npy), ("x.safetensors", safetensors), ("x.fvecs", vecs)]
)
def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path, name: str, writer: Any) -> None:
    path = write(tmp_path, name, writer, "float32")
    vectors = open_vectors(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VectorFileError, match="ended 1 bytes early while being read"):
        list(vectors.chunks(2))
    with pytest.raises(VectorFileError):
        vectors.array()


def test_a_row_of_another_length_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.fvecs"
    path.write_bytes(b"".join(struct.pack("<iff", d, 1, 2) for d in (2, 2, 7, 2)))
    for read in (lambda: list(open_vectors(path).chunks(1)), lambda: open_vectors(path).array()):
        with pytest.raises(VectorFileError, match="row 2 has 7 values where row 0 has 2"):
            read()


def test_missing_values_of_a_column(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    kind = pa.list_(pa.float32(), 2)
    for name, rows in {"rows": [[1, 2], None], "values": [[1, 2], [None, 4]]}.items():
        pq.write_table(
            pa.table({"v": pa.array(rows, kind), "w": pa.array([[1], [2, 3]])}),
            tmp_path / "x.parquet",
        )
        with pytest.raises(VectorFileError, match="column 'v' has missing values"):
            list(open_vectors(tmp_path / "x.parquet").chunks(9))
        assert "no list of a fixed size" in str(contents(tmp_path / "x.parquet")["w"]), name


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.npy"):
        open_vectors(tmp_path / "none.npy")
    with pytest.raises(VectorFileError, match="it is no regular file"):
        open_vectors(tmp_path)


def test_memory_maps_that_hold_no_vectors(tmp_path: Path) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(8,))
    with pytest.raises(VectorFileError, match="it has 1 dimensions"):
        open_vectors(x)
    with pytest.raises(VectorFileError, match="its dtype complex64 must be"):
        open_vectors(np.memmap(tmp_path / "x", np.complex64, shape=(2, 2)))


def test_the_libraries_that_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, message in {
        "x.pt": "pip install torch",
        "x.parquet": "pip install pyarrow",
        "x.arrow": "pip install pyarrow",
    }.items():
        (tmp_path / name).touch()
        with pytest.raises(VectorFileError, match=message):
            open_vectors(tmp_path / name)


def test_vectors_are_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Vectors("x", "", (1, 1), "float32")  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, -3)])
def test_shapes_without_rows_or_values(shape: tuple[int, int]) -> None:
    assert check_shape(shape) == f"it is empty, shape {shape}"


FUZZED = {
    Path(name).suffix: (name, writer)
    for name, writer, dtype in CASES
    if dtype in ("float32", "int32", "uint8")
}


@pytest.mark.parametrize("suffix", FUZZED)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_give_vectors_or_our_error(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    name, writer = FUZZED[suffix]
    path = tmp_path / f"whole{suffix}"
    if not path.exists():
        write(
            tmp_path,
            name,
            writer,
            "uint8" if suffix == ".bvecs" else "int32" if suffix == ".ivecs" else "float32",
        ).rename(path)
    content = bytearray(path.read_bytes())
    # Most of the bytes that matter are at either end.
    place = st.integers(0, len(content) - 1) | st.integers(0, min(160, len(content)) - 1)
    for where, value in data.draw(st.dictionaries(place, st.integers(0, 255), max_size=6)).items():
        content[where] = value
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    content += data.draw(st.binary(max_size=9) | st.just(b""))
    check_bytes(tmp_path / f"damaged{suffix}", bytes(content))


descr = st.text("<>|fiubOV0123456789", max_size=4)
shape = st.tuples(st.integers(-9, 99), st.integers(-9, 9))
npy_headers = st.builds(
    "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}}}".format, descr, st.booleans(), shape
)
leaves = st.none() | st.integers() | st.text(max_size=4)
fields = st.sampled_from(["dtype", "shape", "data_offsets"])
trees = st.recursive(
    leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(fields, x, max_size=3)
)
any_file = (
    st.binary(max_size=200)
    | st.builds(
        npy_bytes,
        npy_headers | st.text(st.characters(codec="ascii"), max_size=80),
        st.binary(max_size=99),
    )
    | st.builds(
        st_bytes,
        st.binary(max_size=80) | st.dictionaries(st.text(max_size=3), trees, max_size=3),
        st.binary(max_size=50),
    )
)


@pytest.mark.parametrize(
    "suffix", [s for s in FUZZED if s not in (".pt", ".parquet", ".arrow", ".feather")]
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=any_file)
def test_any_bytes_give_vectors_or_our_error(tmp_path: Path, suffix: str, data: bytes) -> None:
    check_bytes(tmp_path / f"x{suffix}", data)


def check_bytes(path: Path, data: bytes) -> None:
    """The vectors are as large as they say and no larger than the file allows, or the error is ours and names the file."""
    path.write_bytes(data)
    try:
        for vectors in contents(path).values():
            if isinstance(vectors, Vectors):
                n, d = vectors.shape
                assert (
                    sum(chunk.shape[0] * chunk.shape[1] for chunk in vectors.chunks(3))
                    == n * d
                    <= 8 * len(data)
                )
                assert vectors.array().shape == (n, d)
    except VectorFileError as error:
        refusal = str(error)
    else:
        refusal = f"cannot read {str(path)!r}: "
    assert refusal.startswith(f"cannot read {str(path)!r}: ")
