"""Writes the source of every Metal kernel that the package may launch, to compile without a GPU.

    python -m flash_kmeans_mlx.backends.metal.export FOLDER

Each file is complete: the preamble that MLX puts before a kernel, then the source that MLX writes.
Only shapes and dtypes matter, so nothing is computed, and Linux will do.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from . import groups, kernels, launch, order, sums, sums_launch, topk
from .kernels import Found, Moved, Normalisation
from .sums import Progress, Rows, Sums

__all__ = ["END_OF_PREAMBLE", "Case", "Source", "cases", "main", "preamble", "sources", "trace"]

END_OF_PREAMBLE = "// End of MLX's preamble.\n"
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
# (B, N): inputs of fewer than 8 elements are in another address space.
SMALLEST, ALONE, BATCH = (1, 1), (1, 100), (8, 100)
INCLUDE = re.compile(r'(?m)^#include "(mlx/[^"]+\.h)"\n')


class Source(NamedTuple):
    """The source of a kernel.

    Attributes:
        function: Its name, which MLX makes of types and template arguments.
        msl: The source that MLX gives to Metal, without the preamble.
    """

    function: str
    msl: str


class Case(NamedTuple):
    """A call of a function of arrays."""

    function: Callable[..., Any]
    inputs: list[mx.array]


def trace(case: Case) -> list[Source]:
    """Return the sources of the kernels that a call launches; its inputs are not evaluated."""
    found: list[Source] = []

    def record(event: dict[str, Any]) -> None:
        if event.get("name") == "CustomKernel":
            function, msl, *_ = event["arguments"]
            found.append(Source(function, msl))

    mx.export_function(record, case.function, *case.inputs)
    return found


def sources(calls: Iterator[Case]) -> dict[str, str]:
    """Return {function: source} of all kernels that these calls launch."""
    return dict(source for case in calls for source in trace(case))


def cases() -> Iterator[Case]:
    """Yield calls that launch every kernel with all template arguments that it may get."""
    for dtype in DTYPES:
        yield from _assign_cases(dtype)
        yield from _sum_cases(dtype)
        yield from _top_cases(dtype)
        for rows, k in ((1, 5), (100, 8), (100, 64), (100, 65)):
            yield Case(kernels.argmax, [mx.zeros((rows, k), dtype)])
    for b, n in (SMALLEST, ALONE, BATCH):
        for k, weighted in product((1, 257, 2049, sums_launch.TABLE + 1, 2**17, 2**23), (0, 1)):
            yield _sort(b, n, k, weighted=bool(weighted))
        for k, spherical, framed in product((1, 100), (False, True), (False, True)):
            yield _move(b, k, spherical=spherical, framed=framed)
            yield _check(b, k, framed=framed, summed=spherical)


def _assign_cases(dtype: mx.Dtype) -> Iterator[Case]:
    for d, framed in product((*range(1, launch.SMALL_D + 1), 16, 32, 64, 128, 129), (False, True)):
        for tiles, (b, n) in product(launch.assign_tiles(d), (SMALLEST, ALONE, BATCH)):
            yield assign_case(b, n, n, d, dtype, framed=framed, tiles=tiles)
        bounded = groups.tiles_for(ALONE[1], d)
        for b, n in (SMALLEST, ALONE, BATCH) if bounded else ():
            yield groups_case(b, n, n, d, dtype, framed=framed)


def _sum_cases(dtype: mx.Dtype) -> Iterator[Case]:
    features = (1, 2, 3, 4, 8, 16, *range(32, 257, 32))
    for d, weighted, framed in product(features, (False, True), (False, True)):
        for k, (b, n) in product((16, 32, 64, 100), (SMALLEST, ALONE, BATCH)):
            yield sum_case(b, n, k, d, dtype, weighted=weighted, framed=framed)


def _top_cases(dtype: mx.Dtype) -> Iterator[Case]:
    for d, framed in product((1, 16, 32, 64, 65), (False, True)):
        for (b, n), entries in product((SMALLEST, ALONE, BATCH), (1, launch.FUSED_K + 1)):
            for k in (n, 300, 1000):  # one part of K, two, and several
                yield top_case(b, n, k, d, dtype, entries, framed=framed)
    for rows, m in ((1, 5), (1, 100), (100, 100)):
        for entries in (1, launch.FUSED_K + 1):
            yield top_of_rows_case(rows, m, dtype, entries)


def assign_case(
    b: int,
    n: int,
    k: int,
    d: int,
    dtype: mx.Dtype,
    *,
    framed: bool,
    tiles: launch.Tiles | launch.PointTiles,
) -> Case:
    """Return a call of `kernels.assign`."""

    def assign(x: mx.array, c: mx.array, bias: mx.array, *normalisation: mx.array) -> Any:
        read = Normalisation(*normalisation) if normalisation else None
        return kernels.assign(x, c, bias, read, tiles=tiles)

    return Case(assign, _problem(b, n, k, d, dtype, framed=framed))


def groups_case(b: int, n: int, k: int, d: int, dtype: mx.Dtype, *, framed: bool) -> Case:
    """Return a call of `groups.assign`, for a shape that it takes."""
    tiles = groups.tiles_for(k, d)
    assert tiles

    def assign(x: mx.array, c: mx.array, bias: mx.array, *rest: mx.array) -> Any:
        order, position, square, *normalisation = rest
        labels, bounds = groups.assign(
            x,
            c,
            bias,
            Normalisation(*normalisation) if framed else None,
            tiles=tiles,
            grouping=groups.Grouping(order, position),
            square=square,
            bounds=groups.start(n, c, tiles),
        )
        return labels, *bounds

    x, c, bias, *normalisation = _problem(b, n, k, d, dtype, framed=framed)
    places = [mx.zeros((b, k), mx.uint32)] * 2
    return Case(assign, [x, c, bias, *places, mx.zeros((b, n)), *normalisation])


def sum_case(
    b: int, n: int, k: int, d: int, dtype: mx.Dtype, *, weighted: bool, framed: bool
) -> Case:
    """Return a call of `sums.reduce`."""

    def reduce(
        x: mx.array, labels: mx.array, weights: mx.array, running: mx.array, *rest: mx.array
    ) -> Any:
        read = Normalisation(*rest) if framed else None
        rows = Rows(x, weights if weighted else None, read)
        old = Sums(mx.zeros((b, k, d)), mx.zeros((b, k)), mx.zeros((b, k), mx.uint32))
        left = running.astype(mx.int32)
        found = Found(labels[None], weights[None])
        reduced = sums.reduce(rows, found, labels, old, Progress(running, left, left))
        return reduced.labels, *reduced.sums, *reduced.progress

    inputs = [mx.zeros((b, n, d), dtype), mx.zeros((b, n), mx.uint32), mx.zeros((b, n))]
    running = mx.zeros((b,), mx.uint32)
    return Case(reduce, [*inputs, running, *_normalisation(b, d, framed=framed)])


def top_case(
    b: int, n: int, k: int, d: int, dtype: mx.Dtype, entries: int, *, framed: bool
) -> Case:
    """Return a call of `topk.topk`."""

    def top(x: mx.array, c: mx.array, bias: mx.array, *normalisation: mx.array) -> Any:
        read = Normalisation(*normalisation) if normalisation else None
        return topk.topk(x, c, bias, entries, read)

    return Case(top, _problem(b, n, k, d, dtype, framed=framed))


def top_of_rows_case(rows: int, m: int, dtype: mx.Dtype, entries: int) -> Case:
    """Return a call of `topk.top_of_rows`."""
    return Case(lambda scores: topk.top_of_rows(scores, entries), [mx.zeros((rows, m), dtype)])


def _sort(b: int, n: int, n_clusters: int, *, weighted: bool) -> Case:
    def sort(labels: mx.array, weights: mx.array, running: mx.array) -> Any:
        found = Found(labels[None], labels[None])
        read = weights if weighted else None
        return tuple(order.sort_labels(found, labels, read, running, n_clusters))

    inputs = [mx.zeros((b, n), mx.uint32), mx.zeros((b, n)), mx.zeros((b,), mx.uint32)]
    return Case(sort, inputs)


def _check(b: int, k: int, *, framed: bool, summed: bool) -> Case:
    def check(moved: mx.array, still: mx.array, status: mx.array, shift: mx.array) -> Any:
        return tuple(
            kernels.check_moves(
                Moved(moved, moved, moved, moved, still),
                active=still[:, 0],
                status=status,
                shift=shift,
                tol=mx.array(0.0),
                scale=shift if framed else None,
                summed=summed,
            )
        )

    cells = (b, k)
    inputs = [mx.zeros(cells), mx.zeros(cells, mx.uint32)]
    return Case(check, [*inputs, mx.zeros((b,), mx.int32), mx.zeros((b,))])


def _move(b: int, k: int, *, spherical: bool, framed: bool) -> Case:
    def move(
        sums: mx.array, weight_sum: mx.array, active: mx.array, shift: mx.array, scale: mx.array
    ) -> Any:
        return tuple(
            kernels.move_centroids(
                sums=sums,
                weight_sum=weight_sum,
                old=sums,
                active=active,
                spherical=spherical,
                shift=shift if framed else None,
                scale=scale if framed else None,
            )
        )

    d = k
    zeros = [mx.zeros(shape) for shape in ((b, k, d), (b, k), (b, d), (b,))]
    return Case(move, [*zeros[:2], mx.zeros((b,), mx.uint32), *zeros[2:]])


def _problem(b: int, n: int, k: int, d: int, dtype: mx.Dtype, *, framed: bool) -> list[mx.array]:
    points = [mx.zeros((b, n, d), dtype), mx.zeros((b, k, d)), mx.zeros((b, k))]
    return [*points, *_normalisation(b, d, framed=framed)]


def _normalisation(b: int, d: int, *, framed: bool) -> list[mx.array]:
    return [mx.zeros((b, d)), mx.zeros((b,))] if framed else []


def preamble() -> str:
    """Return what MLX puts before a kernel: `utils.h` after the headers that it includes."""
    root = Path(str(mx.__file__)).parent / "include"
    seen: set[str] = set()

    def text(name: str) -> Iterator[str]:
        if name in seen:
            return
        seen.add(name)
        content = (root / name).read_text(encoding="utf-8")
        for needed in INCLUDE.findall(content):
            yield from text(needed)
        yield f'#line 1 "{name}"\n'
        yield INCLUDE.sub("\n", content).replace("#pragma once", "")
        yield "\n"

    return "".join(text("mlx/backend/metal/kernels/utils.h")) + END_OF_PREAMBLE


def write(folder: Path) -> int:
    """Write a file for each kernel and return their number."""
    folder.mkdir(parents=True, exist_ok=True)
    before = preamble()
    found = sources(cases())
    for function, msl in found.items():
        name = function.removeprefix("custom_kernel_flash_kmeans_")
        (folder / f"{name}.metal").write_text(before + msl, encoding="utf-8")
    return len(found)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    if len(arguments) != 1:
        print("usage: python -m flash_kmeans_mlx.backends.metal.export FOLDER", file=sys.stderr)
        return 2
    number = write(Path(arguments[0]))
    if not number:
        print("this MLX does not hand out sources; 0.32.0 and later do", file=sys.stderr)
        return 1
    print(f"{number} kernels written to {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
