"""Tables on the terminal, and result files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import indexes, machine
from .cases import CASES, GROUPS, SEARCHES
from .runner import Result, Row
from .timing import USUAL_RUNS, Times

_TITLES = {
    "lloyd": "same start, {iters} iterations",
    "fit": "whole fits, as users call them",
    "knn": "exact search",
}


def console() -> Console:
    """Standard output; wide enough for the tables where it isn't a terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(plain.width, 130))


def header(
    machine: dict[str, str | int], versions: dict[str, str], threads: int, runs: int | None
) -> str:
    """What is compared, on what."""
    where = f"{machine['cpu']}, {machine['cores']} CPUs, {machine['system']}, Python {machine['python']}"
    turns = USUAL_RUNS if runs is None else f"{runs} further turns"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"""{where}, {threads} threads for each contestant
{packages}

Each contestant has a process of its own; they take turns from the same start, and deliver centroids and their labels.
cold     the first call in the process, import excluded
median   of {turns}, with their 20th to 80th percentile
x ours   time / our time: above 1 is slower than flash-kmeans-mlx
inertia  in float64, relative to scikit-learn's (without it, to ours)
regret   how far the worst label is from the nearest centroid, in float64, relative to the spread of the data
A result that fails these checks shows no time.
"matmul alone" is NumPy's product of points and centroids, once for each of our passes over the points.
"""


def seconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return ""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if value * factor < 999.5:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


_NARROW = 100


def table(result: Result, width: int, doing: str = "") -> RenderableType:
    """A job's rows, with a line on what is being run, or on what was found."""
    job = result.job
    title = (
        f"{job.name}: {job.case.shape(job.kind)}: {_TITLES[job.kind].format(iters=job.case.iters)}"
    )
    view = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    left_out = ("cold", "p20-p80") if width < _NARROW else ()
    names = (
        "contestant",
        "its",
        "cold",
        "median",
        "p20-p80",
        "x ours",
        "inertia",
        "regret",
        "result",
    )
    for name in names:
        if name not in left_out:
            view.add_column(
                name, justify="left" if name in ("contestant", "result") else "right", no_wrap=True
            )
    for kind in (job.kind, "seeding"):
        for row in result.section(kind):
            view.add_row(
                *(
                    cell
                    for name, cell in zip(names, _cells(result, row), strict=True)
                    if name not in left_out
                )
            )
        view.add_section()
    lines = [f"... {doing}"] if doing else _notes(result)
    return Group(view, *(Text(line, style="dim") for line in lines))


def ratio(result: Result, row: Row) -> float | None:
    """The row's median over that of our row of the same kind."""
    base = result.base(row.kind)
    if row.times is None or base is None or base.times is None:
        return None
    return row.times.p50 / base.times.p50


def inertia_ratio(result: Result, row: Row) -> float | None:
    """The row's inertia over scikit-learn's."""
    standard = result.standard(row.kind)
    if standard is None or not math.isfinite(row.inertia) or standard.inertia == 0:
        return None
    return row.inertia / standard.inertia


def _cells(result: Result, row: Row) -> list[str]:
    times, relative, quality = row.times, ratio(result, row), inertia_ratio(result, row)
    finished = times is not None
    judged = finished and not row.contestant.yardstick and row.kind != "seeding"
    return [
        row.name,
        str(row.n_iter) if finished and row.n_iter else "",
        seconds(times.cold) if times and not row.contestant.yardstick else "",
        seconds(times.p50) if times else "",
        _span(times) if times else "",
        f"{relative:.2f}" if relative is not None else "",
        f"{quality:.5f}" if quality is not None and finished else "",
        f"{row.regret:.0e}" if judged else "",
        _word(row),
    ]


def _span(times: Times) -> str:
    low, high = seconds(times.quantile(0.2)).split(), seconds(times.quantile(0.8)).split()
    return (
        f"{low[0]}-{high[0]} {high[1]}"
        if low[1] == high[1]
        else f"{' '.join(low)}-{' '.join(high)}"
    )


def _word(row: Row) -> str:
    if row.problem:
        return row.problem.split(":")[0]
    if row.times is None:
        return "..."
    if row.contestant.yardstick:
        return f"{row.n_iter} passes"
    return (row.contestant.fit_note if row.kind == "fit" else row.contestant.note) or "ok"


