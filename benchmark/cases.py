"""Cases of the suites kmeans, neighbours and index: named problems on real and synthetic data."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import text
from .gate import unit_rows

Array = npt.NDArray[Any]
METRICS = ("euclidean", "cosine", "dot")
DTYPES = ("float32", "float16", "bfloat16")


class Job(ABC):
    """One entry of ``--case`` in any suite."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name for ``--case``."""

    @abstractmethod
    def description(self) -> str:
        """Return the problem in words."""

    def missing(self) -> str | None:
        """Return why it can't run here, or None."""
        return None


@dataclass(frozen=True)
class Case:
    """One problem: data of a shape, a number of clusters, a number of iterations.

    Attributes:
        name: The name for ``--case``.
        B: Number of independent problems.
        N: Points in each of them.
        D: Coordinates of a point.
        K: Clusters of each problem.
        iters: Lloyd iterations that every contestant runs.
        make: Makes the data, float32 ``(B, N, D)``, or less where less is there.
        tags: ``quick`` (in the default run), ``seeding`` (k-means++ is always timed), ``fit`` (also
            run as a whole fit), ``quick-fit`` (and that in the default run), ``real``.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
        dtype: Type of the points.
        needs: A module that making the data needs, and the package that has it.
        queries: Queries of a search of the K nearest points, evenly spaced among those that are
            made; 0 for the points themselves.
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
        for field in ("B", "N", "D", "K", "iters"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be >= 1 (case {self.name})")
        if self.K > self.N:
            raise ValueError(f"K={self.K} must be <= N={self.N} (case {self.name})")

    def missing(self) -> str | None:
        """Return why the data can't be made here, or None."""
        if self.needs is None or importlib.util.find_spec(self.needs[0]) is not None:
            return None
        return f"needs {self.needs[1]}: pip install {self.needs[1].lower()}"

    def data(self, seed: int = 0) -> Array:
        """Make the points, float32 ``(B, N, D)``, rounded to ``dtype``."""
        x = self._made(seed)
        return np.delete(x, self._held_out(x), axis=1) if self.queries else x

    def query_points(self, seed: int = 0) -> Array:
        """Make the queries of a search, float32 ``(1, Q, D)``, of the same draw as the points."""
        x = self._made(seed)
        return x[:, self._held_out(x)] if self.queries else x

    def _made(self, seed: int) -> Array:
        whole = replace(self, N=self.N + self.queries)
        x = np.ascontiguousarray(self.make(whole, np.random.default_rng(seed)), dtype=np.float32)
        return round_to(x, self.dtype)

    def _held_out(self, x: Array) -> Array:
        return np.linspace(0, x.shape[1] - 1, self.queries).astype(np.int64)

    def sized_like(self, x: Array) -> Case:
        """Return the case with the shape of its points, which may be smaller than expected."""
        _, n, d = x.shape
        return replace(self, N=n, D=d, K=min(self.K, n))

    def start(self, x: Array, seed: int = 0) -> Array:
        """Draw the points ``(B, K, D)`` that every contestant starts from, distinct if possible.

        Equal centroids would leave clusters empty at once, and contestants treat those differently.
        """
        rng = np.random.default_rng(seed)
        c = np.stack([_distinct_rows(element, self.K, rng) for element in x])
        return c if self.metric == "euclidean" else unit_rows(c)

    def shape(self, kind: str = "lloyd") -> str:
        """Return the shape in words."""
        points = f"{self.N:,} x {self.D}"
        if kind == "knn":
            shape = f"{self.queries or self.N:,} queries, {points}, k={self.K}"
        else:
            shape = f"{self.B} x {points}" if self.B > 1 else points
            shape += f", K={self.K}"
        return f"{shape}, {self.metric}, {self.dtype}"


@dataclass(frozen=True)
class KMeansJob(Job):
    """A case, and what is run on it.

    It is ``"lloyd"`` (iterations from a given start), ``"fit"`` (a whole fit) or ``"knn"``.
    """

    case: Case
    kind: str

    @property
    def name(self) -> str:
        return self.case.name if self.kind == "lloyd" else f"{self.kind}:{self.case.name}"

    def missing(self) -> str | None:
        return self.case.missing()

    def description(self) -> str:
        if self.kind == "fit":
            return f"{self.case.shape()}, a whole fit"
        iters = f", {self.case.iters} iterations" if self.kind == "lloyd" else ""
        seeding = ", k-means++" if "seeding" in self.case.tags else ""
        return self.case.shape(self.kind) + iters + seeding


