"""Labels by 8-bit products are those of tiles, bit for bit, with every instruction set at hand."""

from __future__ import annotations

from pathlib import Path

import int8_labels
import pytest
from other_cpus import FORCED, HOST, features_of, run

SCRIPT = Path(int8_labels.__file__)


@pytest.mark.skipif(not int8_labels.ir.INT8, reason="this CPU has no products of bytes")
@pytest.mark.parametrize("kind", int8_labels.KINDS)
def test_labels_are_those_of_tiles(kind: str) -> None:
    for seed, (n, d, k) in enumerate([(300, 41, 70), (1, 1, 1), (150, 300, 9), (65, 3, 200)]):
        int8_labels.check(kind, seed, n, d, k)


@pytest.mark.skipif(not int8_labels.ir.INT8, reason="this CPU has no products of bytes")
def test_sums_of_the_most_dimensions_do_not_overflow() -> None:
    int8_labels.check("signs", 0, 3, int8_labels.int8.MAX_DIMS, 5)


@pytest.mark.parametrize("name", FORCED)
def test_other_instruction_sets_find_the_same_labels(name: str, tmp_path: Path) -> None:
    said = FORCED[name][2]
    assert f"with {said}" in run(SCRIPT, tmp_path, *features_of(name), "--problems", "60")


@pytest.mark.skipif("avx" not in HOST, reason="of x86")
@pytest.mark.parametrize(
    ("features", "more"),
    [("+sse4.2", {}), ("", {}), (None, {"NUMBA_ENABLE_AVX": "0"})],
    ids=["sse", "none", "avx disabled"],
)
def test_without_instructions_for_bytes_there_are_none(
    features: str | None, more: dict[str, str], tmp_path: Path
) -> None:
    said = run(SCRIPT, tmp_path, "x86-64-v2", features, **more)
    assert said == "no products of bytes, vectors of 4\n"
