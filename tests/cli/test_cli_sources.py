"""Commands on files that are read in pieces: several, folders, patterns; caps, weights and checkpoints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from vector_files import safetensors

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import BACKENDS
from flash_kmeans_mlx.cli import inputs
from flash_kmeans_mlx.files.results import read_npz

RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((900, 6)).astype(np.float32) + 4 * RNG.integers(0, 3, (900, 1))
DATA = DATA.astype(np.float32)
WEIGHTS = RNG.random(900, np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with DATA in x.npy, and in pieces in the folder parts."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", DATA)
    np.save("w.npy", WEIGHTS)
    Path("parts").mkdir()
    np.save("parts/a.npy", DATA[:250])
    safetensors(Path("parts/b.safetensors"), DATA[250:300], "float32")
    np.save("parts/c.npy", DATA[300:])
    return tmp_path


def ok(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "data",
    [
        ["parts::vectors"],
        ["parts/a.npy", "parts/b.safetensors::vectors", "parts/c.npy"],
        ["parts/[ab].*::vectors", "parts/c.npy"],
    ],
)
def test_one_file_or_several(folder: Path, data: list[str]) -> None:
    if data[0] != "parts/a.npy":
        for name in ("a", "c"):  # files whose arrays have a name
            rows = np.load(f"parts/{name}.npy")
            safetensors(Path(f"parts/{name}.safetensors"), rows, "float32")
            Path(f"parts/{name}.npy").unlink()
        data = [name.replace("c.npy", "c.safetensors::vectors") for name in data]
    ok("fit", "x.npy", "-k", "4", "-o", "m.safetensors", "--labels", "l.npy")
    ok("fit", *data, "-k", "4", "-o", "m2.safetensors", "--labels", "l2.npz")
    labels = np.load("l.npy")
    np.testing.assert_array_equal(read_npz("l2.npz")["labels"], labels)
    assert read_npz("l2.npz")["data_path"] == ", ".join(data)
    a, b = (fk.FlashKMeans.load(f"{name}.safetensors").centroids for name in ("m", "m2"))
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for output in ("p.npy", "p.npz"):
        ok("predict", "m.safetensors", *data, "-o", output)
    np.testing.assert_array_equal(np.load("p.npy"), labels)
    np.testing.assert_array_equal(read_npz("p.npz")["labels"], labels)


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_weights_and_inits(folder: Path, init: str) -> None:
    ok("fit", "x.npy", "-k", "5", "-o", "m.safetensors", "--weights", "w.npy", "--init", init)
    model = fk.FlashKMeans(6, 5, init=init).fit("x.npy", WEIGHTS)
    loaded = fk.FlashKMeans.load("m.safetensors")
    np.testing.assert_array_equal(np.asarray(loaded.centroids), model.centroids)
    assert loaded.inertia_ == model.inertia_


def test_resume(folder: Path) -> None:
    line = ("fit", "x.npy", "-k", "9", "-o", "m.safetensors", "--checkpoint", "state")
    ok(*line, "--niter", "2", "--resume")  # there is none yet
    said = ok(*line, "--niter", "6", "--resume", "--labels", "l.npy")
    model = fk.FlashKMeans(6, 9, 6).fit("x.npy")
    assert f"inertia {model.inertia_:.8g} after {model.n_iter_} iterations" in said
    np.testing.assert_array_equal(np.load("l.npy"), model.labels_)
    result = call(*line[:-1], "state", "--resume", "--seed", "1")
    assert result.exit_code == 1 and "it is of another fit, with seed=0" in result.output


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gets_the_rows(folder: Path, backend: str) -> None:
    if BACKENDS[backend].missing():
        pytest.skip("can't run here")
    options = ("--backend", backend, "--max-mem-gb", "0.1")
    ok("fit", "parts/a.npy", "parts/c.npy", "-k", "3", "-o", "m.safetensors", *options)
    ok("predict", "m.safetensors", "parts/b.safetensors::vectors", "-o", "p.npy", *options)
    assert len(np.load("p.npy")) == 50
    result = call(
        *("fit", "x.npy", "-k", "3", "-o", "m.safetensors", "--backend", backend),
        *("--max-mem-gb", "1e-5"),
    )
    assert result.exit_code == 1 and "max_mem_gb=1e-05 must be >= " in result.output
    assert backend == "cpu" or "take --backend cpu" in result.output


def test_large_data_stay_where_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that nobody named gives way to the CPU where rows are larger than half the memory."""
    source = inputs.open_data(["x.npy"])
    monkeypatch.setattr(inputs.backends, "resolve", lambda name: name or "portable")
    rows, room = inputs.for_backend(source, None, 1e-3)
    np.testing.assert_array_equal(rows, DATA)
    assert room == pytest.approx(1e-3 - DATA.nbytes / 1e9)
    assert inputs.for_backend(source, None, 3e-5) == (source, 3e-5)
    monkeypatch.setattr(inputs, "_memory", lambda: 1000)
    assert inputs.for_backend(source, None, 0.0) == (source, 0.0)
    assert isinstance(inputs.for_backend(source, "portable", 0.0)[0], np.ndarray)


