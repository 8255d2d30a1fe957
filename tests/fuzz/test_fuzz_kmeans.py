"""A differential test of k-means: random problems on every way through the CPU backend, judged in float64 and bit by bit.

Sizes at which the backend changes its way are made small, so that every way is taken by problems of a few milliseconds; some
problems of real size follow. A way that no problem took fails the test, and so does a new field of the plan without a row in
`REGIMES`. One failure prints the line that repeats it; `--fuzz-minutes` goes on with random problems.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
from engine import attack, checked, random_numbers
from helpers import METRICS, every_metric
from kmeans_cases import Case, real_cases, seldom_cases, small_cases
from kmeans_checks import check
from kmeans_regimes import REGIMES, Seen, missed

from flash_kmeans_mlx.backends.cpu.plan import Plan

SMALL, REAL = 120, 10  # problems of each metric in every run


@every_metric
def test_every_regime(metric: str, fuzz_case: str) -> None:
    if fuzz_case:
        check(Case.parsed(fuzz_case))
        return
    fields = {field.name for field in dataclasses.fields(Plan)}
    assert fields <= REGIMES.keys(), "a field of the plan that no row is about"
    seen: Seen = set()
    watched = partial(check, seen=seen)
    for case in seldom_cases(metric):
        checked(case, watched, Case.repeat)
    attack(small_cases(metric), watched, SMALL, Case.repeat)
    assert not missed(seen, metric), f"no problem met {missed(seen, metric)}"


@every_metric
def test_real_sizes(metric: str) -> None:
    attack(real_cases(metric), check, REAL, Case.repeat)


def test_random_problems(fuzz_minutes: float) -> None:
    for number in random_numbers(fuzz_minutes):
        metric = METRICS[number % len(METRICS)]
        attack(small_cases(metric), check, 50, Case.repeat, number)
        attack(real_cases(metric), check, 5, Case.repeat, number)


def test_a_failure_says_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(case: Case) -> None:
        assert case.n < 7

    with pytest.raises(AssertionError) as caught:
        attack(small_cases("dot"), wrong, 50, Case.repeat)
    said = "".join(getattr(caught.value, "__notes__", [])) + capsys.readouterr().out
    text = said.split('--fuzz-case "')[1].split('"')[0]
    case = Case.parsed(text)
    assert case.n >= 7 and case.k == case.b == 1, "and it shrinks"
