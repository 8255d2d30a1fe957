"""Odd command lines and files: an exit code and one line, never a traceback, and inputs stay as they were."""

from __future__ import annotations

import os
import sys
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Result
from command_line import call as run
from odd_files import FILES, PARAMETERS, RNG, X, safetensors

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.files.results import read_npz

NUMBERS = (
    "0",
    "-1",
    "61",
    "1e30",
    str(10**30),
    str(2**63),
    "9" * 5000,
    "nan",
    "inf",
    "",
    " ",
    "²",
    "0x10",
    "1_0",
    "--",
    "-k",
)
REALS = ("nan", "inf", "-inf", "1e308", "1e-308", "-0.0", "1e400", "", "x", "5e-324")
OUTPUTS = (
    *(
        "",
        ".",
        "..",
        "/",
        "/dev/null",
        "loop.safetensors",
        "loop2.safetensors",
        "dangling.safetensors",
        "folder.safetensors",
    ),
    *(
        "x.npy/m.safetensors",
        "a" * 5000 + ".safetensors",
        "no/m.safetensors",
        "pipe.safetensors",
        "m.SAFETENSORS",
        "é\n.safetensors",
    ),
    *(
        "\udcff.safetensors",
        "[/m].safetensors",
        "-m.safetensors",
        "m.safetensors::x",
        "~/none/m.safetensors",
        "m.pt",
    ),
)
INPUTS = (
    "",
    ".",
    "::",
    "::x",
    "x.npy::",
    "x.npy::y",
    "x.npy::::",
    "loop.safetensors",
    "pipe.npy",
    "pipe.npz",
    "none\udcff.npy",
    *FILES,
)
FIT = ("fit", "x.npy", "-k", "2", "-o", "m.safetensors")
LINES: list[tuple[str, ...]] = [
    *((*FIT[:4], "-o", output) for output in OUTPUTS),
    *((*FIT, "--labels", output) for output in (*OUTPUTS, "l.npy", "l.npz")),
    *((*FIT, option, number) for option, number in product(("--niter", "-k", "--seed"), NUMBERS)),
    *(
        (*FIT, "--n-init", number)
        for number in NUMBERS
        if number not in (str(10**30), str(2**63), "61")
    ),
    *((*FIT, option, real) for option, real in product(("--tol", "--max-mem-gb"), REALS)),
    *(("knn", "q.npy", "x.npy", "-o", "r.npz", "-k", number) for number in NUMBERS),
    *(("knn", "q.npy", "x.npy", "-o", "r.npz", "-k", "2", "--max-mem-gb", real) for real in REALS),
    *(("knn", "q.npy", "x.npy", "-k", "2", "-o", output) for output in OUTPUTS),
    *(("predict", "model.safetensors", "x.npy", "-o", output) for output in OUTPUTS),
    *(("info", source) for source in INPUTS),
    *(("fit", source, "-k", "1", "-o", "m.safetensors") for source in INPUTS),
    *(("knn", source, "x.npy", "-k", "1", "-o", "r.npz") for source in INPUTS),
    *(("predict", source, "x.npy", "-o", "p.npy") for source in INPUTS),
    *(("predict", "model.safetensors", source, "-o", "p.npy") for source in INPUTS),
    *(
        line
        for line in (
            (),
            ("fit",),
            ("fit", "--help"),
            ("nothing",),
            ("fit", "x.npy"),
            ("-h", "fit"),
            ("info",),
            ("info", "a", "b"),
        )
    ),
    *((*FIT, "--init", init) for init in ("k-means||", "RANDOM", "[[1]]", "")),
    *((*FIT, "--backend", name) for name in ("reference", "portable", "metal", "cuda", "CPU")),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with good and odd files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save("x.npy", X)
    np.save("q.npy", X[:5])
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    Path("loop.safetensors").symlink_to("loop2.safetensors")
    Path("loop2.safetensors").symlink_to("loop.safetensors")
    Path("dangling.safetensors").symlink_to("away/none.safetensors")
    Path("folder.safetensors").mkdir()
    for name in ("pipe.npy", "pipe.npz", "pipe.safetensors"):
        os.mkfifo(name)
    return tmp_path


def contents() -> dict[str, int]:
    """A sum of every file that is there before a command."""
    return {name: zlib.crc32(Path(name).read_bytes()) for name in ("x.npy", "q.npy", *FILES)}


def call(*arguments: str) -> Result:
    """The exit code and what was printed; a traceback is an error."""
    result = run(*arguments)
    assert "Traceback" not in result.output, (arguments, result.output)
    return result


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
@pytest.mark.parametrize("part", range(4))
def test_odd_command_lines(folder: Path, part: int) -> None:
    before = contents()
    for line in LINES[part::4]:
        code, said = call(*line)
        assert code in (0, 1, 2), (line, said)
        if code == 1:
            assert said.startswith("error: ") and said.count("\n") == 1 and len(said) > 12, (
                line,
                said,
            )
        if said.startswith("error: "):
            assert "no space left" not in said, (line, said)
        assert contents() == before, line
    assert not list(folder.glob(".*.tmp"))


SAME = {
    "model over data": ("fit", "d.safetensors", "-k", "2", "-o", "d.safetensors"),
    "by another path": ("fit", "d.safetensors", "-k", "2", "-o", "./sub/../d.safetensors"),
    "by an absolute path": ("fit", "d.safetensors::x", "-k", "2", "-o", "{}/d.safetensors"),
    "by a link": ("fit", "d.safetensors", "-k", "2", "-o", "link.safetensors"),
    "of a link": ("fit", "link.safetensors", "-k", "2", "-o", "d.safetensors"),
    "by a hard link": ("fit", "d.safetensors", "-k", "2", "-o", "hard.safetensors"),
    "labels over data": ("fit", "x.npy", "-k", "2", "-o", "m.safetensors", "--labels", "x.npy"),
    "labels over the model": (
        "fit",
        "x.npy",
        "-k",
        "2",
        "-o",
        "m.safetensors",
        "--labels",
        "sub/../m.safetensors",
    ),
    "labels but for case": (
        "fit",
        "x.npy",
        "-k",
        "2",
        "-o",
        "m.safetensors",
        "--labels",
        "M.safetensors",
    ),
    "predict over the model": ("predict", "model.safetensors", "x.npy", "-o", "model.safetensors"),
    "predict over data": ("predict", "model.safetensors", "x.npy", "-o", "x.npy"),
    "knn over queries": ("knn", "d.safetensors::x", "x.npy", "-k", "2", "-o", "d.safetensors"),
    "knn over docs": ("knn", "x.npy", "d.safetensors", "-k", "2", "-o", "link.safetensors"),
}


@pytest.mark.parametrize("case", SAME)
def test_inputs_are_never_overwritten(folder: Path, case: str) -> None:
    Path("d.safetensors").write_bytes(safetensors())
    Path("link.safetensors").symlink_to("d.safetensors")
    Path("hard.safetensors").hardlink_to("d.safetensors")
    Path("sub").mkdir()
    before, names = contents(), sorted(Path().iterdir())
    code, said = call(*(argument.replace("{}", str(folder)) for argument in SAME[case]))
    assert code == 1 and (" is the input " in said or " are one file" in said), said
    assert Path("d.safetensors").read_bytes() == safetensors()
    assert (contents(), sorted(Path().iterdir())) == (before, names)


def test_other_files_may_be_replaced(folder: Path) -> None:
    Path("m.safetensors").write_bytes(b"old")
    assert call(*FIT, "--labels", "l.npy")[0] == 0
    assert fk.FlashKMeans.load("m.safetensors").k == 2
    assert call(*FIT, "--labels", "l.npy")[0] == 0


def test_large_arrays_of_npz_are_described_without_their_memory(folder: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        code, said = call("info", "zeros.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 0 and "4,000,000 x 4" in said
    assert peak < 8_000_000, peak
    assert read_npz("zeros.npz")["x"].shape == (4_000_000, 4)


@pytest.mark.parametrize(
    "name",
    ["lie.npz", "lie2.npz", "negative.npz", "deep.npz", "long.npz", "pickle.npz", "version.npz"],
)
def test_npz_files_that_lie_are_refused_before_memory_is_taken(folder: Path, name: str) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(VectorFileError, match=r"no \.npz file, or damaged"):
            read_npz(name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000, peak


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "?", "<U7"])
def test_npz_files_are_read_as_numpy_reads_them(tmp_path: Path, dtype: str, order: Any) -> None:
    arrays = {
        "a": np.asarray(RNG.integers(0, 9, (7, 5)).astype(dtype), order=order),
        "b": np.array(3).astype(dtype),
        "c": np.zeros((0, 3), dtype),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "r.npz", **arrays)
        for name, found in read_npz(str(tmp_path / "r.npz")).items():
            np.testing.assert_array_equal(found, arrays[name])
            assert found.dtype == arrays[name].dtype


def test_models_of_odd_parameters_are_refused(folder: Path) -> None:
    for place, text in enumerate(PARAMETERS):
        if "1e308" not in text:
            with pytest.raises(ValueError, match=r"FlashKMeans model"):
                fk.FlashKMeans.load(f"model{place}.safetensors")
    assert fk.FlashKMeans.load("model.safetensors").k == 2
