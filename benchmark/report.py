"""Text on the terminal and result files, the same for all suites."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from . import machine

FORMAT = "flash-kmeans-mlx benchmark"
FORMAT_VERSION = 1
_NARROW = 100
_WIDE_ONLY = {"cold", "p20-p80"}
_LEFT = {"contestant", "result", "way", "base", "index"}  # columns of words


def console() -> Console:
    """Return standard output, wide enough for the tables where it isn't a terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, 130))


def header(threads: int) -> str:
    """Return the machine and the packages in words."""
    where = machine.describe()
    packages = ", ".join(f"{name} {version}" for name, version in machine.versions().items())
    return (
        f"{where['cpu']}, {where['cores']} CPUs, {where['system']}, Python {where['python']},"
        f" {threads} threads for each contestant\n{packages}\n"
    )


def seconds(value: float | None) -> str:
    """Return a time with its unit, to three digits."""
    if value is None:
        return ""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if value * factor < 999.5:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def table(title: str, rows: Sequence[Mapping[str, str]], notes: Iterable[str], width: int) -> Group:
    """Return a table with a column for each key of its rows, and lines of text under it."""
    view = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if width < _NARROW:
        names = [name for name in names if name not in _WIDE_ONLY]
    for name in names:
        view.add_column(name, justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in rows:
        view.add_row(*(row.get(name, "") for name in names))
    # A table's own title would be broken to the table's width.
    heading = [Text(title, style="bold")] if title else []
    return Group(*heading, view, *(Text(note, style="dim") for note in notes))


def listing(suites: Iterable[Any]) -> Table:
    """Return a table of the cases of all suites."""
    view = Table(title="--suite SUITE --case NAME[,NAME...]", title_justify="left")
    for name in ("suite", "case", "problem", "groups"):
        view.add_column(name)
    for suite in suites:
        view.add_row(suite.name, "", suite.question)
        for job in suite.jobs:
            names = [name for name, jobs in suite.known().items() if job in jobs]
            names.remove(job.name)
            view.add_row("", job.name, job.missing() or job.description(), ", ".join(names))
        for name, jobs in suite.groups.items():
            if jobs and jobs[0] not in suite.jobs:
                view.add_row("", name, f"{len(jobs)} cases, {jobs[0].name} to {jobs[-1].name}")
        view.add_section()
    view.caption = "A group stands for its cases. The group quick is the default."
    return view


def document(
    suite: str, threads: int, load: float, command: str, results: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the contents of a result file."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "suite": suite,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "threads": threads,
        "load": round(load, 2),
        "command": command,
        "results": results,
    }


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1) + "\n")


def read(path: Path, suite: str) -> dict[str, Any]:
    """Read a result file of a suite.

    Raises:
        ValueError: It is no such file.
    """
    contents = json.loads(path.read_text())
    if contents.get("format") != FORMAT or contents.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"not a result file of format version {FORMAT_VERSION}")
    if contents["suite"] != suite:
        raise ValueError(f"holds results of the suite {contents['suite']}, not of {suite}")
    return contents
