"""Contestants in their own processes: only a right result gets a time."""
# pyright: reportMissingImports=false

from pathlib import Path

import numpy as np
import pytest
import wrong_contestants as wrong
from flash_kmeans_mlx.benchmark import cases, timing
from flash_kmeans_mlx.benchmark.cases import KMeansJob
from flash_kmeans_mlx.benchmark.contestants import Contestant
from flash_kmeans_mlx.benchmark.memory import Peak, bound
from flash_kmeans_mlx.benchmark.ours import FlashKMeansMLX
from flash_kmeans_mlx.benchmark.peers import Matmul, ScikitLearn
from flash_kmeans_mlx.benchmark.process import WorkerError, WorkerProcess, environment
from flash_kmeans_mlx.benchmark.runner import Settings
from flash_kmeans_mlx.benchmark.suites import judged
from flash_kmeans_mlx.benchmark.suites.judged import JudgedWork
from flash_kmeans_mlx.benchmark.suites.judged_rows import JudgedResult
from flash_kmeans_mlx.benchmark.timing import median, quantile, repeats


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(timing, "SETTLE", 0.0)


def run(
    case: cases.Case, contestants: list[Contestant], kind: str = "lloyd", seeding: bool = False
) -> JudgedResult:
    settings = Settings(threads=1, runs=1, seeding=seeding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged, "contestants", lambda _: contestants)
        [result] = judged.run(KMeansJob(case, kind), settings, lambda result, doing: None)
    return result


def test_only_right_results_get_a_time() -> None:
    case = cases.custom(300, 5, 4, b=2, iters=2)
    who: list[Contestant] = [
        wrong.Honest(),
        wrong.OneWrongLabel(),
        wrong.Boaster(),
        wrong.Eager(),
        wrong.Broken(),
        wrong.Talkative(),
        wrong.Absent(),
    ]
    rows = {row.name: row for row in run(case, who).rows}
    assert rows["honest"].times and rows["talkative"].times
    assert rows["honest"].cold is not None and rows["honest"].regret == 0
    for name in ("one wrong label", "boaster", "eager", "broken", "absent"):
        assert not rows[name].times
    assert rows["one wrong label"].problem.startswith("wrong: label regret")
    assert rows["boaster"].problem.startswith("wrong: reports inertia")
    assert rows["eager"].problem == "wrong: 3 iterations where 2 were asked for"
    assert rows["broken"].problem == "failed: RuntimeError: out of order"
    assert rows["absent"].problem == "not installed"


def test_a_start_kept_is_worse_than_a_start_improved() -> None:
    case = cases.custom(2000, 4, 3, iters=20)
    rows = {row.name: row for row in run(case, [ScikitLearn(), wrong.Honest()]).rows}
    assert rows["scikit-learn"].times
    assert "of the best from this start" in rows["honest"].problem


def test_ours_against_scikit_learn_with_seeding_and_memory() -> None:
    case = cases.custom(700, 6, 5, b=2, iters=4)
    result = run(case, [FlashKMeansMLX(), ScikitLearn(), Matmul()], seeding=True)
    assert [row.problem for row in result.rows] == [""] * 5
    ours, standard = result.base("lloyd"), result.standard("lloyd")
    assert ours is not None and standard is not None and standard.contestant.name == "scikit-learn"
    assert ours.name.startswith("flash-kmeans-mlx (")
    assert ours.inertia == pytest.approx(standard.inertia, rel=1e-4)
    assert result.memory is not None and result.memory >= 0
    assert all(np.isfinite(row.inertia) for row in result.section("seeding"))


def test_fewer_points_than_the_case_asks_for() -> None:
    def make(case: cases.Case, rng: np.random.Generator) -> np.ndarray:
        return cases.gauss(cases.replace(case, N=40, K=5), rng)

    case = cases.replace(cases.custom(80, 3, 50, iters=1), make=make)
    result = run(case, [wrong.Honest()])
    assert not result.rows[0].problem and result.title().startswith("custom: 40 x 3, K=40,")
    assert "only 40 x 3 of 80 x 3 values can be made here" in result.notes()[0]


def test_whole_fits() -> None:
    result = run(cases.custom(500, 4, 6), [FlashKMeansMLX(), ScikitLearn()], kind="fit")
    assert [row.problem for row in result.rows] == ["", ""]
    assert all(row.n_iter > 0 for row in result.rows)


def test_a_named_backend_that_does_not_exist_says_so() -> None:
    (row,) = run(cases.custom(50, 4, 6, iters=1), [FlashKMeansMLX("nonsense")]).rows
    assert row.problem.startswith("failed: ValueError: backend='nonsense'")


def test_worker_that_ends_early_is_reported_at_the_next_request(tmp_path: Path) -> None:
    with WorkerProcess(JudgedWork, wrong.Honest(), 1, tmp_path) as worker:
        with pytest.raises(WorkerError, match=r"AttributeError: .*'points'"):
            worker.ask(op="memory")
        with pytest.raises(WorkerError, match=r"AttributeError: .*'points'"):
            worker.ask(op="memory")


def test_threads_are_set_for_everyone() -> None:
    variables = environment(3)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "FLASH_KMEANS_THREADS")
    assert {variables[name] for name in names} == {"3"}


def test_times() -> None:
    times = (3.0, 1.0, 2.0)
    assert median(times) == 2 and quantile(times, 0.2) == pytest.approx(1.4)
    assert repeats(1e-4) == 20 and repeats(0.02) == 2 and repeats(3) == 1


def test_peak_sees_an_allocation_that_is_gone() -> None:
    peak = Peak()
    np.ones(8_000_000).sum()
    assert peak.beyond() > 40_000_000
    assert bound(2, 10, 3, 64) == 64_000_000 + (16 + 4 + 12) * 20 + 4 * 2 * 64 * 3 * 8
    assert bound(1, 10, 768, 5) - bound(1, 10, 64, 5) == 4 * 5 * (768 - 64) * 8