@dataclass(frozen=True)
class IndexCase(Job):
    """Vectors, and the indexes that are built of them.

    Attributes:
        points: Makes the vectors and the queries.
        nlist: Lists of an IVF index.
        m: Codes of a product quantizer.
        links: Links of a graph (HNSW); 0 for none.
        kinds: Whether many kinds of codes are compared too.
    """

    points: Case
    nlist: int
    m: int
    links: int = 0
    kinds: bool = False

    @property
    def name(self) -> str:
        return self.points.name

    @property
    def factories(self) -> tuple[str, ...]:
        """The indexes, as factory strings."""
        lists = f"IVF{self.nlist}"
        graph = (f"HNSW{self.links}",) if self.links else ()
        return f"{lists},Flat", f"PQ{self.m}", f"{lists},PQ{self.m}", *graph

    def missing(self) -> str | None:
        return self.points.missing()

    def description(self) -> str:
        shape = f"{self.points.N:,} x {self.points.D}, {self.points.queries:,} queries"
        return f"{shape}: {'; '.join(self.factories)}"

    def nprobes(self, factory: str) -> tuple[int, ...]:
        """Return the numbers of lists to search: powers of 2, and all lists of exact vectors.

        For a graph they are the numbers of candidates, called ef.
        """
        if factory.startswith("HNSW"):
            return 16, 32, 64, 128, 256
        if not factory.startswith("IVF"):
            return (0,)
        every = [self.nlist] if factory.endswith("Flat") else []
        return (*(n for n in (1, 2, 4, 8, 16, 32, 64) if n < self.nlist), *every)


def round_to(x: Array, dtype: str) -> Array:
    """Return ``x``, float32, rounded to ``dtype``: to nearest, ties to even."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


def _distinct_rows(x: Array, k: int, rng: np.random.Generator) -> Array:
    order = rng.permutation(len(x))
    for drawn in (order[: 8 * k], order):  # a part of the rows has enough distinct ones, mostly
        first = np.sort(np.unique(x[drawn], axis=0, return_index=True)[1])
        if len(first) >= k:
            return x[drawn[first[:k]]]
    return x[order[:k]]


def gauss(case: Case, rng: np.random.Generator) -> Array:
    """Make standard normal points, which have no structure: the hardest case for pruning."""
    return rng.standard_normal((case.B, case.N, case.D), dtype=np.float32)


def blobs(case: Case, rng: np.random.Generator) -> Array:
    """Make overlapping Gaussian clusters, different ones in each problem of the batch."""
    centres = rng.standard_normal((case.B, case.K, case.D), dtype=np.float32) * 2
    cluster = rng.integers(case.K, size=(case.B, case.N, 1))
    noise = rng.standard_normal((case.B, case.N, case.D), dtype=np.float32)
    return np.take_along_axis(centres, cluster, axis=1) + noise


def sift_like(case: Case, rng: np.random.Generator) -> Array:
    """Make integers of 0 to 255 in rows of norm about 512, sparse and skewed like SIFT vectors."""
    centres = rng.gamma(0.6, size=(4 * case.K, case.D)).astype(np.float32)
    x = centres[rng.integers(len(centres), size=case.B * case.N)]
    x *= rng.gamma(2.0, 0.5, size=x.shape)
    x *= 512 / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return np.minimum(np.rint(x), 255).reshape(case.B, case.N, case.D)


def embeddings(case: Case, rng: np.random.Generator) -> Array:
    """Make unit rows in clusters near a low-dimensional subspace, like text embeddings."""
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
    """Return one of scikit-learn's photographs, uint8 (427, 640, 3)."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def pixels(case: Case, rng: np.random.Generator) -> Array:
    """Return the colours of a photograph, 0 to 255."""
    del case, rng
    return photograph().reshape(1, -1, 3).astype(np.float32)


