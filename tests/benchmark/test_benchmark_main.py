"""The command line: what it refuses, what it prints, what it writes."""
# pyright: reportMissingImports=false

import json
import subprocess
import sys
from pathlib import Path

import pytest
from flash_kmeans_mlx.benchmark import figures, machine, report, timing
from flash_kmeans_mlx.benchmark.__main__ import build_parser, chosen_suite, main
from flash_kmeans_mlx.benchmark.cases import KMeansJob, custom
from flash_kmeans_mlx.benchmark.figures import plot_digits, plot_ratios
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.suites import disk_fits
from flash_kmeans_mlx.benchmark.suites.judged_rows import JudgedResult, JudgedRow

TINY = ["--n", "400", "--d", "5", "--k", "4", "--max-iters", "3"]
TINY += ["--runs", "1", "--threads", "1", "--skip-sklearn"]


@pytest.fixture(autouse=True)
def without_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE", 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "nope"], "unknown case 'nope'"),
        (["--case", "digits", "--n", "5"], "exclude each other"),
        (["--n", "5", "--k", "6"], "K=6 must be <= N=5"),
        (["--n", "0"], "0 must be >= 1"),
        (["--warmup", "-1"], "-1 must be >= 0"),
        (["--metric", "manhattan"], "invalid choice"),
        (["--case", "fit", "--metric", "dot"], "euclidean metric only"),
        (["--suite", "growth", "--n", "5"], "--suite growth does not take --n"),
        (["--case", "knn", "--seeding"], "--suite neighbours does not take --seeding"),
        (["--case", "digits,knn"], "unknown case 'knn' of the suite kmeans"),
    ],
)
def test_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "suite"),
    [
        ("", "kmeans"),
        ("--case digits,fit:digits", "kmeans"),
        ("--case embeddings,text-5k-384-64", "kmeans"),
        ("--case knn", "neighbours"),
        ("--case knn:gauss-k10 --metric dot", "neighbours"),
        ("--case disk --n 3000", "disk"),
        ("--case low-rank-N,no-structure-K", "growth"),
        ("--suite index --case embeddings", "index"),
    ],
)
def test_cases_belong_to_a_suite(arguments: str, suite: str) -> None:
    parser = build_parser()
    assert chosen_suite(parser, parser.parse_args(arguments.split())).name == suite


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert "gauss-500k" in printed and "fit:digits" in printed and "knn:gauss-k10" in printed
    assert "54 cases, gauss-5k-128-64 to text-50k-768-1024" in printed
    assert "text-5k-384-64" not in printed


def test_a_run_prints_a_table_and_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "results.json"
    assert main([*TINY, "--json", str(path), "--metric", "cosine"]) == 0
    printed = capsys.readouterr().out
    assert "custom: 400 x 5, K=4, cosine, float32: same start, 3 iterations" in printed
    assert (
        "flash-kmeans-mlx" in printed
        and "matmul alone" in printed
        and "scikit-learn," not in printed
    )
    written = json.loads(path.read_text())
    assert (
        written["threads"] == 1
        and written["machine"]["cores"] >= 1
        and "--metric cosine" in written["command"]
    )
    assert (written["format"], written["format_version"]) == ("flash-kmeans-mlx benchmark", 1)
    assert written == report.read(path, "kmeans")
    (job,) = written["results"]
    assert (job["N"], job["D"], job["K"], job["metric"]) == (400, 5, 4, "cosine")
    ours = job["rows"][0]
    assert (
        ours["verdict"] == "ok"
        and ours["time_over_ours"] == 1
        and ours["p20"] <= ours["p50"] <= ours["p80"]
    )
    assert job["memory"]["bytes"] >= 0 and job["labels_judged"] == 400
    assert ours["backend"] != "cpu" or 0 < ours["rate"] < job["peaks"]["float32"]


def test_a_search_is_judged_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    arguments = [
        "--case",
        "knn:self-100-10",
        "--runs",
        "1",
        "--threads",
        "1",
        "--skip-sklearn",
        "--json",
        str(path),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "knn:self-100-10: 100 queries, 100 x 10, k=10, euclidean, float32: exact search" in printed
    )
    assert (
        "queries judged: 100 of 100" in printed and "matmul" not in printed.split("exact search")[1]
    )
    (job,) = report.read(path, "neighbours")["results"]
    assert job["kind"] == "knn" and job["rows"][0]["verdict"] == "ok" and job["memory"] is None


