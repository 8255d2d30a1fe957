"""The commands. Typer makes the command line, its help and its completion from their signatures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any
from unicodedata import normalize

import mlx.core as mx
import numpy as np
import typer

from .. import __version__, validation
from ..backends import BACKENDS
from ..backends.cpu.workers import thread_count
from ..files import check_regular, open_vectors, results
from ..kmeans.estimator import FlashKMeans
from ..kmeans.seeding import INITS
from ..metrics import METRICS, PROXIMITIES
from ..neighbours.files import search_files
from . import warmup as warm
from .inputs import for_backend, open_data, paths
from .terminal import plain, reported, say

__all__ = ["app"]

app = typer.Typer(
    name="flash-kmeans",
    help="Exact nearest neighbours and k-means of vectors in files: .npy, .safetensors,"
    " .fvecs/.bvecs/.ivecs, .pt (with torch), .parquet and .arrow (with pyarrow)."
    " PATH::NAME picks one array of a file that holds several.",
    epilog="Exit codes: 0 done, 1 a file or a value is wrong (one line says which),"
    " 2 wrong command line, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _output(formats: str) -> Any:
    return typer.Option("--output", "-o", metavar="FILE", help=f"File to write: {formats}.")


def _count(text: str) -> Any:
    return typer.Option("--k", "-k", min=1, help=text)


def _one_of(names: Iterable[str], text: str) -> Any:
    """Return an option that takes one of these names."""
    choices = list(names)

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, choices))}")
        return value

    return typer.Option(
        metavar=" | ".join(choices), callback=check, autocompletion=lambda: choices, help=text
    )


MaxMemory = Annotated[
    float,
    typer.Option("--max-mem-gb", min=0.0, help="Hard cap on memory in 1e9 bytes; 0 for none."),
]
Backend = Annotated[str | None, _one_of(BACKENDS, "Where to compute; default the best one here.")]
Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Vectors (N, D): FILE or FILE::NAME, several, a folder, or a pattern like 'x-*.npy'.",
    ),
]


@app.command()
@reported
def knn(
    queries: Annotated[
        str, typer.Argument(metavar="QUERIES", help="File of query vectors (Q, D), or FILE::NAME.")
    ],
    docs: Annotated[
        str, typer.Argument(metavar="DOCS", help="File of vectors (N, D) to search, or FILE::NAME.")
    ],
    output: Annotated[
        Path, _output(".npz, .safetensors or .pt, with indices, scores and what they came from")
    ],
    k: Annotated[int, _count("Neighbours of every query.")] = 10,
    metric: Annotated[
        str, _one_of(PROXIMITIES, "Squared for euclidean; for dot the largest come first.")
    ] = "euclidean",
    max_mem_gb: MaxMemory = 0.0,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Query i never gets row i: QUERIES are DOCS.")
    ] = False,
    backend: Backend = None,
) -> None:
    """Find the exact k nearest rows of DOCS for every row of QUERIES.

    DOCS are read in chunks and may be larger than memory.
    """
    x = open_vectors(queries)
    y = open_vectors(docs)
    if output.suffix.lower() == ".npy":
        raise typer.BadParameter(
            "a .npy file holds one array: take .npz, .safetensors or .pt", param_hint="--output"
        )
    _check_apart({"--output": output}, [x.path, y.path])
    validation.check_neighbours(k, y.shape[0], exclude_self)
    results.check_output(output, 12 * x.shape[0] * k)
    begin = perf_counter()
    result = search_files(
        x, y, k, metric, max_mem_gb=max_mem_gb, backend=backend, exclude_self=exclude_self
    )
    fields = {
        "queries_path": queries,
        "docs_path": docs,
        "k": k,
        "batch_size": result.batch_size,
        "dtype": y.dtype,
        "device": _device(result.backend),
        "metric": metric,
        "backend": result.backend,
    }
    results.write(output, {"indices": result.indices, "scores": result.distances}, fields)
    seconds = perf_counter() - begin
    say(
        f"{output}: {k} neighbours of {x.shape[0]:,} queries among {y.shape[0]:,} rows,"
        f" {seconds:.3g} s"
    )


@app.command()
@reported
def fit(
    data: Data,
    output: Annotated[Path, _output("the model, .safetensors")],
    k: Annotated[int, _count("Clusters.")] = 8,
    metric: Annotated[str, _one_of(METRICS, "The distance.")] = "euclidean",
    niter: Annotated[int, typer.Option(min=0, help="The largest number of iterations.")] = 25,
    tol: Annotated[
        float, typer.Option(min=0.0, help="Stop once no centroid moves farther.")
    ] = 1e-8,
    init: Annotated[str, _one_of(INITS, "How to choose the first centroids.")] = "k-means++",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clusters.")] = 0,
    n_init: Annotated[
        int, typer.Option("--n-init", min=1, help="Runs, of which the best is kept.")
    ] = 1,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of the rows (N,), .npy.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the labels too: .npy, which takes no memory, .npz, .safetensors, .pt.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the state of the fit after each iteration."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")
    ] = False,
    max_mem_gb: MaxMemory = 0.0,
    backend: Backend = None,
) -> None:
    """Cluster the rows of DATA; `flash-kmeans predict` and `FlashKMeans.load` read the model.

    On the CPU, DATA may be larger than memory.
    """
    source = open_data(data)
    if output.suffix.lower() != ".safetensors":
        raise typer.BadParameter(f"{str(output)!r} must end in .safetensors", param_hint="--output")
    if resume and checkpoint is None:
        raise typer.BadParameter("it needs --checkpoint FILE", param_hint="--resume")
    outputs = {"--output": output, "--labels": labels, "--checkpoint": checkpoint}
    inputs = paths(source) if weights is None else [*paths(source), str(weights)]
    _check_apart({name: path for name, path in outputs.items() if path is not None}, inputs)
    n, d = source.shape
    validation.check_count("k", k, 1, n, "N", source.shape)
    results.check_output(output, 4 * k * d)
    if labels is not None:
        results.check_output(labels, 4 * n)
    in_file = labels is not None and labels.suffix.lower() == ".npy"
    points, room = for_backend(source, backend, max_mem_gb, k)
    model = FlashKMeans(
        d,
        k,
        niter,
        tol,
        seed,
        metric=metric,
        max_mem_gb=room,
        init=init,
        n_init=n_init,
        backend=backend,
    )
    model.fit(
        points,
        weights,
        labels_path=labels if in_file else None,
        checkpoint=checkpoint,
        resume=resume,
    )
    model.max_mem_gb = max_mem_gb
    model.save(output)
    if labels is not None and not in_file:
        fields: dict[str, str | int] = {"data_path": ", ".join(data), "model_path": str(output)}
        results.write(labels, {"labels": np.asarray(model.labels_)}, fields)
    say(
        f"{output}: {k} clusters of {n:,} x {d}, inertia {model.inertia_:.8g}"
        f" after {model.n_iter_} iterations"
    )


@app.command()
@reported
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that `flash-kmeans fit` wrote.")
    ],
    data: Data,
    output: Annotated[Path, _output("labels, .npy (takes no memory), .npz, .safetensors or .pt")],
    max_mem_gb: MaxMemory = 0.0,
    backend: Backend = None,
) -> None:
    """Find the cluster of every row of DATA.

    On the CPU, DATA may be larger than memory.
    """
    check_regular(model)
    source = open_data(data)
    _check_apart({"--output": output}, [str(model), *paths(source)])
    fitted = FlashKMeans.load(model)
    results.check_output(output, 4 * source.shape[0])
    points, fitted.max_mem_gb = for_backend(source, backend, max_mem_gb, fitted.k)
    fitted.backend = backend
    if output.suffix.lower() == ".npy":
        fitted.predict(points, labels_path=output)
    else:
        labels = np.asarray(fitted.predict(points))
        results.write(
            output, {"labels": labels}, {"data_path": ", ".join(data), "model_path": str(model)}
        )
    say(f"{output}: labels of {source.shape[0]:,} rows")


@app.command()
@reported
def info(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of vectors, results or a model.")
    ],
) -> None:
    """List the arrays of a file with their shapes and types, and the parameters of a model."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .describe import describe

    fields, rows = describe(file)
    table = Table("name", "shape", "dtype", "", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))  # names are no markup
    console = Console(soft_wrap=True)
    for name, value in fields.items():
        console.print(plain(f"{name}: {value}"), markup=False, highlight=False)
    if rows:
        console.print(table)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    add_help_option=False,
)
def benchmark(context: typer.Context) -> None:
    """Compare with scikit-learn, faiss and superkmeans on this machine.

    `flash-kmeans benchmark --help` lists the options.
    """
    run = import_module("flash_kmeans_mlx.benchmark.__main__").main
    raise typer.Exit(run(context.args))


