"""A progress bar for calls that take long: on a terminal or in a notebook, otherwise nothing."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SILENT", "Progress", "Timer", "open_progress"]

DELAY = 2.0  # seconds after which a call takes long
STEP = 0.1  # seconds between two updates of a bar
SHORT = 1e8  # products that take less than DELAY for certain

_screen = Lock()  # held by the bar that is shown


class Progress:
    """The progress of one call that nobody sees; a context manager."""

    def phase(self, name: str, number: int = 0, most: int = 0) -> None:
        """Say what is done from now on: a name, or "name NUMBER of at most MOST"."""

    def begin(self, total: float) -> None:
        """Begin a pass of so much work."""

    def advance(self, amount: float) -> None:
        """Add to the work that is done; any thread may."""

    def reach(self, done: float) -> None:
        """Correct the work that is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


SILENT = Progress()


class Timer:
    """A context that adds the time of its block, if it ends well, to one of the times by phase."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds = seconds
        self._phase = phase

    def __enter__(self) -> None:
        self._begin = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self._seconds[self._phase] += perf_counter() - self._begin


class Bar(Progress):
    """The progress of one call, as a bar that is removed at its end.

    A report takes less than a microsecond. Rich is imported for a bar that is shown, and draws it
    in a thread of its own.

    Attributes:
        total: The amount of work in the present pass; 0 if it is not known.
        done: The part of it that is done.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.done = 0.0
        self._phase: tuple[str, int, int] = "", 0, 0
        self._begin = perf_counter()
        self._next = self._begin + DELAY
        self._lock = Lock()
        self._bar: Any = None
        self._has_screen = False

    def phase(self, name: str, number: int = 0, most: int = 0) -> None:
        self._phase = name, number, most
        self.begin(0)

    def begin(self, total: float) -> None:
        self.total = total
        self.done = 0.0
        self.advance(0)

    def reach(self, done: float) -> None:
        self.advance(done - self.done)

    def advance(self, amount: float) -> None:
        with self._lock:
            self.done += amount
            now = perf_counter()
            if now >= self._next:
                self._next = now + STEP
                with suppress(OSError, UnicodeError):  # a bar must not end a fit
                    self._show()

    def _show(self) -> None:
        is_new = self._bar is None
        if is_new:
            self._has_screen = _screen.acquire(blocking=False)
            if not self._has_screen:
                return
            self._next = float("inf")  # unless there is a bar, in the end
            if find_spec("rich") is None:
                return
            self._bar = _bar(self._begin)
        name, number, most = self._phase
        self._bar.update(
            self._bar.task_ids[0],
            description=f"{name} {number} of at most {most}" if number else name,
            total=self.total or None,
            completed=min(self.done, self.total),
        )
        if is_new:
            self._bar.start()
            self._next = self._begin

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._next = float("inf")  # a thread may report a last task
        if self._has_screen:
            with suppress(OSError, UnicodeError):
                if self._bar is not None:
                    self._bar.stop()
            self._has_screen = False
            _screen.release()


def open_progress(
    phase: str = "", total: float = 0.0, *, products: float = float("inf")
) -> Progress:
    """Return the progress of a call that begins: `SILENT` where nobody would see a bar.

    That is in other processes than the first one, and with FLASH_KMEANS_PROGRESS=0.

    Args:
        phase: What is done first.
        total: The work of it.
        products: What the call computes; few take no time that is worth a bar.
    """
    if products < SHORT or not (_is_terminal(sys.stderr) or _is_notebook()):
        return SILENT
    import multiprocessing  # which takes a while: most calls end before

    if multiprocessing.current_process().name != "MainProcess":
        return SILENT
    if os.environ.get("FLASH_KMEANS_PROGRESS") == "0":
        return SILENT
    bar = Bar()
    bar.phase(phase)
    bar.begin(total)
    return bar


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _is_notebook() -> bool:
    """Return whether this is a kernel of Jupyter that can show bars."""
    ipython = sys.modules.get("IPython")
    if ipython is None or "ipykernel" not in sys.modules or not _has_widgets():
        return False
    return type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"


@cache
def _has_widgets() -> bool:
    return find_spec("ipywidgets") is not None


def _bar(begin: float) -> Any:
    """Return a bar for work that began at this time."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
    bar = Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=_is_terminal(sys.stdout),  # what goes to a file or a pipe still does
        get_time=perf_counter,
    )
    bar.add_task("")
    bar.tasks[0].start_time = begin
    return bar
