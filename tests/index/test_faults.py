"""Errors and interrupts anywhere in what changes or reads an index: it is as before or as after, and goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from small_indexes import MAKE, State, X, fingerprint, restore_index, state, trained, with_gaps

import flash_kmeans_mlx
from flash_kmeans_mlx.index import Index, load_index
from flash_kmeans_mlx.index.growing import Growing
from flash_kmeans_mlx.index.lock import Lock

# The metric of every kind. A rotation is tried around one kind of index.
KINDS = {
    kind: "cosine" if kind == "ivf" else "euclidean"
    for kind in MAKE
    if kind not in ("opq,ivf", "opq,pq")
}
PLACES = (str(Path(flash_kmeans_mlx.__file__).parent), contextlib.__file__)
ERRORS = (MemoryError, KeyboardInterrupt, OSError)
TRIALS = 16  # of a verb of an index
Print = tuple[Any, ...]


def fail(call: Callable[[], object], error: type[BaseException], at: int, how: str) -> int:
    """Call it, and raise `error` at an event of the package's code; the number of events until then, or of all.

    Args:
        call: It.
        error: What is raised.
        at: The event's number, -1 for none.
        how: Which events count: "calls" and returns, of C functions too; "lines"; "opcodes".
    """
    seen = 0

    def event(frame: Any, _kind: str, _arg: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(PLACES):
            return None
        frame.f_trace_opcodes = how == "opcodes"
        seen += 1
        if seen - 1 == at:
            raise error("injected")
        return event

    install: Any = sys.setprofile if how == "calls" else sys.settrace
    before = sys.getprofile() if how == "calls" else sys.gettrace()
    install(event)
    try:
        call()
    except error:
        return seen
    finally:
        install(before)
    return seen


VERBS: dict[str, Callable[[Index, Path], object]] = {
    "add": lambda index, _: index.add(X[200:260]),
    "add with ids": lambda index, _: index.add(X[200:260], np.arange(500, 560)[::-1]),
    "remove": lambda index, _: index.remove_ids(np.arange(1, 140, 2)),
    "remove all": lambda index, _: index.remove_ids(np.arange(2000)),
    "search": lambda index, _: index.search(X[:3], 5),
    "range search": lambda index, _: index.range_search(X[:3], 5.0),
    "reconstruct": lambda index, _: index.reconstruct_batch([1, 1003]),
    "save": lambda index, path: index.save(path),
    "train": lambda index, _: index.train(X),
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teams of threads and their ends are not what is tested here."""
    monkeypatch.setenv("FLASH_KMEANS_THREADS", "1")


@cache
def expected(kind: str, verb: str) -> tuple[State, Print, Print, Print]:
    """The state before a verb; fingerprints before it, after it, and after what follows."""
    index = MAKE[kind](KINDS[kind]) if verb == "train" else with_gaps(kind, KINDS[kind])
    start, before = state(index), fingerprint(index)
    with TemporaryDirectory() as folder:
        VERBS[verb](index, Path(folder) / "index")
    after = fingerprint(index)
    index.add(X[300:340])
    return start, before, after, fingerprint(index)


class Case:
    """A verb on an index, and what is right before and after it."""

    def __init__(self, kind: str, verb: str, path: Path) -> None:
        self.start, self.before, self.after, self.end = expected(kind, verb)
        self.name, self.path = verb, path
        if verb == "save":
            restore_index(*self.start).save(path)

    def verb(self, index: Index) -> None:
        VERBS[self.name](index, self.path)

    def fail(self, error: type[BaseException], at: int, how: str) -> int:
        """As `fail`, with a new index, which is checked afterwards."""
        index = restore_index(*self.start)
        seen = fail(lambda: self.verb(index), error, at, how)
        self.check(index, error, at, how)
        return seen

    def check(self, index: Index, *which: Any) -> None:
        """The index is in a right state, and goes on from there."""
        state = fingerprint(index)
        assert state in (self.before, self.after), which
        if state != self.after:
            self.verb(index)
            assert fingerprint(index) == self.after, which
        index.add(X[300:340])
        assert fingerprint(index) == self.end, which
        if self.name == "save":
            assert load_index(self.path).ntotal == self.before[0]