def test_a_wrong_backend_is_an_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--backend", "nonsense"]) == 1
    assert "flash-kmeans-mlx: failed: ValueError: backend='nonsense'" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("chip", "limit"), [("Apple M1 Max", " of up to 400 GB/s"), ("Apple X", "")]
)
def test_rates_of_a_gpu(chip: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 * 1e6 * 100 * 50 * 10 operations and 2 * 4 * 1e6 * 100 * 10 bytes in two seconds, which nobody measured."""
    monkeypatch.setattr(machine, "cpu_model", lambda: chip)
    row = JudgedRow(FlashKMeansMLX(), warm=[2.0], passes=10.0, backend="metal")
    result = JudgedResult(KMeansJob(custom(1_000_000, 100, 50), "lloyd"), [row])
    rates = f"metal: 0.05 TFLOP/s of products, x read at 4 GB/s{limit}"
    assert result.device_rates(row) == rates


def test_help_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "flash_kmeans_mlx.benchmark", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = "suite n d k b max-iters metric dtype backend runs warmup case seeding skip-sklearn threads json plot save list"
    assert all(f"--{option}" in printed for option in options.split())


def test_times_are_printed_with_three_digits() -> None:
    assert [report.seconds(value) for value in (7.1e-4, 0.0123, 1.234, 123.4, None)] == [
        "710 us",
        "12.3 ms",
        "1.23 s",
        "123 s",
        "",
    ]


def test_machine_has_a_name_for_its_file() -> None:
    assert machine.slug() == machine.slug().lower() and " " not in machine.slug()
    assert "numpy" in machine.versions()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("AMD EPYC", "AMD EPYC, family 25 model 17"),
        ("AMD EPYC 9554 64-Core Processor", "AMD EPYC 9554 64-Core Processor"),
    ],
)
def test_a_bare_name_gets_family_and_model(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    core = f"cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: {name}\npower management:\n\n"
    info.write_text(2 * core)
    monkeypatch.setattr(machine, "_CPUINFO", info)
    assert machine.cpu_model() == told


def test_plot(tmp_path: Path) -> None:
    def row(contestant: str, ratio: float | None) -> dict[str, object]:
        return {
            "contestant": contestant,
            "kind": "lloyd",
            "time_over_ours": ratio,
            "inertia_ratio": 1.02,
        }

    results = {"machine": {"cpu": "a processor"}, "threads": 2}
    rows = [
        row("flash-kmeans-mlx", 1.0),
        row("faiss", 0.8),
        row("scikit-learn", 30.0),
        row("superkmeans", None),
    ]
    plot_ratios(
        {**results, "results": [{"case": "pixels", "kind": "lloyd", "rows": rows}]},
        tmp_path / "ratios.png",
    )
    assert (tmp_path / "ratios.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_ratios({**results, "results": []}, tmp_path / "none.png")


@pytest.mark.parametrize("suite", ["kmeans", "index"])
def test_committed_results_are_drawn(suite: str, tmp_path: Path) -> None:
    draw = {"kmeans": plot_ratios, "index": figures.plot_indexes}[suite]
    files = (Path(figures.__file__).parent / "results").glob("*.json")
    paths = [path for path in files if json.loads(path.read_text())["suite"] == suite]
    assert paths
    for path in paths:
        draw(report.read(path, suite), tmp_path / f"{path.stem}.png")
        assert (tmp_path / f"{path.stem}.png").stat().st_size > 20_000


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"jobs": []}')
    with pytest.raises(ValueError, match="not a result file of format version 1"):
        report.read(path, "kmeans")
    path.write_text(json.dumps(report.document("index", 1, 0.0, "", [])))
    with pytest.raises(ValueError, match="holds results of the suite index, not of kmeans"):
        report.read(path, "kmeans")


def test_figures(tmp_path: Path) -> None:
    plot_digits(tmp_path / "digits.png")
    assert 20_000 < (tmp_path / "digits.png").stat().st_size < 400_000


def test_a_search_from_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out" / "disk.json"
    plot = tmp_path / "disk.png"
    arguments = ["--case", "disk", "--n", "3000", "--runs", "1", "--threads", "1"]
    assert main([*arguments, "--json", str(path), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "from disk, cached" in printed and "of: in memory" in printed and "of 500 MB" in printed
    (result,) = report.read(path, "disk")["results"]
    assert 0 <= result["memory"]["bytes"] <= 5e8 and result["regret"] < 1e-5
    assert {row["verdict"] for row in result["rows"]} == {"ok"}
    assert result["rows"][0]["way"] == "in memory" and len(result["rows"][0]["seconds"]) == 1
    assert plot.stat().st_size > 5000


def test_fits_from_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two ways; the process of each fits small files of all formats while it loads."""
    monkeypatch.setattr(disk_fits, "FORMATS", (".npy", disk_fits.CHUNKS))
    path = tmp_path / "fits.json"
    arguments = ["--case", "disk-fits-quick", "--n", "3000", "--runs", "1", "--threads", "1"]
    assert main([*arguments, "--json", str(path)]) == 0
    assert "fit from .npy" in capsys.readouterr().out
    (result,) = report.read(path, "disk")["results"]
    assert result["n"] == 3000
    assert [row["way"] for row in result["rows"]] == [
        "fit in memory",
        "fit from .npy",
        "fit from chunks",
    ]
    for row in result["rows"]:
        assert row["verdict"] == "ok" and len(row["seconds"]) == len(row["cpu"]) == 1
    assert all(row["memory"] <= result["bound"] for row in result["rows"][1:])
