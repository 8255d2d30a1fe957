"""The suite index: what it measures, what it refuses, what it writes and draws."""
# pyright: reportMissingImports=false

import json
from pathlib import Path

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import figures, index_suite
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.cases import Case, blobs
from flash_kmeans_mlx.benchmark.index_suite import Entry, IndexResult
from flash_kmeans_mlx.benchmark.indexes import CASES, IndexCase

TINY = IndexCase(Case("tiny", 1, 2050, 16, 8, 1, blobs), 8, 4, queries=50)


def test_recall_counts_what_was_found_of_what_is_true() -> None:
    truth = np.array([[1, 2, 3], [4, 5, 6]])
    assert index_suite.recall(np.array([[3, 2, 1], [4, 9, -1]]), truth) == pytest.approx(4 / 6)
    assert index_suite.recall(truth, truth) == 1
    assert index_suite.recall(np.full((2, 3), -1), truth) == 0


def test_queries_are_held_out() -> None:
    x, queries = TINY.data()
    assert x.shape == (2000, 16) and queries.shape == (50, 16)
    assert not (x[:, None, 0] == queries[None, :, 0]).any()


def test_all_lists_are_looked_at_where_that_is_exact() -> None:
    assert TINY.nprobes("IVF8,Flat") == (1, 2, 4, 8)
    assert TINY.nprobes("IVF8,PQ4") == (1, 2, 4)
    assert TINY.nprobes("PQ4") == (0,)


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
    entries = [
        Entry("flash-kmeans-mlx", recalls={nprobe: ours}),
        Entry("faiss", recalls={nprobe: theirs}),
    ]
    result = IndexResult(TINY, "IVF8,Flat", 2000, entries)
    index_suite.judge(result)
    assert bool(entries[0].problem) == wrong
    assert (result.ours() is None) == wrong


def test_unknown_cases_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--suite", "index", "--case", "digits"])
    assert (
        "unknown case 'digits' of the index suite; known are patches, embeddings"
        in capsys.readouterr().err
    )


def test_options_of_the_other_suite_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--suite", "index", "--max-iters", "3"])
    assert "--suite index does not take --max-iters" in capsys.readouterr().err


def test_a_plot_without_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index_suite, "select", lambda _: [])
    assert main(["--suite", "index", "--plot", str(tmp_path / "plot.png")]) == 0
    assert "no plot: nothing to draw" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_list_names_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "with --suite index: IVF256,Flat, PQ24, IVF256,PQ24" in capsys.readouterr().out


def test_all_cases_without_a_name() -> None:
    assert index_suite.select(None) == list(CASES) and index_suite.select("embeddings") == [
        CASES[1]
    ]


def test_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(index_suite, "CASES", (TINY,))
    monkeypatch.setattr(IndexCase, "factories", property(lambda _: ("IVF8,Flat", "PQ4")))
    path, plot = tmp_path / "results.json", tmp_path / "plot.png"
    arguments = [
        "--suite",
        "index",
        "--runs",
        "1",
        "--threads",
        "1",
        "--json",
        str(path),
        "--plot",
        str(plot),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (
        "tiny: IVF8,Flat, 2,000 x 16, 50 queries in a batch, k=10" in printed
        and "faiss, trained by us" in printed
    )
    lists, codes = json.loads(path.read_text())["indexes"]
    for index in (lists, codes):
        for entry in index["entries"]:
            assert (
                not entry["problem"]
                and len(entry["train"]) == len(entry["add"]) == 1
                and min(entry["train"]) > 0
            )
    for entry in lists["entries"]:
        assert entry["recalls"]["8"] == 1 and 0.1 < entry["recalls"]["1"] < entry["recalls"]["4"]
        assert entry["kept"] == 0 and 0 < entry["coarse"] < 1
    for entry in codes["entries"]:
        assert (
            0.2 < entry["recalls"]["0"] < 1 and entry["coarse"] is None and 0 < entry["kept"] < 0.5
        )
    assert plot.stat().st_size > 5000


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.plot_indexes({"indexes": []}, Path("unused.png"))
