"""Kernels move exactly the bytes that their tiling must move; sums come close to the least.

The emulator counts. The table in `benchmark/results` is checked against the same targets.
"""

from __future__ import annotations

import mlx.core as mx
import pytest
from metal.kit import needs_gpp
from metal.traffic import CASES, KERNELS, TABLE, rows_of

pytestmark = [
    needs_gpp,
    pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated"),
    pytest.mark.usefixtures("metal"),
]
DTYPES = (mx.float32, mx.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", ["assign", "argmax", "topk", "topk of rows"])
@pytest.mark.parametrize(
    ("d", "k", "n"), [(3, 64, 600), (17, 70, 133), (64, 50, 200), (130, 100, 130)]
)
def test_no_byte_too_many(kernel: str, d: int, k: int, n: int, dtype: mx.Dtype) -> None:
    row = rows_of(kernel, "", dtype, d, k, n)
    assert row.moved == row.least


def test_moves_read_and_write_once() -> None:
    row = rows_of("move", "", mx.float32, 64, 50, 0)
    assert row.moved == row.least


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("d", "k", "n"), [(64, 50, 5000), (3, 64, 20_000), (128, 150, 3000), (128, 150, 12_000)]
)
def test_sums_are_near_the_least(d: int, k: int, n: int, dtype: mx.Dtype) -> None:
    row = rows_of("sums", "", dtype, d, k, n)
    assert 1 <= row.ratio <= 1.15


def test_the_table_names_every_kernel_and_case() -> None:
    """The file has the rows that the command writes, all within the targets."""
    lines = [
        line.split("|")
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ][1:]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert {(c[1], c[2]) for c in cells} == {(kernel, case) for kernel in KERNELS for case in CASES}
    for c in cells:
        ratio = float(c[9])
        assert ratio == pytest.approx(int(c[7]) / int(c[8]), abs=6e-4)
        assert 1 <= ratio <= (1.15 if c[1] == "sums" else 1)
