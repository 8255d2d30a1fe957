"""Neighbours against an oracle in extended precision, on problems that Hypothesis draws so that every regime is visited.

With `--fuzz-minutes M` other problems are drawn at every run, for M minutes each.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine import Watch, attack, checked, random_numbers
from hypothesis import strategies as st
from index_problems import FIXED_SCANS, Scan, scans
from knn_problems import FIXED_KNN, FIXED_PORTABLE, SHAPES, Knn, searches
from knn_regimes import (
    CPU_REGIMES,
    PORTABLE_REGIMES,
    SCAN_REGIMES,
    watch_cpu,
    watch_portable,
    watch_scans,
)

from flash_kmeans_mlx.backends.cpu import codes as cpu_codes
from flash_kmeans_mlx.backends.cpu import scan as cpu_scan

__all__ = ["Knn", "Scan"]  # for the line that repeats a failure


def fuzz(
    problems: st.SearchStrategy[Any], examples: int, minutes: float, fixed: Sequence[Any] = ()
) -> None:
    """Check problems, always the same, or random ones for some minutes; a failure shrinks, and says how to repeat it.

    Those that are `fixed` come first: they see to the regimes, whatever this version of Hypothesis draws.
    """
    for problem in fixed:
        checked(problem, check, repeat)
    if not minutes:
        attack(problems, check, examples, repeat)
    for number in random_numbers(minutes):
        attack(problems, check, examples, repeat, number)


def check(problem: Any) -> None:
    problem.check()


def repeat(problem: Any) -> str:
    """Return the command that checks a problem again."""
    code = f"from test_fuzz_knn import *; {problem!r}.check()"
    return f'PYTHONPATH=tests:tests/fuzz python -c "{code}"'


def check_regimes(seen: set[Any], regimes: set[Any]) -> None:
    """Assert that all regimes were met, and no other ones."""
    assert seen == regimes, f"not visited: {regimes - seen}; not in the table: {seen - regimes}"


def test_searches_on_the_cpu_backend(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_cpu(watch)
    fuzz(searches(("cpu",), tuple(SHAPES)), 80, fuzz_minutes, FIXED_KNN)
    check_regimes(watch.seen, CPU_REGIMES)


def test_searches_on_other_backends(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_portable(watch)
    fuzz(
        searches(("portable", "portable", "reference"), ("small", "small", "middle")),
        40,
        fuzz_minutes,
        FIXED_PORTABLE,
    )
    check_regimes(watch.seen, PORTABLE_REGIMES)


@pytest.mark.usefixtures("metal")
def test_searches_on_the_metal_backend(fuzz_minutes: float) -> None:
    fuzz(searches(("metal",), ("small",), dims=(3, 17)), 12, fuzz_minutes)


def test_searches_of_indexes(monkeypatch: pytest.MonkeyPatch, fuzz_minutes: float) -> None:
    watch = Watch(monkeypatch)
    watch_scans(watch)
    # Small searches use threads too: their results must be those of one thread.
    monkeypatch.setattr(cpu_scan, "ONE_THREAD_SCANNED", 1 << 20)
    monkeypatch.setattr(cpu_codes, "ONE_THREAD_SCANNED", 1 << 16)
    monkeypatch.setattr(cpu_codes, "ONE_THREAD_PRODUCTS", 1 << 16)
    fuzz(scans(("cpu", "cpu", "portable", "reference")), 50, fuzz_minutes, FIXED_SCANS)
    check_regimes(watch.seen, SCAN_REGIMES)


def test_a_failure_says_how_to_repeat_it() -> None:
    class Wrong(NamedTuple):
        n: int

        def check(self) -> None:
            assert self.n < 7

    with pytest.raises(AssertionError) as caught:
        fuzz(st.integers(0, 100).map(Wrong), 50, 0.0)
    notes = "".join(getattr(caught.value, "__notes__", ["Wrong(n=7).check()"]))
    assert "Wrong(n=7).check()" in notes, "and it shrinks"


def test_the_line_that_repeats_a_failure_works() -> None:
    line = repeat(FIXED_KNN[7]).replace("python", sys.executable, 1)
    line = line.replace("PYTHONPATH=tests:tests/fuzz", "PYTHONPATH=.:tests:tests/fuzz")
    root = Path(__file__).parents[2]
    subprocess.run(line, shell=True, check=True, cwd=root, timeout=300)
