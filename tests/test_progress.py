"""The bar of long calls: what it shows, where there is none, and that it leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import flash_kmeans_mlx as fk
from flash_kmeans_mlx import progress as bars
from flash_kmeans_mlx.backends.cpu import codes, scan
from flash_kmeans_mlx.index import IndexIVFFlat, IndexPQ
from flash_kmeans_mlx.kmeans import assign as assignment
from flash_kmeans_mlx.kmeans import fit as fitting
from flash_kmeans_mlx.neighbours import api as searching
from flash_kmeans_mlx.progress import SILENT, Bar
from flash_kmeans_mlx.sklearn import MiniBatchKMeans, minibatch, rows

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30_000, 16), np.float32)
Seen = list[tuple[str, float, float]]


class Watched(Bar):
    """A progress that is shown in a list."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen
        self._next = 0.0

    def _show(self) -> None:
        self._next = 0.0
        name, number, most = self._phase
        text = f"{name} {number} of at most {most}" if number else name
        self.seen.append((text, self.done, self.total))


def watched(seen: Seen, phase: str = "", total: float = 0.0, products: float = 0.0) -> Watched:
    """Stand in for `open_progress`, which shows no bar for few products."""
    bar = Watched(seen)
    if phase:
        bar.phase(phase)
        bar.begin(total)
    return bar


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the bars of this test show: (phase, done, total)."""
    found: Seen = []
    for module in (assignment, fitting, searching):
        monkeypatch.setattr(module, "open_progress", lambda *a, **b: watched(found, *a, **b))
    return found


def phases(seen: Seen) -> list[str]:
    names = [name for name, _, _ in seen]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_a_fit(seen: Seen, init: str, source: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    x: Any = tmp_path / "x.npy" if source else X
    result = fk.batch_kmeans_Euclid(x, 700, 3, init=init, backend="cpu")
    wanted = ["reading", "seeding", *(f"iteration {i} of at most 3" for i in (1, 2, 3))]
    assert phases(seen) == wanted
    for name in wanted[2:]:  # it stands still for no pass
        shares = {done / total for text, done, total in seen if text == name and total}
        assert len(shares) > 8 and max(shares) == pytest.approx(1)
    if init != "random":
        assert sum(name == "seeding" for name, _, _ in seen) > 8
    seen.clear()
    labels = fk.assign(x, result.centroids, backend="cpu")
    assert phases(seen) == ["reading", "labelling"] and len(seen) > 8
    np.testing.assert_array_equal(labels, result.labels)


@pytest.mark.parametrize("metric", ["euclidean", "l1", "cosine"])
@pytest.mark.parametrize("d", [3, 16, 64])
def test_a_search(seen: Seen, metric: str, d: int) -> None:
    data = RNG.standard_normal((20_000, d), np.float32)
    fk.knn(data[:2000], data, 5, metric, backend="cpu")
    assert phases(seen) == ["searching"]
    assert seen[-1][1] > 0.8 * seen[-1][2] == 0.8 * len(data)


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_a_search_in_an_index(seen: Seen, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scan, codes):
        monkeypatch.setattr(module, "open_progress", lambda *a, **b: watched(seen, *a, **b))
    make = {"ivf": lambda: IndexIVFFlat(16, 20, nprobe=20), "pq": lambda: IndexPQ(16, 4, 4)}
    index = make[kind]()
    index.train(X[:5000])
    index.add(X)
    seen.clear()
    index.search(X[:3000], 5)
    assert {"searching"} == set(phases(seen)) and max(done for _, done, _ in seen) > 2


def test_mini_batches(seen: Seen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (rows, minibatch):
        monkeypatch.setattr(module, "open_progress", lambda *a, **b: watched(seen, *a, **b))
    np.save(tmp_path / "x.npy", X)
    model: Any = MiniBatchKMeans(7, random_state=0, max_iter=3, init="random")
    model.fit(tmp_path / "x.npy")
    assert phases(seen)[:2] == ["reading", "seeding"] and phases(seen)[-1] == "labelling"
    assert max(done for name, done, _ in seen if name == "batches") == model.n_steps_


def test_bits_are_the_same_with_a_bar(seen: Seen) -> None:
    labels, centroids, _ = fk.batch_kmeans_Euclid(X, 90, 5, backend="cpu")
    assert seen
    again = fk.batch_kmeans_Euclid(X, 90, 5, backend="cpu", verbose=True)  # which has none
    np.testing.assert_array_equal(labels, again.labels)
    np.testing.assert_array_equal(centroids, again.centroids)


CALL = """
import sys, time
import numpy as np
import flash_kmeans_mlx as fk
from flash_kmeans_mlx import progress

