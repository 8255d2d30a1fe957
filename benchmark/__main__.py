"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from . import disk, index_suite, machine, report
from .cases import DTYPES, METRICS, Job, custom, override, select
from .contestants import Contestant, FlashKMeansMLX, contestants
from .runner import Result, Settings, run

_BUSY = 0.25
_OF_KMEANS = (
    "n",
    "d",
    "k",
    "b",
    "max_iters",
    "metric",
    "dtype",
    "seeding",
    "backend",
    "skip_sklearn",
    "warmup",
)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be >= 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} must be >= 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_kmeans_mlx.benchmark",
        description="Compares flash-kmeans-mlx with scikit-learn, faiss and superkmeans: results first, then times.",
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--suite",
        choices=("kmeans", "index"),
        default="kmeans",
        help="default %(default)s; index: vector indexes",
    )
    what.add_argument(
        "--case",
        metavar="NAMES",
        help="cases, separated by commas; default quick (see --list), all of suite index",
    )
    what.add_argument("--list", action="store_true", help="list the cases and stop")
    for option, meaning in (
        ("n", "points"),
        ("d", "coordinates"),
        ("k", "clusters"),
        ("b", "problems at once"),
    ):
        what.add_argument(
            f"--{option}", type=_positive, help=f"{meaning} of a case of your own, standard normal"
        )
    what.add_argument("--max-iters", type=_positive, help="iterations, instead of the case's own")
    what.add_argument("--metric", choices=METRICS, help="instead of the case's own")
    what.add_argument(
        "--dtype", choices=DTYPES, help="type of the points, instead of the case's own"
    )
    what.add_argument(
        "--seeding",
        action="store_true",
        help="time k-means++ on every case, not only the quick ones",
    )
    who = parser.add_argument_group("who takes part, and how")
    who.add_argument(
        "--backend", help="our backends, separated by commas; default the best of this machine"
    )
    who.add_argument("--skip-sklearn", action="store_true", help="without scikit-learn")
    who.add_argument(
        "--threads",
        type=_positive,
        default=machine.usable_cpus(),
        help="of each; default %(default)s",
    )
    who.add_argument(
        "--runs", type=_positive, help="timed turns; default 3, or 2 where they are long"
    )
    who.add_argument(
        "--warmup",
        type=_count,
        default=0,
        help="turns not timed after the cold one; default %(default)s",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    output.add_argument("--save", action="store_true", help="write them to benchmark/results/")
    output.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw them here (needs matplotlib)"
    )
    return parser


def jobs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Job]:
    """The jobs that the options ask for; says what is wrong with them otherwise."""
    shape = {key: getattr(options, key) for key in "ndkb" if getattr(options, key) is not None}
    if shape and options.case:
        parser.error("--case and --n, --d, --k, --b exclude each other")
    try:
        chosen = (
            [Job(custom(**shape), "lloyd")]
            if shape
            else select((options.case or "quick").split(","))
        )
        changes = {"iters": options.max_iters, "metric": options.metric, "dtype": options.dtype}
        chosen = [Job(override(job.case, **changes), job.kind) for job in chosen]
    except ValueError as error:
        parser.error(str(error))
    euclidean = [job for job in chosen if job.kind != "fit" or job.case.metric == "euclidean"]
    if not euclidean:
        parser.error(
            f"whole fits are compared under the euclidean metric only, not under {options.metric}"
        )
    return euclidean


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 if a result of ours is wrong."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    screen = report.console()
    if options.list:
        screen.print(report.listing())
        return 0
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if options.suite == "index":
        return _indexes(parser, options, screen, arguments)
    if options.case == "disk":
        return _disk(options, screen)
    todo = jobs(parser, options)
    settings = Settings(options.threads, options.runs, options.warmup, options.seeding)
    backends = options.backend.split(",") if options.backend else [None]
    who = contestants(backends, options.threads, not options.skip_sklearn)
    versions, load = machine.versions(), machine.load()
    screen.print(
        report.header(machine.describe(), versions, options.threads, options.runs), highlight=False
    )
    if load > _BUSY:
        screen.print(
            f"The machine was busy already ({load:.0%} in the last minute): don't trust the times below.\n"
        )
    results = _run(todo, who, settings, screen)
    about = _about(parser, options, arguments, load)
    paths = [options.json] if options.json else []
    if options.save:
        paths.append(Path(__file__).parent / "results" / f"{machine.slug()}.json")
    for path in paths:
        report.write(path, about, results)
        screen.print(f"written: {path}")
    if options.plot:
        from .figures import plot_ratios

        _draw(
            plot_ratios,
            {**about, "jobs": [report.as_json(result) for result in results]},
            options.plot,
            screen,
        )
    ours = [
        row
        for result in results
        for row in result.rows
        if isinstance(row.contestant, FlashKMeansMLX)
    ]
    return 1 if any(row.problem for row in ours) else 0


