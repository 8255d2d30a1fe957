"""The runner of all suites: what a suite is, and how its contestants are asked in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from . import report, timing
from .cases import Job
from .contestants import Array, Contestant
from .ours import FlashKMeansMLX
from .process import WorkerError, WorkerProcess
from .worker import Work


@dataclass(frozen=True)
class Settings:
    """Settings of a whole run, from the command line.

    Attributes:
        case: Names of cases and groups, separated by commas. None for ``quick``.
        threads: Threads of every contestant.
        runs: Warm runs that are timed. None for the suite's usual number.
        warmup: Runs between the cold one and the timed ones.
        seeding: Whether k-means++ is timed on every case.
        backends: Our backends. None is the best one of the machine.
        sklearn: Whether scikit-learn takes part.
        shape: ``n``, ``d``, ``k`` and ``b`` of a case, those that are given.
        changes: ``iters``, ``metric`` and ``dtype`` that replace the case's own.
    """

    case: str | None = None
    threads: int = 1
    runs: int | None = None
    warmup: int = 0
    seeding: bool = False
    backends: tuple[str | None, ...] = (None,)
    sklearn: bool = True
    shape: dict[str, int] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """One contestant in one result.

    Attributes:
        contestant: The contestant.
        problem: Why there are no figures: not installed, failed or wrong. Empty if there are.
    """

    contestant: Contestant
    problem: str = ""

    @property
    def name(self) -> str:
        """The contestant's name in tables."""
        return self.contestant.name

    @property
    def ours(self) -> bool:
        """Whether the row is that of this package, with which the others are compared."""
        return isinstance(self.contestant, FlashKMeansMLX)

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        figures = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        return {"contestant": self.contestant.name, "verdict": self.problem or "ok", **figures}


