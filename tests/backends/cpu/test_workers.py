"""Threads of one fit."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import closing, suppress

import pytest

from flash_kmeans_mlx.backends.cpu.workers import Workers, thread_count


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("flash-kmeans")]


@pytest.fixture(params=[1, 2, 5], ids=lambda n: f"threads{n}")
def workers(request: pytest.FixtureRequest):
    team = Workers(request.param)
    yield team
    team.close()
    assert not ours()


def test_thread_count_is_the_variable_or_what_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "7")
    assert thread_count() == 7
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("FLASH_KMEANS_THREADS")
        else:
            monkeypatch.setenv("FLASH_KMEANS_THREADS", unset)
        assert 1 <= thread_count() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 4})
        assert thread_count() == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "²"])
def test_a_senseless_variable_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASH_KMEANS_THREADS", value)
    with pytest.raises(
        ValueError, match=f"FLASH_KMEANS_THREADS={value!r} must be a whole number >= 1"
    ):
        thread_count()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_every_task_runs_once(n: int, workers: Workers) -> None:
    done: list[int] = []
    for times in (1, 2):
        workers.run(lambda _slot, i: done.append(i), n)
        assert sorted(done) == sorted(list(range(n)) * times)


def test_a_slot_belongs_to_one_thread_at_a_time(workers: Workers) -> None:
    seen: list[tuple[int, int]] = []
    busy = [threading.Lock() for _ in range(workers.n)]

    def task(slot: int, _i: int) -> None:
        assert busy[slot].acquire(blocking=False)
        seen.append((slot, threading.get_ident()))
        busy[slot].release()

    workers.run(task, 500)
    assert len(seen) == 500
    assert all(count == 1 for count in Counter(slot for slot, _ in set(seen)).values())


def test_as_many_threads_work_as_there_are(workers: Workers) -> None:
    """Each task waits for all the others: it can only end if they run at once."""
    meeting = threading.Barrier(workers.n, timeout=30)
    workers.run(lambda _slot, _i: meeting.wait(), workers.n)


def test_no_threads_are_started_for_one_task(workers: Workers) -> None:
    names: list[str] = []
    workers.run(lambda _slot, _i: names.append(threading.current_thread().name), 1)
    assert names == [threading.current_thread().name] and not ours()


@pytest.mark.parametrize("bad", [0, 3, 17])
def test_what_a_task_raises_comes_out_once_all_have_stopped(bad: int, workers: Workers) -> None:
    running = Counter[str]()

    def task(_slot: int, i: int) -> None:
        running["begun"] += 1
        if i == bad:
            raise KeyError("the task's own")
        running["ended"] += 1

    with pytest.raises(KeyError, match="the task's own"):
        workers.run(task, 10_000)
    assert running["begun"] == running["ended"] + 1 < 10_000
    done: list[int] = []
    workers.run(lambda _slot, i: done.append(i), 50)
    assert len(done) == 50


def test_nobody_works_after_an_error_came_out() -> None:
    team = closing(Workers(3))
    all_begun, ended = threading.Barrier(3, timeout=30), threading.Event()

    def task(slot: int, _i: int) -> None:
        all_begun.wait()
        if slot == 1:
            raise KeyError("at once")
        if slot == 2:
            ended.wait(0.3)  # busy for a while
            ended.set()

    with team as threads:
        with pytest.raises(KeyError, match="at once"):
            threads.run(task, 3)
        assert ended.is_set()


def test_an_interrupt_stops_the_others_too(workers: Workers) -> None:
    caller, begun = threading.get_ident(), threading.Event()
    count = Counter[str]()

    def task(_slot: int, _i: int) -> None:
        if threading.get_ident() == caller:
            assert workers.n == 1 or begun.wait(30)
            raise KeyboardInterrupt
        count["helpers"] += 1
        begun.set()

    with pytest.raises(KeyboardInterrupt):
        workers.run(task, 100_000_000)
    after = count["helpers"]
    assert after < 100_000_000
    workers.close()
    assert count["helpers"] == after


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(5))
def test_an_interrupt_leaves_the_caller_where_it_may_run(
    nth: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around the nth time that the caller is moved, or within a task (0)."""
    before, caller, pin = os.sched_getaffinity(0), threading.get_ident(), os.sched_setaffinity
    moves: list[set[int]] = []

    def move(pid: int, cpus: set[int]) -> None:
        mine = threading.get_ident() == caller
        moves.extend([cpus] * mine)
        hit = mine and len(moves) == nth
        if hit and when == "before":
            raise KeyboardInterrupt
        pin(pid, cpus)
        if hit:
            raise KeyboardInterrupt

    def task(_slot: int, _i: int) -> None:
        if nth == 0 and threading.get_ident() == caller:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "sched_setaffinity", move)
    with closing(Workers(2)) as team:
        with suppress(KeyboardInterrupt):
            team.run(task, 2, lambda: None)
        assert os.sched_getaffinity(0) == before
        team.run(lambda _slot, _i: None, 2)
    assert moves or len(before) < 2


def test_a_task_runs_no_tasks(workers: Workers) -> None:
    with pytest.raises(RuntimeError, match="a task can't run tasks"):
        workers.run(lambda _slot, _i: workers.run(lambda _s, _j: None, 3), 3)
    workers.run(lambda _slot, _i: None, 3)


def test_closing_joins_and_can_be_repeated() -> None:
    team = Workers(3)
    team.run(lambda _slot, _i: None, 10)
    assert 1 <= len(ours()) <= 2
    team.close()
    team.close()
    assert not ours()
    done: list[int] = []
    team.run(lambda _slot, i: done.append(i), 10)
    team.close()
    assert len(done) == 10 and not ours()