def _draw(
    plot: Callable[[dict[str, Any], Path], None], drawn: dict[str, Any], path: Path, screen: Console
) -> None:
    try:
        plot(drawn, path)
    except ValueError as error:
        screen.print(f"no plot: {error}")
    else:
        screen.print(f"written: {path}")


def _run(
    todo: list[Job], who: list[Contestant], settings: Settings, screen: Console
) -> list[Result]:
    """Run jobs, with tables that fill up as they go."""
    results: list[Result] = []
    for job in todo:
        missing = job.case.missing()
        if missing:
            screen.print(f"{job.name}: not run, {missing}\n")
            continue
        with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:

            def show(result: Result, doing: str, live: Live = live) -> None:
                live.update(report.table(result, screen.width, doing), refresh=True)

            results.append(run(job, who, settings, show))
        screen.print()
    return results


def _about(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    arguments: Sequence[str] | None,
    load: float,
) -> dict[str, Any]:
    """What a result file says of where its figures come from."""
    return {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "threads": options.threads,
        "load": round(load, 2),
        "command": " ".join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)]),
    }


def _indexes(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    screen: Console,
    arguments: Sequence[str] | None,
) -> int:
    idle = [name for name in _OF_KMEANS if getattr(options, name) != parser.get_default(name)]
    if idle:
        parser.error(f"--suite index does not take --{idle[0].replace('_', '-')}")
    try:
        cases = index_suite.select(options.case)
    except ValueError as error:
        parser.error(str(error))
    runs, load = options.runs or index_suite.RUNS, machine.load()
    about = _about(parser, options, arguments, load)
    screen.print(index_suite.header(about, runs), highlight=False)
    results: list[index_suite.IndexResult] = []
    for case in cases:
        missing = case.points.missing()
        if missing:
            screen.print(f"{case.name}: not run, {missing}\n")
            continue
        with Live(console=screen, auto_refresh=False, transient=True) as live:

            def show(result: index_suite.IndexResult, doing: str, live: Live = live) -> None:
                live.update(index_suite.tables(result, doing), refresh=True)
                if not doing:
                    live.console.print(index_suite.tables(result))

            results += index_suite.run(case, options.threads, runs, show)
    paths = [options.json] if options.json else []
    if options.save:
        paths.append(Path(__file__).parent / "results" / f"{machine.slug()}-index.json")
    for path in paths:
        screen.print(f"written: {index_suite.write(path, about, results)}")
    if options.plot:
        from .figures import plot_indexes

        drawn = json.loads(
            json.dumps({**about, "indexes": [index_suite.as_json(r) for r in results]})
        )
        _draw(plot_indexes, drawn, options.plot, screen)
    return 0 if all(result.ours() for result in results) else 1


def _disk(options: argparse.Namespace, screen: Console) -> int:
    screen.print(
        report.header(machine.describe(), machine.versions(), options.threads, options.runs),
        highlight=False,
    )
    found, good = disk.run(screen, options.threads, options.n or disk.N, options.runs or 5)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(
                {"machine": machine.describe(), "versions": machine.versions(), **found}, indent=1
            )
        )
        screen.print(f"written: {options.json}")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
