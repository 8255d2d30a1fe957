"""Peak rates: the loops add what they say, and a result shows its share of the peaks."""
# pyright: reportMissingImports=false

import pytest
from flash_kmeans_mlx.benchmark import peaks
from flash_kmeans_mlx.benchmark.cases import KMeansJob, custom
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.suites.judged_rows import JudgedResult, JudgedRow

from flash_kmeans_mlx.backends.cpu import kernels


def test_the_loops_add_products() -> None:
    four = 0x40800000  # the bits of 1 + 3 * 1 in float32
    assert peaks.add_floats(3) % 2**32 == 12 * four % 2**32
    if kernels.ir.INT8:
        assert peaks.add_bytes(3) % 2**32 == 12 * (0x01010101 + 3 * 4) % 2**32


def test_peak_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_ROUNDS", 1 << 18)
    rates = peaks.measure(2)
    floats, integers = rates["float32"], rates["int8"]
    assert floats is not None and 1e8 < floats < 1e13
    assert (integers is not None) == bool(kernels.ir.INT8)
    assert integers is None or integers > floats
    monkeypatch.setattr(kernels.ir, "INT8", "")
    assert peaks.measure(1)["int8"] is None
    monkeypatch.setattr(peaks, "_REGISTER", None)
    assert peaks.measure(1) == {"float32": None, "int8": None}


@pytest.mark.parametrize(
    ("strategy", "printed"),
    [
        ("int8", "int8: 2.5 survivors per row"),
        ("head 31, groups", "head 31, groups: 5% of the pro"),
    ],
)
def test_a_result_shows_what_ran_and_its_rate(strategy: str, printed: str) -> None:
    spent = {"seeding": 0.0, "assignment": 0.9, "update": 0.1, "choice": 0.2}
    engine = {"strategy": strategy, "products": 0.05, "seconds": spent}
    row = JudgedRow(FlashKMeansMLX(), warm=[1.0], passes=4.0, backend="cpu", engine=engine)
    result = JudgedResult(KMeansJob(custom(1000, 20, 50), "lloyd"), [row])
    assert result.products(row) == 4e6
    row.rates = [3e9, 4e9, 9e9]
    result.peaks = {"float32": 8e9, "int8": None}
    [note, *_] = result.notes()
    assert note.startswith(printed)
    assert "; 4 G multiply-adds/s (float32 peak 50%, int8 peak -); time in assignment 90%" in note
    assert result.as_json()["rows"][0]["rate"] == 4e9