progress.DELAY = float(sys.argv[1])
x = np.random.default_rng(0).standard_normal((60_000, 32)).astype(np.float32)
np.save("x.npy", x)

def slow(i):
    time.sleep(0.3)
    print(i.n_iter)
    if sys.argv[2] == "error" and i.n_iter == 3:
        raise KeyboardInterrupt

try:
    fk.batch_kmeans_Euclid("x.npy", 500, 4, callback=slow, backend="cpu")
    if sys.argv[2] == "two":
        fk.batch_kmeans_Euclid("x.npy", 500, 4, callback=slow, backend="cpu")
except KeyboardInterrupt:
    print("interrupted")
assert progress._screen.acquire(blocking=False)
print("rich" in sys.modules)
"""


def on_terminal(folder: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    """Return what CALL prints, and what a terminal shows that is its standard error."""
    import pty

    ours, theirs = pty.openpty()
    chunks: list[bytes] = []

    def read() -> None:
        while True:
            try:
                chunk = os.read(ours, 1 << 16)
            except OSError:
                return
            if not chunk:
                return
            chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    plain = {name: v for name, v in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-c", CALL, *arguments],
        cwd=folder,
        env=plain | {"TERM": "xterm", "COLUMNS": "100"} | environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        said, _ = process.communicate(timeout=300)
    reader.join()
    os.close(ours)
    shown = b"".join(chunks).decode()
    assert process.returncode == 0, shown
    return said, shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("how", ["", "error", "two"])
def test_on_a_terminal(tmp_path: Path, how: str) -> None:
    said, shown = on_terminal(tmp_path, "0.2", how)
    lines = {"": "1234", "error": "123", "two": "12341234"}[how]
    assert said.split() == [*lines, *(["interrupted"] if how == "error" else []), "True"]
    assert "iteration 2 of at most 4" in shown and "%" in shown
    assert "Traceback" not in shown
    # The cursor is back each time.
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1 + (how == "two")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("off", ["short", "environment"])
def test_nothing_on_a_terminal(tmp_path: Path, off: str) -> None:
    environment = {"FLASH_KMEANS_PROGRESS": "0"} if off == "environment" else {}
    said, shown = on_terminal(tmp_path, "100" if off == "short" else "0", "", **environment)
    assert (said.split(), shown) == ([*"1234", "False"], "")


def test_no_terminal_no_bar(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALL, "0", ""],
        cwd=tmp_path,
        env=dict(os.environ) | {"FORCE_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [*"1234", "False"], "")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Bar]]:
    """Make progress that is drawn at once."""
    monkeypatch.setattr(bars, "DELAY", 0.0)
    yield Bar
    assert bars._screen.acquire(blocking=False)
    bars._screen.release()


def test_without_rich(drawn: Callable[[], Bar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with drawn() as progress:
        progress.phase("seeding")
        progress.advance(1)
    assert progress._bar is None


def test_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = ModuleType("IPython")
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    for has_widgets in (True, False):
        monkeypatch.setattr(bars, "_has_widgets", lambda has=has_widgets: has)
        assert (bars.open_progress() is SILENT) != has_widgets


def test_a_late_report_shows_no_bar(drawn: Callable[[], Bar]) -> None:
    with drawn() as progress:
        pass
    progress.advance(1)
    assert progress._bar is None


def test_one_bar_at_a_time(drawn: Callable[[], Bar]) -> None:
    with drawn() as outer:
        outer.phase("outer")
        assert outer._bar is not None
        with drawn() as inner:
            inner.phase("inner")
            assert inner._bar is None
        assert outer._bar.live.is_started
    assert not outer._bar.live.is_started


def test_who_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert bars.open_progress() is SILENT
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert bars.open_progress() is not SILENT
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-1")
    assert bars.open_progress() is SILENT
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)
    assert bars.open_progress() is SILENT
