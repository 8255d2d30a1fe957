"""The command line: what it writes, and what it says where something is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import call
from vector_files import npy_bytes, safetensors

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends import BACKENDS
from flash_kmeans_mlx.files.results import read_npz
from flash_kmeans_mlx.kmeans.seeding import INITS
from flash_kmeans_mlx.metrics import METRICS, PROXIMITIES

RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((300, 6)).astype(np.float32) + 3 * RNG.integers(0, 2, (300, 1)).astype(
    np.float32
)
QUERIES = DATA[:20] + np.float32(0.01)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with q.npy and x.npy."""
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", QUERIES)
    np.save("x.npy", DATA)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ok(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("metric", PROXIMITIES)
def test_knn(folder: Path, metric: str) -> None:
    said = ok(
        "knn",
        "q.npy",
        "x.npy",
        "--k",
        "4",
        "--metric",
        metric,
        "--output",
        "r.npz",
        "--max-mem-gb",
        "0.1",
    )
    found = read_npz("r.npz")
    scores, indices = fk.knn(QUERIES, DATA, 4, metric)
    np.testing.assert_array_equal(found["indices"], indices)
    np.testing.assert_array_equal(found["scores"], scores)
    fields = {name: array.item() for name, array in found.items() if not array.ndim}
    assert fields == {
        "queries_path": "q.npy",
        "docs_path": "x.npy",
        "k": 4,
        "batch_size": 20,
        "dtype": "float32",
        "device": "cpu",
        "metric": metric,
        "backend": "cpu",
    }
    assert "r.npz: 4 neighbours of 20 queries among 300 rows" in said


def test_knn_without_self(folder: Path) -> None:
    ok(
        "knn",
        "x.npy",
        "x.npy",
        "-k",
        "3",
        "-o",
        "r.npz",
        "--exclude-self",
        "--backend",
        "reference",
    )
    np.testing.assert_array_equal(
        read_npz("r.npz")["indices"], fk.knn(DATA, DATA, 3, exclude_self=True)[1]
    )


@pytest.mark.parametrize("metric", METRICS)
def test_fit_and_predict(folder: Path, metric: str) -> None:
    said = ok(
        "fit",
        "x.npy",
        "--k",
        "4",
        "--metric",
        metric,
        "--output",
        "m.safetensors",
        "--labels",
        "l.npy",
        "--seed",
        "3",
    )
    model = fk.FlashKMeans(6, 4, metric=metric, seed=3).fit(DATA)
    loaded = fk.FlashKMeans.load("m.safetensors")
    np.testing.assert_array_equal(np.asarray(loaded.centroids), model.centroids)
    np.testing.assert_array_equal(np.load("l.npy"), model.labels_)
    assert (
        f"4 clusters of 300 x 6, inertia {model.inertia_:.8g} after {model.n_iter_} iterations"
        in said
    )
    ok("predict", "m.safetensors", "x.npy", "--output", "p.npy", "--max-mem-gb", "0.1")
    np.testing.assert_array_equal(np.load("p.npy"), model.labels_)


def test_fit_of_bfloat16(folder: Path) -> None:
    safetensors(
        folder / "x.safetensors", (DATA.view(np.uint32) >> 16).astype(np.uint16), "bfloat16"
    )
    ok("fit", "x.safetensors::vectors", "-k", "3", "-o", "m.safetensors", "--labels", "l.npz")
    ok("predict", "m.safetensors", "x.safetensors::vectors", "-o", "p.npz")
    np.testing.assert_array_equal(read_npz("l.npz")["labels"], read_npz("p.npz")["labels"])


def test_info(folder: Path) -> None:
    ok("fit", "x.npy", "-k", "4", "-o", "m.safetensors")
    ok("knn", "q.npy", "m.safetensors", "-k", "2", "-o", "r.npz")
    safetensors(folder / "two.safetensors", DATA, "float32")
    for name, words in {
        "x.npy": ["300 x 6", "float32"],
        "m.safetensors": ["FlashKMeans", "metric: euclidean", "centroids", "4 x 6"],
        "r.npz": ["docs_path: m.safetensors", "indices", "20 x 2", "int64"],
        "two.safetensors": ["vectors", "other", "no vectors: it has 1 dimensions"],
    }.items():
        said = ok("info", name)
        assert all(word in said for word in words), said


WRONG: dict[str, tuple[list[str], int, str]] = {
    "missing file": (
        ["knn", "q.npy", "none.npy", "-o", "r.npz"],
        1,
        "error: 'none.npy': no such file or directory; check the path",
    ),
    "missing model": (
        ["predict", "none", "x.npy", "-o", "p.npy"],
        1,
        "error: 'none': no such file or directory",
    ),
    "no model": (["predict", "x.npy", "x.npy", "-o", "p.npy"], 1, "error: cannot load 'x.npy'"),
    "folder": (["info", "."], 1, "error: cannot read '.': it is no regular file"),
    "wrong shape": (
        ["fit", "flat.npy", "-o", "m.safetensors"],
        1,
        "it has 1 dimensions, shape (12,)",
    ),
    "truncated": (
        ["fit", "short.npy", "-o", "m.safetensors"],
        1,
        "error: cannot read 'short.npy': it is truncated",
    ),
    "pickle": (
        ["fit", "objects.npy", "-o", "m.safetensors"],
        1,
        "Python objects (a pickle), which are never loaded",
    ),
    "unknown format": (["info", "x.csv"], 1, "its format '.csv' is unknown: known are .npy"),
    "output format": (
        ["knn", "q.npy", "x.npy", "-o", "r.csv"],
        1,
        "results are written to .npz, .safetensors, .pt",
    ),
    "output folder": (
        ["knn", "q.npy", "x.npy", "-o", "no/r.npz"],
        1,
        "no': no such file or directory",
    ),
    "one array": (["knn", "q.npy", "x.npy", "-o", "r.npy"], 2, "a .npy file holds one array"),
    "model format": (["fit", "x.npy", "-o", "m.npz"], 2, "must end in .safetensors"),
    "dimensions": (
        ["knn", "wide.npy", "x.npy", "-o", "r.npz"],
        1,
        "the same D, got queries.shape=(20, 7) and data.shape=(300, 6)",
    ),
    "dimensions of a model": (
        ["predict", "m.safetensors", "wide.npy", "-o", "p.npy"],
        1,
        "error: x must have D=6 columns, got 7 (x.shape=(20, 7))",
    ),
    "k > N": (
        ["knn", "q.npy", "x.npy", "-k", "301", "-o", "r.npz"],
        1,
        "error: k=301 must be <= N=300",
    ),
    "k > N in a fit": (
        ["fit", "q.npy", "-k", "21", "-o", "m.safetensors"],
        1,
        "error: k=21 must be <= N=20",
    ),
    "k < 1": (["knn", "q.npy", "x.npy", "-k", "0", "-o", "r.npz"], 2, "--k"),
    "metric": (["fit", "x.npy", "--metric", "l1", "-o", "m.safetensors"], 2, "--metric"),
    "no output": (["knn", "q.npy", "x.npy"], 2, "--output"),
    "memory": (
        ["knn", "q.npy", "x.npy", "-o", "r.npz", "--max-mem-gb", "1e-5"],
        1,
        "error: max_mem_gb=1e-05 must be >=",
    ),
    "unknown array": (["info", "x.npy::y"], 1, "error: 'x.npy::y': no such file or directory"),
    "NaN": (["fit", "nan.npy", "-o", "m.safetensors"], 1, "error: x must be finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_line(folder: Path, case: str) -> None:
    np.save("flat.npy", DATA.ravel()[:12])
    np.save("wide.npy", np.ones((20, 7), np.float32))
    np.save("nan.npy", np.where(DATA > 3, np.nan, DATA))
    np.save("objects.npy", np.array([[{}]], object), allow_pickle=True)
    Path("short.npy").write_bytes(npy_bytes(data=bytes(40)))
    Path("x.csv").write_text("1,2")
    fk.FlashKMeans(6, 2).fit(DATA).save("m.safetensors")
    before = names(folder)
    arguments, code, message = WRONG[case]
    result = call(*arguments)
    assert result.exit_code == code, result.output
    said = " ".join(result.output.replace("│", " ").split())
    assert message in said, said
    assert "Traceback" not in said and (code == 2 or len(result.output.splitlines()) == 1)
    assert names(folder) == before


def test_choices_are_the_lists_of_the_package() -> None:
    for command, option, names in (
        ("knn", "--metric", PROXIMITIES),
        ("fit", "--metric", METRICS),
        ("fit", "--init", INITS),
        ("predict", "--backend", BACKENDS),
    ):
        files = ["x.npy"] if command == "fit" else ["x.npy", "x.npy"]
        result = call(command, *files, "-o", "o.safetensors", option, "none")
        said = " ".join(result.output.replace("│", " ").split())
        expected = f"'{option}': 'none' is not one of {', '.join(map(repr, names))}"
        assert result.exit_code == 2 and expected in said, said


def test_help_and_version() -> None:
    for command in ("knn", "fit", "predict", "info"):
        assert "Usage" in ok(command, "--help")
    assert "--install-completion" in ok("--help")
    assert ok("--version").strip() == fk.__version__


def test_the_benchmark_gets_its_options() -> None:
    assert call("benchmark", "--case", "none").exit_code == 2
    assert call("benchmark", "--list").exit_code == 0