@dataclass
class Result:
    """The result of a job, or of a part of it: one row for each contestant and thing it did."""

    job: Any
    rows: list[Any]

    def title(self) -> str:
        """Return the title of the table."""
        return f"{self.job.name}: {self.job.description()}"

    def cells(self, row: Any) -> dict[str, str]:
        """Return the cells of a row by their columns."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Return the lines under the table: why a row has no figures."""
        return list(dict.fromkeys(f"{row.name}: {row.problem}" for row in self.rows if row.problem))

    def table(self, width: int) -> RenderableType:
        """Return a table of what is known so far, for a terminal of this width."""
        cells = [self.cells(row) for row in self.rows]
        return report.table(self.title(), cells, self.notes(), width)

    def figures(self) -> dict[str, Any]:
        """Return what stands in a result file beside the rows."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        rows = [row.as_json() for row in self.rows]
        return {"case": self.job.name, **self.figures(), "rows": rows}


Show = Callable[[Any, str], None]


@dataclass(frozen=True)
class Suite:
    """A set of jobs that answer one question.

    Attributes:
        name: The name for ``--suite``.
        question: The question, for ``--list``.
        legend: An explanation of the tables, with ``{runs}`` for the number of runs.
        jobs: All jobs.
        run: Runs a job and returns its results. Its third argument shows a result and what comes
            next, which is empty when the result is complete.
        plot: Draws the contents of a result file. Raises ValueError if there is nothing to draw.
        adapt: Changes the chosen jobs as the settings say. Raises ValueError if they don't suit.
        groups: Jobs that have a common name, also others than `jobs`.
        options: Options of the command line that it takes besides those of every suite.
        usual_runs: Warm runs that are timed by default.
    """

    name: str
    question: str
    legend: str
    jobs: Sequence[Job]
    run: Callable[[Any, Settings, Show], list[Any]]
    plot: Callable[[dict[str, Any], Path], None]
    adapt: Callable[[list[Any], Settings], list[Any]] = lambda jobs, settings: jobs
    groups: Mapping[str, Sequence[Job]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    usual_runs: int = 5

    def all_groups(self) -> Mapping[str, Sequence[Job]]:
        """Return the groups; without others, ``quick`` and ``all`` are all jobs."""
        return self.groups or {"quick": self.jobs, "all": self.jobs}

    def known(self) -> dict[str, Sequence[Job]]:
        """Return the jobs by the names of groups and of jobs."""
        groups = self.all_groups()
        every = [*self.jobs, *(job for jobs in groups.values() for job in jobs)]
        return {**groups, **{job.name: [job] for job in every}}

    def choose(self, settings: Settings) -> list[Any]:
        """Return the jobs for ``--case``, in order and without repeats.

        Raises:
            ValueError: A name is unknown, or a setting doesn't suit the jobs.
        """
        known = self.known()
        chosen: list[Job] = []
        for name in (settings.case or "quick").split(","):
            if name not in known:
                names = ", ".join([*self.all_groups(), *(job.name for job in self.jobs)])
                raise ValueError(
                    f"unknown case {name!r} of the suite {self.name}; known are {names}"
                )
            chosen += [job for job in known[name] if job not in chosen]
        return self.adapt(chosen, settings)


class Workers(ExitStack):
    """The worker processes of a job, one for each contestant; only one of them works at a time.

    Args:
        work: What the processes do.
        rows: The rows, one or more for each contestant.
        threads: Threads of each process.
        show: Called before every request with what comes next.

    Attributes:
        folder: A temporary folder for data that go between the processes.
    """

    def __init__(
        self, work: type[Work], rows: Sequence[Row], threads: int, show: Callable[[str], None]
    ) -> None:
        super().__init__()
        folder = tempfile.TemporaryDirectory(prefix="flash-kmeans-benchmark-")
        self.folder = Path(self.enter_context(folder))
        self.show = show
        self._work = work
        self._rows = rows
        self._threads = threads
        self._processes: dict[Contestant, WorkerProcess] = {}
        self._loaded: dict[str, Any] = {}

    def _start(self, contestant: Contestant) -> WorkerProcess:
        return WorkerProcess(self._work, contestant, self._threads, self.folder)

    def load(self, arrays: Mapping[str, Array], **options: Any) -> None:
        """Save arrays and have every process load them by the paths that it gets."""
        self.show("loading the data")
        for name, array in arrays.items():
            np.save(self.folder / f"{name}.npy", array)
        paths = {name: str(self.folder / f"{name}.npy") for name in arrays}
        self._loaded = {"op": "load", **paths, **options}
        # All processes import their libraries at the same time, while nothing is timed.
        for contestant in dict.fromkeys(row.contestant for row in self._rows if not row.problem):
            if contestant not in self._processes:
                self._processes[contestant] = self.enter_context(self._start(contestant))
        for contestant, process in self._processes.items():
            try:
                process.ask(**self._loaded)
            except WorkerError as error:
                self._fail(contestant, error)

    def ask(
        self, row: Row, op: str, doing: str = "", alone: bool = False, **arguments: Any
    ) -> dict[str, Any]:
        """Ask a row's process, after a pause in which the others come to rest.

        ``doing`` is shown meanwhile. With ``alone`` a new process answers, which has only loaded
        the data. If a process fails, all rows of its contestant get the problem. The answer is
        empty if the row has a problem.
        """
        if row.problem:
            return {}
        self.show(f"{row.name}, {doing or op}")
        time.sleep(timing.SETTLE)
        try:
            if not alone:
                return self._processes[row.contestant].ask(op=op, **arguments)
            with self._start(row.contestant) as process:
                process.ask(**self._loaded)
                return process.ask(op=op, **arguments)
        except WorkerError as error:
            self._fail(row.contestant, error)
            return {}

    def _fail(self, contestant: Contestant, error: WorkerError) -> None:
        for row in self._rows:
            if row.contestant == contestant and not row.problem:
                row.problem = f"failed: {error}"


def run(suite: Suite, jobs: Sequence[Job], settings: Settings, screen: Console) -> list[Any]:
    """Run jobs of a suite, with tables that fill up meanwhile."""
    results: list[Any] = []
    for job in jobs:
        missing = job.missing()
        if missing:
            screen.print(f"{job.name}: not run, {missing}\n")
            continue
        with Live(console=screen, auto_refresh=False, transient=True) as live:

            def show(result: Any, doing: str, live: Live = live) -> None:
                table = result.table(screen.width)
                if doing:
                    live.update(Group(table, Text(f"... {doing}", style="dim")), refresh=True)
                else:
                    live.update("", refresh=True)
                    live.console.print(table, "")

            results += suite.run(job, settings, show)
    return results
