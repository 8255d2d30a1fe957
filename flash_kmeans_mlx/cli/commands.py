"""The commands. Typer makes the command line, its help and its completion from their signatures."""

from __future__ import annotations

import os
from enum import Enum
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any
from unicodedata import normalize

import numpy as np
import typer

from .. import __version__, validation
from ..files import check_regular, open_vectors, results
from .terminal import plain, progress_bar, reported, say

if TYPE_CHECKING:
    from ..kmeans.lloyd import Iteration

__all__ = ["app"]

app = typer.Typer(
    name="flash-kmeans",
    help="Exact nearest neighbours and k-means of vectors in files: .npy, .safetensors, .fvecs/.bvecs/.ivecs, .pt (with torch),"
    " .parquet and .arrow (with pyarrow). PATH::NAME picks one array of a file that holds several.",
    epilog="Exit codes: 0 done, 1 a file or a value is wrong (one line says which), 2 wrong command line, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Metric(str, Enum):
    """Metrics of k-means."""

    euclidean = "euclidean"
    cosine = "cosine"
    dot = "dot"


class Distance(str, Enum):
    """Metrics of neighbours."""

    euclidean = "euclidean"
    cosine = "cosine"
    dot = "dot"
    l1 = "l1"
    linf = "linf"


class Backend(str, Enum):
    """Backends by name."""

    cpu = "cpu"
    metal = "metal"
    portable = "portable"
    reference = "reference"


class Init(str, Enum):
    """How a fit starts."""

    random = "random"
    pp = "k-means++"
    parallel = "k-means||"


Cap = Annotated[
    float,
    typer.Option("--max-mem-gb", min=0.0, help="Hard cap on memory in 1e9 bytes; 0 for none."),
]
On = Annotated[
    Backend | None, typer.Option("--backend", help="Where to compute; default the best one here.")
]
Data = Annotated[str, typer.Argument(metavar="DATA", help="File of vectors (N, D), or FILE::NAME.")]


def _out(formats: str) -> Any:
    return typer.Option("--output", "-o", metavar="FILE", help=f"File to write: {formats}.")


def _ask_k(what: str) -> Any:
    return typer.Option("--k", "-k", min=1, help=what)


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
        Path, _out(".npz, .safetensors or .pt, with indices, scores and what they came from")
    ],
    k: Annotated[int, _ask_k("Neighbours of every query.")] = 10,
    metric: Annotated[
        Distance, typer.Option(help="Squared for euclidean; for dot the largest come first.")
    ] = Distance.euclidean,
    max_mem_gb: Cap = 0.0,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Query i never gets row i: QUERIES are DOCS.")
    ] = False,
    backend: On = None,
) -> None:
    """The k nearest rows of DOCS for every row of QUERIES, exactly; DOCS are read in chunks and may be larger than memory."""
    from ..neighbours.files import search_files

    x, y = open_vectors(queries), open_vectors(docs)
    if output.suffix.lower() == ".npy":
        raise typer.BadParameter(
            "a .npy file holds one array: take .npz, .safetensors or .pt", param_hint="--output"
        )
    _check_apart({"--output": output}, [x.path, y.path])
    validation.check_count("k", k, 1, y.shape[0] - exclude_self, "N - 1" if exclude_self else "N")
    results.check_output(output, 12 * x.shape[0] * k)
    begin = perf_counter()
    with progress_bar("searching", "rows") as update:
        found = search_files(
            x,
            y,
            k,
            metric.value,
            max_mem_gb=max_mem_gb,
            backend=_name(backend),
            exclude_self=exclude_self,
            progress=update,
        )
    fields = {
        "queries_path": queries,
        "docs_path": docs,
        "k": k,
        "batch_size": found.batch_size,
        "dtype": y.dtype,
        "device": _device(found.backend),
        "metric": metric.value,
        "backend": found.backend,
    }
    results.write(output, {"indices": found.indices, "scores": found.distances}, fields)
    say(
        f"{output}: {k} neighbours of {x.shape[0]:,} queries among {y.shape[0]:,} rows, {perf_counter() - begin:.3g} s"
    )