FIT = ("-k", "3", "-o", "m.safetensors")
WRONG: dict[str, tuple[tuple[str, ...], int, str]] = {
    "different D": (
        ("fit", "x.npy", "wide.npy", *FIT),
        1,
        "error: all files must have the same D: 'x.npy' has shape (900, 6), 'wide.npy' (20, 7)",
    ),
    "an empty file": (
        ("fit", "x.npy", "none.npy", *FIT),
        1,
        "'none.npy': it is empty, shape (0, 6)",
    ),
    "an empty folder": (
        ("fit", "nothing", *FIT),
        1,
        "'nothing': it is a folder without files of .npy",
    ),
    "no match": (("predict", "m", "y-*.npy", "-o", "p.npy"), 1, "no files match this pattern"),
    "a cap": (
        ("fit", "x.npy", *FIT, "--max-mem-gb", "1e-5"),
        1,
        "the least that x.shape=(900, 6) with n_clusters=3 needs on the cpu backend; raise it, or keep"
        " the labels in a .npy file",
    ),
    "a cap with labels in a file": (
        ("fit", "x.npy", *FIT, "--max-mem-gb", "1e-5", "--labels", "l.npy"),
        1,
        "needs on the cpu backend; raise it",
    ),
    "labels that can't be written": (
        ("fit", "x.npy", *FIT, "--labels", "no/l.npy"),
        1,
        "no': no such file or directory",
    ),
    "a checkpoint that can't be written": (
        ("fit", "x.npy", *FIT, "--checkpoint", "no/state"),
        1,
        "no': no such file or directory",
    ),
    "a checkpoint that is the data": (
        ("fit", "x.npy", *FIT, "--checkpoint", "x.npy"),
        1,
        "error: --checkpoint 'x.npy' is the input",
    ),
    "weights that are the output": (
        ("fit", "x.npy", *FIT, "--weights", "w.npy", "--labels", "w.npy"),
        1,
        "error: --labels 'w.npy' is the input 'w.npy'",
    ),
    "resume without a checkpoint": (
        ("fit", "x.npy", *FIT, "--resume"),
        2,
        "it needs --checkpoint FILE",
    ),
    "missing weights": (("fit", "x.npy", *FIT, "--weights", "v.npy"), 1, "'v.npy': no such file"),
    "no weights": (
        ("fit", "x.npy", *FIT, "--weights", "text"),
        1,
        "must be a .npy file of (N,) numbers",
    ),
    "few weights": (
        ("fit", "parts/a.npy", *FIT, "--weights", "w.npy"),
        1,
        "sample_weight must have shape (N,)=(250,)",
    ),
    "NaN": (("fit", "x.npy", "nan.npy", *FIT), 1, "NaN or Inf in '"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_line(folder: Path, case: str) -> None:
    np.save("wide.npy", np.ones((20, 7), np.float32))
    np.save("none.npy", np.ones((0, 6), np.float32))
    np.save("nan.npy", np.where(DATA[:9] > 3, np.nan, DATA[:9]))
    Path("nothing").mkdir()
    Path("text").write_text("1 2 3")
    fk.FlashKMeans(6, 2).fit(DATA).save("m")
    before = sorted(folder.rglob("*"))
    arguments, code, message = WRONG[case]
    result = call(*arguments)
    said = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == code and message in said, said
    assert code == 2 or len(result.output.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_a_cap_that_is_advised_suffices(folder: Path) -> None:
    line = ("fit", "x.npy", *FIT, "--labels", "l.npy", "--max-mem-gb")
    found = re.search(r"must be >= (\S+) GB", call(*line, "1e-5").output)
    assert found is not None
    ok(*line, found[1])


PEAK = """
import resource, sys
from flash_kmeans_mlx import cli
sys.argv = ["flash-kmeans", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as done:
    assert not done.code, done.code
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_cap_holds_for_the_process(folder: Path) -> None:
    """256 MB of rows, a cap of 30 MB: the process takes no more than for small data, and 30 MB."""
    x = np.lib.format.open_memmap("large.npy", "w+", np.float32, (1 << 20, 64))
    x[...] = RNG.standard_normal((1 << 10, 64), np.float32).repeat(1 << 10, 0)
    x.flush()
    del x

    def peak(*arguments: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    options = ("--labels", "l.npy", "--max-mem-gb", "0.03", "--niter", "2")
    least = peak("fit", "x.npy", *FIT, *options)
    assert peak("fit", "large.npy", *FIT, *options, "--init", "random") < least + 100
    assert (
        peak("predict", "m.safetensors", "large.npy", "-o", "p.npy", "--max-mem-gb", "0.03")
        < least + 100
    )
