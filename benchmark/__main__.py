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

from . import machine, report
from .cases import DTYPES, METRICS
from .runner import Settings, Suite, run
from .suites import SUITES

_BUSY = 0.25
_RESULTS = Path(__file__).parent / "results"


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} must be >= {least}")
        return value

    return parse


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_kmeans_mlx.benchmark",
        description="Compare flash-kmeans-mlx with scikit-learn, faiss and superkmeans."
        " A result is checked before its time is shown.",
    )
    positive = _at_least(1)
    problem = parser.add_argument_group("what to run")
    problem.add_argument(
        "--suite",
        choices=tuple(SUITES),
        help="default the suite of the cases, or kmeans: "
        + " ".join(f"{suite.name}: {suite.question}" for suite in SUITES.values()),
    )
    problem.add_argument(
        "--case",
        metavar="NAMES",
        help="cases, separated by commas; default the suite's quick ones (see --list)",
    )
    problem.add_argument("--list", action="store_true", help="list the cases of all suites")
    for name, meaning in (
        ("n", "points; for the suite disk, rows of the file"),
        ("d", "coordinates"),
        ("k", "clusters"),
        ("b", "problems at once"),
    ):
        problem.add_argument(
            f"--{name}", type=positive, help=f"{meaning} of a case of your own, standard normal"
        )
    problem.add_argument("--max-iters", type=positive, help="iterations, instead of the case's own")
    problem.add_argument("--metric", choices=METRICS, help="instead of the case's own")
    problem.add_argument(
        "--dtype", choices=DTYPES, help="type of the points, instead of the case's own"
    )
    problem.add_argument(
        "--seeding", action="store_true", help="time k-means++ on every case, not only quick ones"
    )
    contestants = parser.add_argument_group("who takes part, and how")
    contestants.add_argument(
        "--backend", help="our backends, separated by commas; default the best of this machine"
    )
    contestants.add_argument("--skip-sklearn", action="store_true", help="without scikit-learn")
    contestants.add_argument(
        "--threads",
        type=positive,
        default=machine.usable_cpus(),
        help="of each contestant; default %(default)s",
    )
    contestants.add_argument(
        "--runs", type=positive, help="timed runs; default the suite's usual number"
    )
    contestants.add_argument(
        "--warmup",
        type=_at_least(0),
        default=0,
        help="runs between the cold one and the timed ones; default %(default)s",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    output.add_argument("--save", action="store_true", help="write them to benchmark/results/")
    output.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw them here (needs matplotlib)"
    )
    return parser


def chosen_suite(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Suite[Any, Any]:
    """Return the suite that is named, or else the first one that knows all cases."""
    suite = SUITES["kmeans"]
    if options.suite:
        suite = SUITES[options.suite]
    elif options.case:
        suite = next((s for s in SUITES.values() if s.knows(options.case)), suite)
    taken = frozenset().union(*(s.options for s in SUITES.values()))
    for name in sorted(taken - suite.options):
        if getattr(options, name) != parser.get_default(name):
            parser.error(f"--suite {suite.name} does not take --{name.replace('_', '-')}")
    return suite


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings of a run."""
    shape = {name: getattr(options, name) for name in "ndkb"}
    changes = {"iters": options.max_iters, "metric": options.metric, "dtype": options.dtype}
    return Settings(
        threads=options.threads,
        runs=options.runs,
        warmup=options.warmup,
        seeding=options.seeding,
        backends=tuple(options.backend.split(",")) if options.backend else (None,),
        sklearn=not options.skip_sklearn,
        shape={name: value for name, value in shape.items() if value is not None},
        changes={name: value for name, value in changes.items() if value is not None},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a result of ours is wrong."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    screen = report.console()
    if options.list:
        screen.print(report.listing(SUITES.values()))
        return 0
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    suite = chosen_suite(parser, options)
    settings = settings_of(options)
    try:
        jobs = suite.choose(options.case, settings)
    except ValueError as error:
        parser.error(str(error))
    load = machine.load()
    screen.print(
        f"{report.header(settings.threads)}\n{suite.explain(settings.runs)}", highlight=False
    )
    if load > _BUSY:
        screen.print(
            f"The machine was busy already ({load:.0%} in the last minute):"
            " don't trust the times below.\n"
        )
    results = run(suite, jobs, settings, screen)
    contents = report.document(
        suite=suite.name,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        threads=settings.threads,
        load=load,
        command=" ".join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)]),
        results=[result.as_json() for result in results],
    )
    paths = [options.json] if options.json else []
    if options.save:
        ending = "" if suite.name == "kmeans" else f"-{suite.name}"
        paths.append(_RESULTS / f"{machine.slug()}{ending}.json")
    for path in paths:
        report.write(path, contents)
        screen.print(f"written: {path}")
    if options.plot:
        try:
            suite.plot(json.loads(json.dumps(contents)), options.plot)
        except ValueError as error:
            screen.print(f"no plot: {error}")
        else:
            screen.print(f"written: {options.plot}")
    return int(any(row.ours and row.problem for result in results for row in result.rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
