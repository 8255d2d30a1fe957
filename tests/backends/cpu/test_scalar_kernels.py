"""Scans of scalar-quantized codes find the nearest with every instruction set at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import scalar_codes
from other_cpus import FORCED, features_of, run

SCRIPT = Path(scalar_codes.__file__)


@pytest.mark.parametrize("name", ["avx2", "sdot"])
def test_other_instruction_sets_find_the_nearest(name: str, tmp_path: Path) -> None:
    said = FORCED[name][2]
    assert f"problems: {said}," in run(SCRIPT, tmp_path, *features_of(name), "--problems", "60")


def test_without_instructions_for_bytes(tmp_path: Path) -> None:
    said = run(SCRIPT, tmp_path, "generic", "", "--problems", "60")
    assert said.startswith("60 problems: no products, vectors of 4")
