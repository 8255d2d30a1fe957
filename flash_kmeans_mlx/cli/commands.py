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
from ..files import check_regular, open_vectors, results
from ..kmeans.estimator import FlashKMeans
from ..kmeans.files import label_file
from ..kmeans.lloyd import Iteration
from ..kmeans.seeding import INITS
from ..metrics import METRICS, PROXIMITIES
from ..neighbours.files import search_files
from .terminal import plain, progress_bar, reported, say

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
Data = Annotated[str, typer.Argument(metavar="DATA", help="File of vectors (N, D), or FILE::NAME.")]


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
    with progress_bar("searching", "rows") as update:
        result = search_files(
            x,
            y,
            k,
            metric,
            max_mem_gb=max_mem_gb,
            backend=backend,
            exclude_self=exclude_self,
            progress=update,
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
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the labels too: .npy, .npz, .safetensors, .pt."),
    ] = None,
    max_mem_gb: MaxMemory = 0.0,
    backend: Backend = None,
) -> None:
    """Cluster the rows of DATA; `flash-kmeans predict` and `FlashKMeans.load` read the model."""
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
        metric=metric,
        max_mem_gb=max_mem_gb,
        init=init,
        n_init=n_init,
        backend=backend,
    )
    with progress_bar("iterations", "iterations") as update:

        def report(i: Iteration) -> None:
            assert update is not None
            update(i.n_iter, niter, f", inertia {i.inertia:.6g}")

        model._fit(source.array(), callback=report if update else None)
    model.save(output)
    if labels is not None:
        results.write(
            labels,
            {"labels": np.asarray(model.labels_)},
            {"data_path": data, "model_path": str(output)},
        )
    n, d = source.shape
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
    output: Annotated[Path, _output("labels, .npy, .npz, .safetensors or .pt")],
    max_mem_gb: MaxMemory = 0.0,
    backend: Backend = None,
) -> None:
    """Find the cluster of every row of DATA, which is read in chunks.

    DATA may be larger than memory.
    """
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
            backend=backend,
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
