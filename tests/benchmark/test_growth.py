"""The slopes that `benchmark.growth` reports."""
# pyright: reportMissingImports=false

from __future__ import annotations

import re

import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import growth


def test_slopes_are_exponents() -> None:
    sizes = (10, 20, 40)
    assert growth.slope(sizes, 3.0 * np.array(sizes) ** 1.5) == pytest.approx(1.5)
    assert growth.slope(sizes, np.full(3, 2.0)) == pytest.approx(0.0, abs=1e-12)


def test_every_quantity_grows_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "SIZES", {"N": (300, 600), "K": (4, 8), "D": (6, 12)})
    monkeypatch.setattr(growth, "MIDDLE", {"N": 400, "K": 5, "D": 8})
    seen = []

    def seconds(case: growth.Case, runs: int) -> tuple[float, float]:
        seen.append((case.N, case.K, case.D))
        assert runs == 1 and case.data().shape == (1, case.N, case.D)
        return case.N * case.K**2.0, float(case.D)

    monkeypatch.setattr(growth, "seconds", seconds)
    assert growth.main(["--runs", "1"]) == 0
    assert seen[:6] == [
        (300, 5, 8),
        (600, 5, 8),
        (400, 4, 8),
        (400, 8, 8),
        (400, 5, 6),
        (400, 5, 12),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    exponents = [
        [float(found) for found in re.findall(r"\^(-?[\d.]+)", line)] for line in lines[:3]
    ]
    assert exponents == [[1, 0], [2, 0], [0, 1]]


def test_one_size_is_timed() -> None:
    case = growth.Case("growth", 1, 500, 6, 5, growth.ITERS, growth.gauss)
    seeding, iteration = growth.seconds(case, 1)
    assert 0 < seeding < 60 and 0 < iteration < 60
