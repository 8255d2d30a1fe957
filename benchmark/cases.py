"""The benchmark's cases: named, tagged problems on real and synthetic data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .gate import unit_rows

Array = npt.NDArray[Any]
METRICS = ("euclidean", "cosine", "dot")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Case:
    """One problem: data of a shape, a number of clusters, a number of iterations.

    Attributes:
        name: What ``--case`` calls it.
        B: Number of independent problems.
        N: Points in each of them.
        D: Coordinates of a point.
        K: Clusters of each problem.
        iters: Lloyd iterations that every contestant is asked for.
        make: Makes the data, float32 ``(B, N, D)``.
        tags: ``quick`` (in the default run), ``seeding`` (k-means++ is timed unasked), ``fit`` (also as a whole fit),
            ``quick-fit`` (that too is in the default run), ``real``, ``batched``.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
        dtype: Type of the points.
        needs: A module that making the data needs, with the package that has it.
        queries: For a search of the K nearest points, further points that ask; 0 for the points themselves.
    """

    name: str
    B: int
    N: int
    D: int
    K: int
    iters: int
    make: Callable[[Case, np.random.Generator], Array]
    tags: tuple[str, ...] = ()
    metric: str = "euclidean"
    dtype: str = "float32"
    needs: tuple[str, str] | None = None
    queries: int = 0

    def __post_init__(self) -> None:
        for field in ("B", "N", "D", "K"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be >= 1 (case {self.name})")
        if self.K > self.N:
            raise ValueError(f"K={self.K} must be <= N={self.N} (case {self.name})")
        if self.iters < 1:
            raise ValueError(f"iters={self.iters} must be >= 1 (case {self.name})")

    def missing(self) -> str | None:
        """Why the data can't be made here, or None."""
        if self.needs is None or importlib.util.find_spec(self.needs[0]) is not None:
            return None
        return f"needs {self.needs[1]}: pip install {self.needs[1].lower()}"

    def data(self, seed: int = 0) -> Array:
        """The points, float32 ``(B, N, D)``, rounded to ``dtype``."""
        if self.queries:
            return np.ascontiguousarray(self._drawn(seed)[:, : self.N])
        x = np.ascontiguousarray(self.make(self, np.random.default_rng(seed)), dtype=np.float32)
        return round_to(x, self.dtype)

    def start(self, x: Array, seed: int = 0) -> Array:
        """The centroids every contestant starts from, ``(B, K, D)``: points drawn at random, no two alike if possible.

        Equal start centroids would leave clusters empty at once, and the contestants' rules for those differ.
        """
        rng = np.random.default_rng(seed)
        c = np.stack([_distinct_rows(element, self.K, rng) for element in x])
        return c if self.metric == "euclidean" else unit_rows(c)

    def ask(self) -> Array:
        """The queries of a search, float32 ``(1, Q, D)``: the points, or further ones of the same draw."""
        return self._drawn()[:, self.N :] if self.queries else self.data()

    def _drawn(self, seed: int = 0) -> Array:
        return replace(self, N=self.N + self.queries, queries=0).data(seed)

    def shape(self, kind: str = "lloyd") -> str:
        """The shape in words."""
        if kind == "knn":
            return f"{self.queries or self.N:,} queries, {self.N:,} x {self.D}, k={self.K}, {self.metric}, {self.dtype}"
        batch = f"{self.B} x " if self.B > 1 else ""
        return f"{batch}{self.N:,} x {self.D}, K={self.K}, {self.metric}, {self.dtype}"


@dataclass(frozen=True)
class Job:
    """What is run on a case: Lloyd from a given start (``"lloyd"``), a whole fit (``"fit"``), or a search (``"knn"``)."""

    case: Case
    kind: str

    @property
    def name(self) -> str:
        """What ``--case`` calls it."""
        return self.case.name if self.kind == "lloyd" else f"{self.kind}:{self.case.name}"