def patches(case: Case, rng: np.random.Generator) -> Array:
    """Return the 8 x 8 colour patches of a photograph at every second row and column."""
    del case, rng
    windows = np.lib.stride_tricks.sliding_window_view(photograph(), (8, 8, 3))[::2, ::2]
    return windows.reshape(1, -1, 192).astype(np.float32)


def digits(case: Case, rng: np.random.Generator) -> Array:
    """Return scikit-learn's 8 x 8 images of handwritten digits, 0 to 16."""
    del case, rng
    from sklearn.datasets import load_digits

    return np.asarray(load_digits(return_X_y=True)[0], dtype=np.float32)[None]


def paragraphs(case: Case, rng: np.random.Generator) -> Array:
    """Return the first paragraphs of real text as unit rows, see `text`."""
    del rng
    return text.points(case.D)[None, : case.N]


_PHOTO = ("PIL", "Pillow")
_QUICK_FIT = ("quick", "real", "seeding", "fit", "quick-fit")
CASES = (
    Case("digits", 1, 1797, 64, 10, 50, digits, _QUICK_FIT),
    Case("pixels", 1, 273_280, 3, 64, 30, pixels, _QUICK_FIT, needs=_PHOTO),
    Case("patches", 1, 66_570, 192, 1000, 10, patches, ("quick", "real", "fit"), needs=_PHOTO),
    Case("gauss-5k", 1, 5_000, 64, 50, 10, gauss, ("quick", "seeding", "fit")),
    Case("gauss-50k", 1, 50_000, 128, 256, 20, gauss, ("quick", "fit")),
    Case("gauss-100k", 1, 100_000, 128, 1000, 10, gauss, ("fit",)),
    Case("gauss-500k", 1, 500_000, 128, 1000, 10, gauss),
    Case("sift", 1, 60_000, 128, 1024, 20, sift_like, ("fit",)),
    Case("embeddings", 1, 50_000, 768, 512, 20, embeddings, ("fit",)),
    Case("text", 1, 60_000, 128, 1024, 20, paragraphs, ("real", "fit")),
    Case("text-384", 1, 20_000, 384, 256, 20, paragraphs, ("real", "fit")),
    Case("batch-256", 256, 500, 16, 8, 10, blobs, ("quick",)),
    Case("batch-32", 32, 16_384, 64, 100, 10, blobs),
)
# Sizes that are usual for embeddings. Texts of equal D follow one another, see `text.points`.
GRID = tuple(
    Case(f"{kind}-{n // 1000}k-{d}-{k}", 1, n, d, k, 10, make)
    for kind, make in (("gauss", gauss), ("text", paragraphs))
    for d in (128, 384, 768)
    for n in (5_000, 20_000, 50_000)
    for k in (64, 256, 1024)
)
# The first twelve have the shapes of mlx-nn's table: every point is a query and finds itself first.
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
    Case("text-k10", 1, 59_000, 128, 10, 1, paragraphs, ("real",), queries=1000),
    Case("cosine-k10", 1, 20_000, 768, 10, 1, embeddings, metric="cosine", queries=1000),
    Case("dot-k10", 1, 20_000, 768, 10, 1, gauss, metric="dot", queries=1000),
    Case("low-k10", 1, 100_000, 3, 10, 1, gauss, queries=100_000),
    Case("self-100000-3", 1, 100_000, 3, 10, 1, gauss),
)


INDEXES = (
    IndexCase(Case("patches", 1, 65_570, 192, 1, 1, patches, needs=_PHOTO, queries=1000), 256, 24),
    IndexCase(Case("embeddings", 1, 200_000, 128, 1000, 1, embeddings, queries=1000), 1024, 16),
    IndexCase(
        Case("text", 1, 19_000, 128, 1, 1, paragraphs, ("real",), queries=1000), 128, 16, 16, True
    ),
)


def custom(
    n: int = 100_000, d: int = 128, k: int | None = None, b: int = 1, iters: int = 20
) -> Case:
    """Return a case of standard normal points, with at most 256 clusters by default."""
    return Case("custom", b, n, d, min(n, 256) if k is None else k, iters, gauss)
