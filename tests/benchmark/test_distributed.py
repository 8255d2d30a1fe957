"""The suite distributed: every way has the same bits, what is printed and drawn."""
# pyright: reportMissingImports=false

from __future__ import annotations

from pathlib import Path

import pytest
from flash_kmeans_mlx.benchmark import report
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.suites import distributed

pytest.importorskip("distributed")


def test_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {way: distributed.WAYS[way] for way in ("in memory", "2 workers, 1 killed")}
    monkeypatch.setattr(distributed, "WAYS", ways)
    monkeypatch.setattr(distributed, "EMPTY_TASKS", 100)
    path, plot = tmp_path / "distributed.json", tmp_path / "distributed.png"
    arguments = ["--suite", "distributed", "--n", "20000", "--runs", "1"]
    assert main([*arguments, "--json", str(path), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "an empty task takes" in printed
    (result,) = report.read(path, "distributed")["results"]
    assert [row["way"] for row in result["rows"]] == list(ways)
    assert all(row["verdict"] == "ok" and len(row["seconds"]) == 1 for row in result["rows"])
    assert plot.exists()