# An interrupt may leave a file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["calls", "lines", "opcodes"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_anywhere(kind: str, verb: str, how: str, tmp_path: Path) -> None:
    case = Case(kind, verb, tmp_path / "index")
    events = case.fail(MemoryError, -1, how)
    rng = np.random.default_rng(zlib.crc32(f"{kind} {verb} {how}".encode()))
    for i, at in enumerate(rng.choice(events, min(events, TRIALS), replace=False).tolist()):
        case.fail(ERRORS[i % len(ERRORS)], at, how)


@pytest.mark.parametrize("allowed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_no_memory_to_grow(kind: str, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index, reference = (with_gaps(kind, KINDS[kind]) for _ in range(2))
    reserve, left = Growing.reserve, iter(range(allowed))

    def refuse(array: Growing, n: int) -> None:
        if n > len(array.array) and next(left, None) is None:
            raise MemoryError
        reserve(array, n)

    added = 0
    with monkeypatch.context() as patch, contextlib.suppress(MemoryError):
        patch.setattr(Growing, "reserve", refuse)
        while added < 20:
            index.add(X)
            added += 1
    assert added < 20
    for _ in range(added):
        reference.add(X)
    assert fingerprint(index) == fingerprint(reference)
    for one in (index, reference):
        one.add(X)
        one.remove_ids(np.arange(1, 500, 2))
    assert fingerprint(index) == fingerprint(reference)


@pytest.mark.parametrize("kind", KINDS)
def test_readers_keep_what_they_began_with(kind: str) -> None:
    rng = np.random.default_rng(0)
    index = trained(kind, KINDS[kind])
    readers: list[tuple[Index, Print]] = []
    for _ in range(120):
        if rng.random() < 0.5:
            index.add(X[rng.integers(400, size=rng.integers(1, 90))])
        else:
            index.remove_ids(
                rng.integers(max(1, index.ntotal), size=rng.integers(1, 90))
                + index._snapshot.next_id // 3
            )
        reader = index._reader()
        readers.append((reader, fingerprint(reader)))
        while len(readers) > 6:  # some read for long, most do not
            reader, seen = readers.pop(
                int(rng.integers(3, len(readers))) if rng.random() < 0.9 else 0
            )
            assert fingerprint(reader) == seen
    for reader, seen in readers:
        assert fingerprint(reader) == seen


def test_a_lock_that_is_interrupted_is_free() -> None:
    for how in ("calls", "lines", "opcodes"):
        events = fail(lambda: Lock().run(int), KeyboardInterrupt, -1, how)
        for at in range(events):
            lock = Lock()
            fail(lambda: lock.run(int), KeyboardInterrupt, at, how)  # noqa: B023
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(lock.run, int).result(timeout=10) == 0, (how, at)
    assert events > 20


def test_one_call_at_a_time() -> None:
    lock, inside = Lock(), []

    def call() -> None:
        inside.append(1)
        time.sleep(0.001)
        assert inside.pop() and not inside

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(lock.run, call) for _ in range(40)]:
            future.result(timeout=10)
    with pytest.raises(RuntimeError, match="can't be changed within a change of it"):
        lock.run(lambda: lock.run(int))
    assert lock.run(int) == 0


SCRIPT = """
import signal, sys, time
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import numpy as np
from test_faults import KINDS, VERBS, Case, restore_index

folder, rounds = Path(sys.argv[3]), int(sys.argv[4])
cases, took = {}, {}
for kind in KINDS:
    for verb in VERBS:
        case = cases[kind, verb] = Case(kind, verb, folder / f"{kind} {verb}")
        index, begin = restore_index(*case.start), time.perf_counter()
        case.verb(index)
        took[kind, verb] = time.perf_counter() - begin
rng, interrupted = np.random.default_rng(0), 0
for _ in range(rounds):
    for which, case in cases.items():
        index = restore_index(*case.start)
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, took[which]))
            case.verb(index)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        case.check(index, which)
print(interrupted)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no timers that send signals")
def test_interrupts_at_any_time(tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = f"import signal\nsignal.signal(signal.SIGALRM, signal.default_int_handler)\n{SCRIPT}"
    rounds = 8
    done = subprocess.run(
        [sys.executable, "-c", script, str(here), str(here.parent), str(tmp_path), str(rounds)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > rounds * len(KINDS) * len(VERBS) // 4
