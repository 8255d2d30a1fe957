"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

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
    add = parser.add_argument_group("what to run").add_argument
    suites = "; ".join(f"{suite.name}: {suite.question}" for suite in SUITES.values())
    add("--suite", choices=tuple(SUITES), help=f"default that of the cases, or kmeans. {suites}")
    add("--case", metavar="NAMES", help="separated by commas; default quick, see --list")
    add("--list", action="store_true", help="list the cases of all suites")
    add("--n", type=positive, help="points of a case of your own; rows of the file of suite disk")
    for name, meaning in (("d", "coordinates"), ("k", "clusters"), ("b", "problems at once")):
        add(f"--{name}", type=positive, help=f"{meaning} of a case of your own, standard normal")
    add("--max-iters", type=positive, help="iterations, instead of the case's own")
    add("--metric", choices=METRICS, help="instead of the case's own")
    add("--dtype", choices=DTYPES, help="type of the points, instead of the case's own")
    add("--seeding", action="store_true", help="time k-means++ on every case, not only quick ones")
    add = parser.add_argument_group("who takes part, and how").add_argument
    add("--backend", help="our backends, separated by commas; default the best of this machine")
    add("--skip-sklearn", action="store_true", help="without scikit-learn")
    cpus = machine.usable_cpus()
    add("--threads", type=positive, default=cpus, help="of each contestant; default %(default)s")
    add("--runs", type=positive, help="timed runs; default the suite's usual number")
    warmup = "runs between the cold one and the timed ones; default %(default)s"
    add("--warmup", type=_at_least(0), default=0, help=warmup)
    add = parser.add_argument_group("output").add_argument
    add("--json", type=Path, metavar="PATH", help="write the results here")
    add("--save", action="store_true", help="write them to benchmark/results/")
    add("--plot", type=Path, metavar="PATH", help="draw them here (needs matplotlib)")
    return parser


def chosen_suite(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Suite:
    """Return the suite that is named, or else the first one that knows all cases."""
    suite = SUITES["kmeans"]
    if options.suite:
        suite = SUITES[options.suite]
    elif options.case:
        names = set(options.case.split(","))
        suite = next((s for s in SUITES.values() if names <= s.known().keys()), suite)
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
        case=options.case,
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
        jobs = suite.choose(settings)
    except ValueError as error:
        parser.error(str(error))
    legend = suite.legend.format(runs=settings.runs or suite.usual_runs)
    load = machine.load()
    screen.print(f"{report.header(settings.threads)}\n{legend}", highlight=False)
    if load > _BUSY:
        screen.print(
            f"The machine was busy already ({load:.0%} in the last minute):"
            " don't trust the times below.\n"
        )
    results = run(suite, jobs, settings, screen)
    contents = report.document(
        suite=suite.name,
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
