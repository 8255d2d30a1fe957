"""The suite growth: slopes, sizes, what is printed and drawn."""
# pyright: reportMissingImports=false

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import report, timing
from flash_kmeans_mlx.benchmark.__main__ import main
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.suites import growth
from flash_kmeans_mlx.benchmark.suites.growth import GrowthCase, GrowthResult, GrowthRow


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", {"N": (300, 600), "K": (4, 8), "D": (6, 12)})
    monkeypatch.setattr(growth, "MIDDLE", {"N": 400, "K": 5, "D": 8})
    monkeypatch.setattr(timing, "SETTLE", 0.0)


def test_slopes_are_exponents() -> None:
    sizes = (10, 20, 40)
    assert growth.slope(sizes, 3.0 * np.array(sizes) ** 1.5) == pytest.approx(1.5)
    assert growth.slope(sizes, np.full(3, 2.0)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.usefixtures("small")
def test_every_quantity_grows_alone() -> None:
    cases = [case for quantity in "NKD" for case in GrowthCase("low-rank", quantity).cases()]
    assert [(case.N, case.K, case.D) for case in cases] == [
        (300, 5, 8),
        (600, 5, 8),
        (400, 4, 8),
        (400, 8, 8),
        (400, 5, 6),
        (400, 5, 12),
    ]
    assert all(case.data().shape == (1, case.N, case.D) for case in cases)


def test_the_slopes_of_a_result() -> None:
    rows = [
        GrowthRow(FlashKMeansMLX(), size=size, spent={"seeding": [size**2.0], "iteration": [3.0]})
        for size in (4, 8, 16)
    ]
    result = GrowthResult(GrowthCase("low-rank", "K"), rows)
    assert result.as_json()["slopes"] == {
        "seeding": pytest.approx(2),
        "iteration": pytest.approx(0),
    }
    assert GrowthResult(result.job, rows[:1]).slope("seeding") is None


@pytest.mark.usefixtures("small")
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "growth.json"
    plot = tmp_path / "growth.png"
    arguments = ["--suite", "growth", "--case", "no-structure-N,low-rank-D", "--runs", "2"]
    assert main([*arguments, "--threads", "1", "--json", str(path), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"grows as [ND]\^-?[\d.]+ in k-means\+\+, [ND]\^", printed)) == 2
    results = report.read(path, "growth")["results"]
    assert [[row["size"] for row in result["rows"]] for result in results] == [[300, 600], [6, 12]]
    for result in results:
        for row in result["rows"]:
            assert row["verdict"] == "ok"
            for phase in ("seeding", "iteration"):
                assert len(row["spent"][phase]) == 2 and 0 < min(row["spent"][phase]) < 60
    assert plot.stat().st_size > 5000