def round_to(x: Array, dtype: str) -> Array:
    """``x`` in float32 with the values it has in ``dtype`` (round to nearest, ties to even)."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


def _distinct_rows(x: Array, k: int, rng: np.random.Generator) -> Array:
    order = rng.permutation(len(x))
    for drawn in (order[: 8 * k], order):
        first = np.sort(np.unique(x[drawn], axis=0, return_index=True)[1])
        if len(first) >= k:
            return x[drawn[first[:k]]]
    return x[order[:k]]


def gauss(case: Case, rng: np.random.Generator) -> Array:
    """Standard normal points: no structure at all, the hardest case for anything that prunes."""
    return rng.standard_normal((case.B, case.N, case.D), dtype=np.float32)


def blobs(case: Case, rng: np.random.Generator) -> Array:
    """Overlapping Gaussian clusters, other ones in each problem of the batch."""
    centres = rng.standard_normal((case.B, case.K, case.D), dtype=np.float32) * 2
    element = rng.integers(case.K, size=(case.B, case.N, 1))
    return np.take_along_axis(centres, element, axis=1) + rng.standard_normal(
        (case.B, case.N, case.D), dtype=np.float32
    )


def sift_like(case: Case, rng: np.random.Generator) -> Array:
    """Integers of 0 to 255 in rows of norm about 512, sparse and skewed as gradient histograms are."""
    centres = rng.gamma(0.6, size=(4 * case.K, case.D)).astype(np.float32)
    x = centres[rng.integers(len(centres), size=case.B * case.N)]
    x *= rng.gamma(2.0, 0.5, size=x.shape)
    x *= 512 / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return np.minimum(np.rint(x), 255).reshape(case.B, case.N, case.D)


def embeddings(case: Case, rng: np.random.Generator) -> Array:
    """Unit rows in clusters around a low-dimensional subspace, as the vectors of a language model are."""
    rank = min(64, case.D)
    basis = np.linalg.qr(rng.standard_normal((case.D, rank)))[0].T.astype(np.float32)
    scale = np.arange(1, rank + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((2 * case.K, rank), dtype=np.float32) * scale
    rows = case.B * case.N
    low = 0.5 * scale * rng.standard_normal((rows, rank), dtype=np.float32)
    low += centres[rng.integers(len(centres), size=rows)]
    x = low @ basis + 0.02 * rng.standard_normal((rows, case.D), dtype=np.float32)
    return unit_rows(x).reshape(case.B, case.N, case.D)


def photograph() -> Array:
    """One of the photographs scikit-learn ships, uint8 (427, 640, 3)."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def pixels(case: Case, rng: np.random.Generator) -> Array:
    """The colours of a photograph, 0 to 255."""
    del case, rng
    return photograph().reshape(1, -1, 3).astype(np.float32)


def patches(case: Case, rng: np.random.Generator) -> Array:
    """All 8 x 8 colour patches of a photograph at every second row and column."""
    del case, rng
    windows = np.lib.stride_tricks.sliding_window_view(photograph(), (8, 8, 3))[::2, ::2]
    return windows.reshape(1, -1, 192).astype(np.float32)


def digits(case: Case, rng: np.random.Generator) -> Array:
    """The 8 x 8 images of handwritten digits that scikit-learn ships, 0 to 16."""
    del case, rng
    from sklearn.datasets import load_digits

    return np.asarray(load_digits(return_X_y=True)[0], dtype=np.float32)[None]


