"""The suite index: what it measures, what it refuses, what it writes and draws."""
# pyright: reportMissingImports=false

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import figures, report, timing
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.cases import Case, IndexCase, blobs
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.peers import Faiss
from flash_kmeans_mlx.benchmark.suites import SUITES, index
from flash_kmeans_mlx.benchmark.suites.index import IndexResult, IndexRow

TINY = IndexCase(Case("tiny", 1, 2000, 16, 8, 1, blobs, queries=50), 8, 4)


def test_recall_counts_what_was_found_of_what_is_true() -> None:
    truth = np.array([[1, 2, 3], [4, 5, 6]])
    assert index.recall(np.array([[3, 2, 1], [4, 9, -1]]), truth) == pytest.approx(4 / 6)
    assert index.recall(truth, truth) == 1
    assert index.recall(np.full((2, 3), -1), truth) == 0


def test_queries_are_held_out() -> None:
    x, queries = TINY.points.data(), TINY.points.query_points()
    assert x.shape == (1, 2000, 16) and queries.shape == (1, 50, 16)
    assert not (x[0, :, None, 0] == queries[0, None, :, 0]).any()


def test_all_lists_are_looked_at_where_that_is_exact() -> None:
    assert TINY.nprobes("IVF8,Flat") == (1, 2, 4, 8)
    assert TINY.nprobes("IVF8,PQ4") == (1, 2, 4)
    assert TINY.nprobes("PQ4") == (0,)


def test_candidates_of_graphs() -> None:
    factory = replace(TINY, links=8).factories[-1]
    assert factory == "HNSW8" and "HNSW8" not in TINY.factories
    candidates = TINY.nprobes(factory)
    x, queries = TINY.points.data()[0], TINY.points.query_points()[0]
    for contestant in (FlashKMeansMLX(), Faiss()):
        built = contestant.train_index(factory, x)
        built.add(x)
        for ef in candidates:
            found = contestant.search_index(built, queries, 10, ef)
            assert found.shape == (50, 10)
            assert (built.hnsw.efSearch if hasattr(built, "hnsw") else ef) == ef


@pytest.mark.parametrize(
    ("nprobe", "ours", "theirs", "wrong"),
    [
        (2, 0.80, 0.80, False),
        (2, 0.791, 0.80, False),
        (2, 0.78, 0.80, True),
        (8, 1.0, 1.0, False),
        (8, 0.99, 0.99, True),
    ],
)
def test_who_finds_too_little_shows_no_figures(
    nprobe: int, ours: float, theirs: float, wrong: bool
) -> None:
    rows = [
        IndexRow(FlashKMeansMLX(), recalls={nprobe: ours}),
        IndexRow(Faiss(), recalls={nprobe: theirs}),
    ]
    result = IndexResult(TINY, rows, "IVF8,Flat", 2000)
    index.judge(result)
    assert bool(rows[0].problem) == wrong
    assert (result.valid(FlashKMeansMLX) is None) == wrong


def test_unknown_cases_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--suite", "index", "--case", "digits"])
    assert (
        "unknown case 'digits' of the suite index; known are quick, all, patches, embeddings"
        in capsys.readouterr().err
    )


def test_options_of_the_other_suite_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--suite", "index", "--max-iters", "3"])
    assert "--suite index does not take --max-iters" in capsys.readouterr().err


def test_a_plot_without_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUITES, "index", replace(index.SUITE, groups={"quick": []}))
    assert main(["--suite", "index", "--plot", str(tmp_path / "plot.png")]) == 0
    assert "no plot: nothing to draw" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_list_names_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "1,000 queries: IVF256,Flat; PQ24; IVF256,PQ24" in capsys.readouterr().out


def test_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUITES, "index", replace(index.SUITE, jobs=[TINY]))
    monkeypatch.setattr(timing, "SETTLE", 0.0)
    monkeypatch.setattr(IndexCase, "factories", property(lambda _: ("IVF8,Flat", "PQ4")))
    path, plot = tmp_path / "results.json", tmp_path / "plot.png"
    arguments = ["--suite", "index", "--runs", "1", "--threads", "1"]
    arguments += ["--json", str(path), "--plot", str(plot)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "tiny: IVF8,Flat, 2,000 x 16, 50 queries in a batch, k=10" in printed
        and "faiss, trained by us" in printed
    )
    lists, codes = report.read(path, "index")["results"]
    for built in (lists, codes):
        for entry in built["rows"]:
            assert (
                entry["verdict"] == "ok"
                and len(entry["train"]) == len(entry["add"]) == 1
                and min(entry["train"]) > 0
            )
    for entry in lists["rows"]:
        assert entry["recalls"]["8"] == 1 and 0.1 < entry["recalls"]["1"] < entry["recalls"]["4"]
        assert entry["kept"] == 0 and 0 < entry["coarse"] < 1
    for entry in codes["rows"]:
        assert (
            0.2 < entry["recalls"]["0"] < 1 and entry["coarse"] is None and 0 < entry["kept"] < 0.5
        )
    assert plot.stat().st_size > 5000


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.plot_indexes({"results": []}, Path("unused.png"))
