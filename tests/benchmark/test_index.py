"""The suite index: what it measures, what it refuses, what it writes and draws."""
# pyright: reportMissingImports=false

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import figures, report, timing
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.cases import Case, IndexCase, blobs
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.peers import Faiss
from flash_kmeans_mlx.benchmark.suites import SUITES, index, index_batches, index_kinds
from flash_kmeans_mlx.benchmark.suites.index import IndexResult, IndexRow
from flash_kmeans_mlx.benchmark.suites.index_kinds import KindRow, KindsResult
from flash_kmeans_mlx.benchmark.suites.index_work import IndexWork

from flash_kmeans_mlx.index import index_factory

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


def test_batches_of_each_size() -> None:
    assert index_batches.chosen("IVF128,PQ4", (1, 2, 4, 8, 16, 32, 64)) == [1, 8, 64]
    assert index_batches.chosen("PQ4", (0,)) == [0]
    assert index_batches.chosen("HNSW8", (16, 32, 64, 128, 256)) == [16, 64, 256]
    ours = IndexRow(FlashKMeansMLX(), batches={1: {1: 500.0, 10: 900.0}, 8: {1: 100.0}})
    theirs = IndexRow(Faiss(), batches={1: {1: 250.0}})
    lines = index_batches.cells(ours, theirs, "nprobe")
    assert [(line["nprobe"], line["queries in a batch"]) for line in lines] == [
        ("1", "1"),
        ("1", "10"),
        ("8", "1"),
    ]
    assert [line["ours / faiss"] for line in lines] == ["2.00", "", ""]
    assert [line["queries/s, ours"] for line in index_batches.cells(None, theirs, "")] == [""]


@pytest.mark.parametrize(("size", "seconds"), [(1, 0.0), (7, 0.01), (50, 0.0)])
def test_a_batch_is_timed_by_itself(size: int, seconds: float) -> None:
    seen: list[int] = []

    class Counted(FlashKMeansMLX):
        def search_index(self, index: Any, queries: Any, k: int, nprobe: int) -> Any:
            seen.append(len(queries))
            return super().search_index(index, queries, k, nprobe)

    work = IndexWork(Counted())
    work.queries = TINY.points.query_points()[0]
    work.index = index_factory(16, "Flat")
    work.index.add(TINY.points.data()[0])
    spent = work.batches(0, size, seconds)["seconds"]
    assert len(spent) >= 3 and sum(spent) >= seconds and min(spent) > 0
    assert seen == [size] * (len(spent) + 1), "one batch is not timed"


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("PQ16", 16),
        ("IVF9,PQ33x4", 17),
        ("SQ8", 128),
        ("IVF9,SQfp16", 256),
        ("IVF9,PQ16,RFlat", 16 + 512),
        ("Flat", 512),
    ],
)
def test_bytes_of_a_vector(factory: str, expected: int) -> None:
    assert index_kinds.code_bytes(factory, 128) == expected


def test_faiss_has_a_twin_of_each_kind() -> None:
    x, queries = TINY.points.data()[0], TINY.points.query_points()[0]
    for factory in index_kinds.kinds(TINY):
        index_kinds.code_bytes(factory, 16)
        built = Faiss().train_index(factory, x)
        built.add(x)
        assert Faiss().search_index(built, queries, 10, 8 if "IVF" in factory else 0).shape == (
            50,
            10,
        )


def test_a_kind_that_finds_too_little_shows_no_figures() -> None:
    rows = [
        KindRow(FlashKMeansMLX(), index="SQ8", recall=0.9, seconds=[1.0]),
        KindRow(Faiss(), index="SQ8", recall=0.95, seconds=[1.0]),
        KindRow(FlashKMeansMLX(), index="PQ4", recall=0.9, seconds=[1.0]),
        KindRow(Faiss(), index="PQ4", missing="never heard of it"),
    ]
    result = KindsResult(TINY, rows, 2000)
    index_kinds.judge(result)
    assert [bool(row.problem) for row in rows] == [True, False, False, False]
    assert result.of("SQ8")[0] is None and result.of("PQ4") == (rows[2], None)
    assert result.notes() == [
        "flash-kmeans-mlx: wrong: SQ8: recall 0.900 must be >= 0.940",
        "PQ4: not available in faiss (never heard of it)",
    ]


def test_kinds_of_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kind that a library does not make is said to be missing, and the run is right."""
    monkeypatch.setitem(SUITES, "index", replace(index.SUITE, jobs=[replace(TINY, kinds=True)]))
    monkeypatch.setattr(timing, "SETTLE", 0.0)
    monkeypatch.setattr(IndexCase, "factories", property(lambda _: ()))
    kinds = ("PQ4", "PQ8x4", "SQ7", "IVF8,PQ4,RFlat")
    monkeypatch.setattr(index_kinds, "kinds", lambda _: kinds)
    monkeypatch.setattr(index_kinds, "RECALL_GAP", 0.1)  # of 500 neighbours
    monkeypatch.setattr(index_kinds, "code_bytes", lambda *_: 4)
    path, plot = tmp_path / "results.json", tmp_path / "plot.png"
    arguments = ["--suite", "index", "--runs", "1", "--threads", "1", "--json", str(path)]
    assert main([*arguments, "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "tiny: kinds of codes, 2,000 x 16, 50 queries in a batch, k=10, nprobe=16" in printed
    assert "no plot" in printed and "SQ7: not available in flash-kmeans-mlx (description" in printed
    (result,) = report.read(path, "index")["results"]
    rows = {(row["contestant"], row["index"]): row for row in result["rows"]}
    assert len(rows) == 8 and all(row["verdict"] == "ok" for row in rows.values())
    for (_, kind), row in rows.items():
        assert (row["recall"] is None) == bool(row["missing"]) == (kind == "SQ7")
        assert row["missing"] or (len(row["seconds"]) > 0 and row["bytes"] == 4)
    ours = {kind: rows["flash-kmeans-mlx", kind]["recall"] for kind in kinds if kind != "SQ7"}
    assert ours["IVF8,PQ4,RFlat"] > ours["PQ4"]


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
    for entry in (*lists["rows"], *codes["rows"]):
        of_nprobe = {"1": {}, "8": {}} if entry in lists["rows"] else {"0": {}}
        if entry["contestant"] == "faiss, trained by us":
            of_nprobe = {}
        assert entry["batches"].keys() == of_nprobe.keys()
        for rates in entry["batches"].values():
            assert list(rates) == ["1", "10", "50"] and min(rates.values()) > 0
    assert "queries in a batch" in printed
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