@app.command()
@reported
def warmup(
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Processes; 0 for one a CPU.")
    ] = 0,
) -> None:
    """Compile all kernels of the cpu backend for this CPU, and keep them on disk.

    Later processes, in containers for example, then compile nothing.
    """
    begin = perf_counter()
    for name in warm.compile_kernels(jobs or thread_count()):
        say(f"ready: {name}")
    say(f"all kernels are compiled ({perf_counter() - begin:.0f} s)")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def _check_apart(outputs: dict[str, Path], inputs: list[str]) -> None:
    """Refuse outputs that are an input or one another, under any name, before any work.

    Raises:
        ValueError: Two of them are one file.
    """
    for option, path in outputs.items():
        for given in inputs:
            if path.exists() and path.samefile(given):
                raise ValueError(
                    f"{option} {str(path)!r} is the input {given!r}: write to another file"
                )
    places = [normalize("NFC", os.path.realpath(path)).casefold() for path in outputs.values()]
    if len(set(places)) < len(places):  # some file systems ignore case
        raise ValueError(f"{' and '.join(outputs)} are one file: write to two")


def _device(backend: str) -> str:
    """Return where a backend of this name computes: "cpu" or "gpu"."""
    on_gpu = BACKENDS[backend].USES_MLX and mx.default_device().type != mx.DeviceType.cpu
    return "gpu" if on_gpu else "cpu"
