"""The suite start: whole processes, and what is printed, saved and drawn."""
# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path

import pytest
from flash_kmeans_mlx.benchmark import report
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.suites import start
from flash_kmeans_mlx.benchmark.suites.start import StartCase, StartResult, StartRow


def test_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "REPEATS", 2)
    (case,) = (job for job in start.SUITE.jobs if job.name == "start-knn")
    ours = {
        contestant: calls for contestant, calls in case.calls.items() if contestant == start.OURS
    }
    monkeypatch.setattr(StartCase, "calls", ours, raising=False)
    path = tmp_path / "start.json"
    plot = tmp_path / "start.png"
    arguments = ["--suite", "start", "--case", "start-knn", "--runs", "1"]
    assert main([*arguments, "--json", str(path), "--plot", str(plot)]) == 0
    assert "first call" in capsys.readouterr().out
    (result,) = report.read(path, "start")["results"]
    row = result["rows"][0]
    assert (row["contestant"], row["verdict"]) == ("flash-kmeans-mlx", "ok")
    assert all(len(row[part]) == 1 and row[part][0] > 0 for part in ("imports", "seconds", "later"))
    assert plot.exists()


def test_a_call_that_fails_has_no_times() -> None:
    case = StartCase("fails", 5, 2, {FlashKMeansMLX(): ("", "", "raise ValueError('no')")})
    shown: list[StartResult] = []
    settings = start.Settings(runs=1)
    (result,) = start.run(case, settings, lambda result, _: shown.append(result))
    (row,) = result.rows
    assert isinstance(row, StartRow)
    assert row.problem == "ValueError: no"
    assert result.cells(row)["first call"] == ""
    assert shown
