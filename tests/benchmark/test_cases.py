"""Cases are what their table says they are."""
# pyright: reportMissingImports=false

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from flash_kmeans_mlx.benchmark import cases, text
from flash_kmeans_mlx.benchmark.cases import CASES, Case
from flash_kmeans_mlx.benchmark.runner import Settings
from flash_kmeans_mlx.benchmark.suites import SUITES

SMALL = [case for case in CASES if "real" not in case.tags]
TEXT = [case for case in CASES if case.make is cases.paragraphs]
REAL = [case for case in CASES if "real" in case.tags and case not in TEXT and not case.missing()]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_synthetic_data(case: Case) -> None:
    case = replace(case, N=max(500, 2 * case.K), B=min(case.B, 3))
    x = case.data()
    assert x.shape == (case.B, case.N, case.D) and x.dtype == np.float32 and np.isfinite(x).all()
    np.testing.assert_array_equal(x, case.data())


@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_real_data_has_the_shape_of_the_table(case: Case) -> None:
    x = case.data()
    assert x.shape == (case.B, case.N, case.D) and x.dtype == np.float32
    assert x.min() >= 0 and x.max() > 10
    start = case.start(x)
    assert start.shape == (case.B, case.K, case.D)
    assert len(np.unique(start[0], axis=0)) == case.K


@pytest.mark.parametrize("case", TEXT, ids=lambda case: case.name)
def test_text_gives_what_there_is(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PARAGRAPHS", 1500)
    x = case.data()
    assert x.shape == (1, 1500, case.D) and x.dtype == np.float32
    assert case.sized_like(x) == replace(case, N=1500)
    norms = np.linalg.norm(x[0], axis=1)
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    assert (norms > 0).mean() > 0.99  # few have no word that others have too
    assert replace(case, N=1200).data().shape == (1, 1200, case.D)
    few = replace(case, K=1000).sized_like(x[:, :600, :40])
    assert (few.N, few.D, few.K) == (600, 40, 600)


def test_text_with_few_words_has_few_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PARAGRAPHS", 200)
    x = replace(TEXT[0], N=200, D=1000, K=10).data()
    assert x.shape[1] == 200 and 20 < x.shape[2] < 300


def test_paragraphs_are_distinct_and_no_headings() -> None:
    found = text.paragraphs(1000)
    assert len(set(found)) == 1000 and found == text.paragraphs(1000)
    assert all(len(paragraph) >= 40 and "\n" not in paragraph for paragraph in found)


def test_files_that_are_no_python_have_no_text(tmp_path: Path) -> None:
    for name, content in {"two.py": b"print 'two'", "bytes.py": b"'\xff'"}.items():
        (tmp_path / name).write_bytes(content)
        assert list(text._docstrings(tmp_path / name)) == []
    (tmp_path / "three.py").write_text('"""One."""\nclass A:\n    """Two."""\n')
    assert list(text._docstrings(tmp_path / "three.py")) == ["One.", "Two."]


def test_sift_like_rows_are_integers_of_a_sift_norm() -> None:
    x = replace(next(case for case in CASES if case.name == "sift"), N=2048).data()[0]
    assert (x == np.rint(x)).all() and x.min() >= 0 and x.max() <= 255
    assert 400 < np.linalg.norm(x, axis=1).mean() < 520


def test_start_of_repeated_points_is_as_distinct_as_they_are() -> None:
    case = Case("repeats", 1, 40, 2, 3, 1, cases.gauss)
    x = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)[None]
    assert len(np.unique(case.start(x)[0], axis=0)) <= 2
    x[0, 0] = 7
    assert len(np.unique(case.start(x)[0], axis=0)) == 3


def test_start_has_unit_rows_where_the_metric_has_them() -> None:
    case = replace(cases.custom(50, 4, 5), metric="cosine")
    np.testing.assert_allclose(np.linalg.norm(case.start(case.data()), axis=-1), 1, rtol=1e-6)


def test_rounding_is_that_of_mlx() -> None:
    x = np.random.default_rng(0).standard_normal((1, 64, 33), dtype=np.float32) * 100
    ours = cases.round_to(x, "bfloat16")
    np.testing.assert_array_equal(
        ours, np.array(mx.array(x).astype(mx.bfloat16).astype(mx.float32))
    )
    assert cases.round_to(x, "float16").dtype == np.float32


def chosen(suite: str, names: str | None = None, **settings: Any) -> list[Any]:
    return SUITES[suite].choose(Settings(names, **settings))


def test_selection() -> None:
    assert {job.kind for job in chosen("kmeans")} == {"lloyd", "fit"}
    assert chosen("kmeans") == chosen("kmeans", "quick")
    names = [job.name for job in chosen("kmeans", "digits,fit:digits,digits")]
    assert names == ["digits", "fit:digits"]
    assert len(chosen("kmeans", "all")) == len(CASES)
    grid = chosen("kmeans", "grid")
    assert len({(job.case.make, job.case.N, job.case.D, job.case.K) for job in grid}) == 54
    assert grid[0].name == "gauss-5k-128-64" and "seeding" not in grid[0].description()
    with pytest.raises(ValueError, match=r"unknown case 'digit' of .*; known are quick, .*digits"):
        chosen("kmeans", "digit")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_quick_cases_and_describes_all(name: str) -> None:
    suite = SUITES[name]
    jobs = list(suite.jobs)
    assert suite.name == name and suite.question.endswith("?")
    quick = chosen(name)
    assert quick and all(job in jobs for job in quick)
    assert len({job.name for job in jobs}) == len(jobs) and all(job.description() for job in jobs)
    assert all(chosen(name, job.name) == [job] for job in jobs)


def test_settings_change_the_cases() -> None:
    [job] = chosen("kmeans", "gauss-5k", changes={"iters": 3, "metric": "dot"})
    assert job.case == replace(cases.CASES[3], iters=3, metric="dot")
    [job] = chosen("kmeans", shape={"n": 40, "d": 2, "k": 3, "b": 2})
    assert (job.case.B, job.case.N, job.case.D, job.case.K) == (2, 40, 2, 3)
    [job] = chosen("disk", "disk", shape={"n": 3000})
    assert job.n == 3000 and "3,000 x 128" in job.description()


def test_searches() -> None:
    assert {job.kind for job in chosen("neighbours", "knn")} == {"knn"}
    assert chosen("neighbours", "knn") == chosen("neighbours", "all")
    [job] = chosen("neighbours", "knn:sift-k10")
    case = replace(job.case, N=500, queries=20)
    assert (
        job.name == "knn:sift-k10"
        and case.shape("knn") == "20 queries, 500 x 128, k=10, euclidean, float32"
    )
    assert case.data().shape == (1, 500, 128) and case.query_points().shape == (1, 20, 128)
    itself = chosen("neighbours", "knn:self-100-3")[0].case
    np.testing.assert_array_equal(itself.query_points(), itself.data())


def test_impossible_cases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"K=9 must be <= N=8"):
        cases.custom(8, 2, 9)
    with pytest.raises(ValueError, match=r"iters=0 must be >= 1"):
        replace(cases.custom(8, 2, 2), iters=0)


def test_what_is_missing_is_named() -> None:
    case = Case("odd", 1, 4, 1, 2, 1, cases.gauss, needs=("no_such_module_here", "Odd"))
    assert case.missing() == "needs Odd: pip install odd"