def _notes(result: Result) -> list[str]:
    notes: list[str] = []
    ours = result.base(result.job.kind)
    for row in result.section("lloyd"):
        relative = ratio(result, row)
        if row.contestant.yardstick and ours is not None and relative:
            notes.append(f"{ours.name} / matmul alone: {1 / relative:.2f}")
    if result.memory is not None:
        notes.append(
            f"our peak memory beyond the input: {result.memory / 1e6:.0f} MB (bound {result.bound / 1e6:.0f} MB)"
        )
    case, search = result.job.case, result.job.kind == "knn"
    total = case.queries or case.N if search else case.B * case.N
    if result.points_judged:
        notes.append(
            f"{'queries' if search else 'labels'} judged: {result.points_judged:,} of {total:,}"
        )
    notes += [
        rates(result, row)
        for row in result.section("lloyd")
        if row.backend == "metal" and row.times
    ]
    notes += [engine(row) for row in result.section(result.job.kind) if row.engine and row.times]
    problems = dict.fromkeys(
        f"{row.name}: {row.problem}" for row in result.rows if ":" in row.problem
    )
    return ["; ".join(notes), *problems] if notes else [*problems]


def engine(row: Row) -> str:
    """What ran in a row of ours: how points were assigned, the share of products computed, and where the time went."""
    spent = row.engine["seconds"]
    whole = sum(spent.values()) - spent["choice"]  # which is part of the others
    phases = ", ".join(
        f"{name} {value / whole:.0%}" for name, value in spent.items() if value and whole
    )
    return f"{row.engine['strategy'] or row.backend}: {row.engine['products']:.0%} of the products; time in {phases}"


def rates(result: Result, row: Row) -> str:
    """What a time means for the device: products of the assignments, and reads of x, twice an iteration."""
    case, times = result.job.case, row.times
    assert times is not None
    values = case.B * case.N * case.D * row.passes
    size = 4 if case.dtype == "float32" else 2
    known = machine.bandwidth()
    limit = f" of up to {known} GB/s" if known else ""
    flops, reads = 2 * values * case.K / times.p50 / 1e12, 2 * values * size / times.p50 / 1e9
    return f"{row.backend}: {flops:.3g} TFLOP/s of products, x read at {reads:.3g} GB/s{limit}"


def listing() -> Table:
    """The cases that can be chosen."""
    view = Table(title="--case NAME[,NAME...]", title_justify="left")
    for name in ("name", "problem", "tags"):
        view.add_column(name)
    for name, meaning in GROUPS.items():
        view.add_row(name, meaning, "")
    view.add_section()
    for case in CASES:
        view.add_row(
            case.name,
            case.missing() or f"{case.shape()}, {case.iters} iterations",
            ", ".join(case.tags),
        )
        if "fit" in case.tags:
            view.add_row(f"fit:{case.name}", "the same data, a whole fit", "")
    for case in SEARCHES:
        view.add_row(f"knn:{case.name}", case.missing() or case.shape("knn"), "")
    for index in indexes.CASES:
        view.add_row(index.name, f"with --suite index: {', '.join(index.factories)}", "")
    view.add_row("disk", "a search in a file of 1,000,000 x 128 (or --n rows), by itself", "")
    return view


def as_json(result: Result) -> dict[str, Any]:
    """A job's rows as plain data."""
    case, job = result.job.case, result.job
    return {
        "case": case.name,
        "kind": job.kind,
        "queries": case.queries,
        **{key: getattr(case, key) for key in ("B", "N", "D", "K", "iters", "metric", "dtype")},
        "memory": None
        if result.memory is None
        else {"bytes": result.memory, "bound": result.bound},
        "labels_judged": result.points_judged,
        "rows": [_row_json(result, row) for row in result.rows],
    }


def _row_json(result: Result, row: Row) -> dict[str, Any]:
    times = row.times
    return {
        "contestant": row.contestant.name,
        "kind": row.kind,
        "backend": row.backend,
        "engine": row.engine,
        "note": row.contestant.note,
        "verdict": row.problem or ("ok" if times else "not run"),
        "cold": times.cold if times else None,
        "p20": times.quantile(0.2) if times else None,
        "p50": times.p50 if times else None,
        "p80": times.quantile(0.8) if times else None,
        "runs": len(times.warm) if times else 0,
        "iterations": row.n_iter,
        "inertia": row.inertia if math.isfinite(row.inertia) else None,
        "inertia_ratio": inertia_ratio(result, row),
        "regret": row.regret,
        "time_over_ours": ratio(result, row),
    }


def write(path: Path, about: dict[str, Any], results: list[Result]) -> None:
    """Writes a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({**about, "jobs": [as_json(result) for result in results]}, indent=1) + "\n"
    )