@app.command()
@reported
def fit(
    data: Data,
    output: Annotated[Path, _out("the model, .safetensors")],
    k: Annotated[int, _ask_k("Clusters.")] = 8,
    metric: Annotated[Metric, typer.Option(help="What is near.")] = Metric.euclidean,
    niter: Annotated[int, typer.Option(min=0, help="Most iterations.")] = 25,
    tol: Annotated[
        float, typer.Option(min=0.0, help="Stop once no centroid moves farther.")
    ] = 1e-8,
    init: Annotated[Init, typer.Option(help="How to start.")] = Init.pp,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clusters.")] = 0,
    n_init: Annotated[
        int, typer.Option("--n-init", min=1, help="Runs, of which the best is kept.")
    ] = 1,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the labels too: .npy, .npz, .safetensors, .pt."),
    ] = None,
    max_mem_gb: Cap = 0.0,
    backend: On = None,
) -> None:
    """k-means of the rows of DATA; the model is what `flash-kmeans predict` and `FlashKMeans.load` read."""
    from ..kmeans.estimator import FlashKMeans

    source = open_vectors(data)
    if output.suffix.lower() != ".safetensors":
        raise typer.BadParameter(f"{str(output)!r} must end in .safetensors", param_hint="--output")
    outputs = {"--output": output} if labels is None else {"--output": output, "--labels": labels}
    _check_apart(outputs, [source.path])
    validation.check_count("k", k, 1, source.shape[0], "N", source.shape)
    results.check_output(output, 4 * k * source.shape[1])
    if labels is not None:
        results.check_output(labels, 4 * source.shape[0])
    model = FlashKMeans(
        source.shape[1],
        k,
        niter,
        tol,
        seed,
        metric=metric.value,
        max_mem_gb=max_mem_gb,
        init=init.value,
        n_init=n_init,
        backend=_name(backend),
    )
    with progress_bar("iterations", "iterations") as update:

        def report(i: Iteration) -> None:
            assert update is not None
            update(i.n_iter, niter, f", inertia {i.inertia:.6g}")

        model._fit(source.array(), report=report if update else None)
    model.save(output)
    if labels is not None:
        results.write(
            labels,
            {"labels": np.asarray(model.labels_)},
            {"data_path": data, "model_path": str(output)},
        )
    n, d = source.shape
    say(
        f"{output}: {k} clusters of {n:,} x {d}, inertia {model.inertia_:.8g} after {model.n_iter_} iterations"
    )


@app.command()
@reported
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What `flash-kmeans fit` wrote.")],
    data: Data,
    output: Annotated[Path, _out("labels, .npy, .npz, .safetensors or .pt")],
    max_mem_gb: Cap = 0.0,
    backend: On = None,
) -> None:
    """The cluster of every row of DATA, which is read in chunks and may be larger than memory."""
    from ..kmeans.estimator import FlashKMeans
    from ..kmeans.files import label_file

    check_regular(model)
    source = open_vectors(data)
    _check_apart({"--output": output}, [str(model), source.path])
    fitted = FlashKMeans.load(model)
    results.check_output(output, 8 * source.shape[0])
    with progress_bar("labelling", "rows") as update:
        labels = label_file(
            source,
            fitted.centroids,
            fitted.metric,
            max_mem_gb=max_mem_gb,
            backend=_name(backend),
            progress=update,
        )
    results.write(output, {"labels": labels}, {"data_path": data, "model_path": str(model)})
    say(f"{output}: labels of {len(labels):,} rows")


@app.command()
@reported
def info(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of vectors, results or a model.")
    ],
) -> None:
    """What a file holds: arrays with their names, shapes and types; a model's parameters."""
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
    """Compare with scikit-learn, faiss and superkmeans on this machine; `flash-kmeans benchmark --help` lists the options."""
    run = import_module("flash_kmeans_mlx.benchmark.__main__").main
    raise typer.Exit(run(context.args))


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
    """Refuse to write where something is read, or twice in one place, by whatever name, before any work.

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


def _name(backend: Backend | None) -> str | None:
    return None if backend is None else backend.value


def _device(backend: str) -> str:
    """Where a backend of this name computes: "cpu" or "gpu"."""
    import mlx.core as mx

    return (
        "cpu"
        if backend in ("cpu", "reference") or mx.default_device().type == mx.DeviceType.cpu
        else "gpu"
    )