_PHOTO = ("PIL", "Pillow")
CASES = (
    Case("digits", 1, 1797, 64, 10, 50, digits, ("quick", "real", "seeding", "fit", "quick-fit")),
    Case(
        "pixels",
        1,
        273_280,
        3,
        64,
        30,
        pixels,
        ("quick", "real", "seeding", "fit", "quick-fit"),
        needs=_PHOTO,
    ),
    Case("patches", 1, 66_570, 192, 1000, 10, patches, ("quick", "real", "fit"), needs=_PHOTO),
    Case("gauss-5k", 1, 5_000, 64, 50, 10, gauss, ("quick", "seeding", "fit")),
    Case("gauss-50k", 1, 50_000, 128, 256, 20, gauss, ("fit",)),
    Case("gauss-100k", 1, 100_000, 128, 1000, 10, gauss, ("quick", "fit")),
    Case("gauss-500k", 1, 500_000, 128, 1000, 10, gauss),
    Case("sift", 1, 60_000, 128, 1024, 20, sift_like, ("fit",)),
    Case("embeddings", 1, 50_000, 768, 512, 20, embeddings, ("fit",)),
    Case("batch-256", 256, 500, 16, 8, 10, blobs, ("quick", "batched")),
    Case("batch-32", 32, 16_384, 64, 100, 10, blobs, ("batched",)),
)
# The first twelve have the shapes of mlx-nn's table: every point asks, and finds itself first. For k=1 that is all a tree does.
SEARCHES = (
    *(
        Case(f"self-{n}-{d}", 1, n, d, 10, 1, gauss)
        for d in (3, 10, 50, 100)
        for n in (100, 1000, 10_000)
    ),
    Case("gauss-k10", 1, 100_000, 128, 10, 1, gauss, queries=1000),
    Case("gauss-k100", 1, 100_000, 128, 100, 1, gauss, queries=1000),
    Case("gauss-one", 1, 100_000, 128, 10, 1, gauss, queries=1),
    Case("sift-k10", 1, 60_000, 128, 10, 1, sift_like, queries=1000),
    Case("embeddings-k10", 1, 20_000, 768, 10, 1, embeddings, queries=1000),
    Case("cosine-k10", 1, 20_000, 768, 10, 1, embeddings, metric="cosine", queries=1000),
    Case("dot-k10", 1, 20_000, 768, 10, 1, gauss, metric="dot", queries=1000),
    Case("low-k10", 1, 100_000, 3, 10, 1, gauss, queries=100_000),
    Case("self-100000-3", 1, 100_000, 3, 10, 1, gauss),
)
GROUPS = {
    "quick": "the default run",
    "all": "Lloyd on every case",
    "fit": "every whole fit, as users call it",
    "knn": "every search of nearest neighbours",
}


def custom(
    n: int = 100_000, d: int = 128, k: int | None = None, b: int = 1, iters: int = 20
) -> Case:
    """A case of standard normal points in the given shape; 256 clusters at most unless told."""
    return Case("custom", b, n, d, min(n, 256) if k is None else k, iters, gauss)


def select(names: Iterable[str]) -> list[Job]:
    """The jobs that these names stand for, in order and without repeats.

    Args:
        names: Names of cases, ``fit:`` or ``knn:`` and the name of a case, or ``quick``, ``all``, ``fit``, ``knn``.

    Raises:
        ValueError: A name is unknown.
    """
    lloyd = {case.name: Job(case, "lloyd") for case in CASES}
    fits = {f"fit:{case.name}": Job(case, "fit") for case in CASES if "fit" in case.tags}
    searches = {f"knn:{case.name}": Job(case, "knn") for case in SEARCHES}
    groups: dict[str, list[Job]] = {
        "quick": [job for job in lloyd.values() if "quick" in job.case.tags]
        + [job for job in fits.values() if "quick-fit" in job.case.tags],
        "all": list(lloyd.values()),
        "fit": list(fits.values()),
        "knn": list(searches.values()),
    }
    chosen: list[Job] = []
    for name in names:
        found = groups.get(name) or [
            job
            for job in (lloyd.get(name) or fits.get(name) or searches.get(name),)
            if job is not None
        ]
        if not found:
            known = ", ".join([*groups, *lloyd, *fits, *searches])
            raise ValueError(f"unknown case {name!r}; known are {known}")
        chosen += [job for job in found if job not in chosen]
    return chosen


def override(
    case: Case, iters: int | None = None, metric: str | None = None, dtype: str | None = None
) -> Case:
    """``case`` with the given settings changed."""
    changes = {"iters": iters, "metric": metric, "dtype": dtype}
    return replace(case, **{key: value for key, value in changes.items() if value is not None})
