"""Vector indexes: the cases, who takes part, and what runs in a contestant's process.

Started like ``worker.py``; requests, by their ``op``: ``load`` (``x`` and ``queries``, paths of .npy files), ``train`` and
``add`` (``factory``: what to build; answer: ``seconds``), ``describe`` (``save``: writes the centroids and some vectors as the
index keeps them), ``memory`` (bytes that an index takes), ``search`` (``nprobe``, ``repeats``, ``save``).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from . import worker
from .cases import Array, Case, embeddings, patches
from .contestants import missing
from .memory import resident

K = 10  # neighbours asked for
KEPT = 20_000  # vectors whose error of quantization is measured


@dataclass(frozen=True)
class IndexCase:
    """Vectors, and the indexes to be built of them.

    Attributes:
        points: Makes the vectors.
        nlist, m: Of the indexes.
        queries: Vectors that are held out, evenly spaced, and asked for.
    """

    points: Case
    nlist: int
    m: int
    queries: int = 1000

    @property
    def name(self) -> str:
        """What ``--case`` calls it."""
        return self.points.name

    @property
    def factories(self) -> tuple[str, ...]:
        """The indexes, in the words of an index factory."""
        return f"IVF{self.nlist},Flat", f"PQ{self.m}", f"IVF{self.nlist},PQ{self.m}"

    def nprobes(self, factory: str) -> tuple[int, ...]:
        """How many lists are looked at: powers of 2, and all of them where distances are exact; none without lists."""
        if not factory.startswith("IVF"):
            return (0,)
        most = [self.nlist] if factory.endswith("Flat") else []
        return (*(n for n in (1, 2, 4, 8, 16, 32, 64) if n < self.nlist), *most)

    def data(self) -> tuple[Array, Array]:
        """Vectors (N, D) and queries (Q, D)."""
        x = self.points.data()[0]
        out = np.linspace(0, len(x) - 1, self.queries).astype(np.int64)
        return np.delete(x, out, axis=0), x[out]


CASES = (
    IndexCase(Case("patches", 1, 66_570, 192, 1, 1, patches, needs=("PIL", "Pillow")), 256, 24),
    IndexCase(Case("embeddings", 1, 201_000, 128, 1000, 1, embeddings), 1024, 16),
)


@dataclass(frozen=True)
class IndexContestant(ABC):
    """A library of vector indexes; ``trained``, ``add`` and ``search`` run inside the clock."""

    name: ClassVar[str]
    package: ClassVar[str]

    def missing(self) -> str | None:
        """Why it can't run here, or None."""
        return missing(self.package)

    @abstractmethod
    def prepare(self) -> None:
        """Imports the library."""

    @abstractmethod
    def trained(self, factory: str, x: Array) -> Any:
        """An index of this kind, trained on x."""

    def add(self, index: Any, x: Array) -> None:
        """Adds vectors with the ids 0, 1, ..."""
        index.add(x)

    @abstractmethod
    def search(self, index: Any, queries: Array, nprobe: int) -> Array:
        """(Q, K) ids."""

    @abstractmethod
    def kept(self, index: Any, n: int) -> Array:
        """(n, D): the first n vectors as the index keeps them."""

    @abstractmethod
    def centroids(self, index: Any) -> Array:
        """(nlist, D)."""


@dataclass(frozen=True)
class Ours(IndexContestant):
    """`flash_kmeans_mlx.index`."""

    name: ClassVar[str] = "flash-kmeans-mlx"
    package: ClassVar[str] = "flash-kmeans-mlx"

    def prepare(self) -> None:
        import flash_kmeans_mlx.index  # noqa: F401

    def trained(self, factory: str, x: Array) -> Any:
        from flash_kmeans_mlx.index import index_factory

        index = index_factory(x.shape[1], factory)
        index.train(x)
        return index

    def search(self, index: Any, queries: Array, nprobe: int) -> Array:
        how = {"nprobe": nprobe} if nprobe else {}
        return index.search(queries, K, **how)[1]

    def kept(self, index: Any, n: int) -> Array:
        return index.reconstruct_batch(np.arange(n))

    def centroids(self, index: Any) -> Array:
        return index.centroids


@dataclass(frozen=True)
class Faiss(IndexContestant):
    """faiss, with its own settings for training, but for the polysemous order of codewords: 20 s that no search here uses."""

    name: ClassVar[str] = "faiss"
    package: ClassVar[str] = "faiss-cpu"

    def prepare(self) -> None:
        import faiss  # noqa: F401

    def trained(self, factory: str, x: Array) -> Any:
        import faiss

        index = faiss.index_factory(x.shape[1], unordered(factory))
        index.train(x)
        return index

    def search(self, index: Any, queries: Array, nprobe: int) -> Array:
        if nprobe:
            index.nprobe = nprobe
        return index.search(queries, K)[1]

    def kept(self, index: Any, n: int) -> Array:
        if hasattr(index, "make_direct_map"):
            index.make_direct_map()
        return index.reconstruct_n(0, n)

    def centroids(self, index: Any) -> Array:
        return index.quantizer.reconstruct_n(0, index.nlist)


@dataclass(frozen=True)
class TrainedFaiss(Faiss):
    """faiss's index, trained by `train_faiss`."""

    name: ClassVar[str] = "faiss, trained by us"

    def prepare(self) -> None:
        super().prepare()
        import flash_kmeans_mlx.index  # noqa: F401

    def trained(self, factory: str, x: Array) -> Any:
        import faiss

        from flash_kmeans_mlx.index import train_faiss

        return train_faiss(faiss.index_factory(x.shape[1], unordered(factory)), x)


def unordered(factory: str) -> str:
    """What faiss calls the same index without polysemous training."""
    return factory + "np" if "PQ" in factory else factory


CONTESTANTS = (Ours(), Faiss(), TrainedFaiss())


class Server:
    """Answers requests for one contestant."""

    def __init__(self, contestant: IndexContestant) -> None:
        self.contestant = contestant
        self.x, self.queries = np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        self.index: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what one request says."""
        work: Callable[..., dict[str, Any]] = getattr(self, "_" + request.pop("op"))
        return work(**request)

    def _load(self, x: str, queries: str) -> dict[str, Any]:
        self.x, self.queries = np.load(x), np.load(queries)
        return {}

    def _train(self, factory: str) -> dict[str, Any]:
        self.index = None
        begin = perf_counter()
        self.index = self.contestant.trained(factory, self.x)
        return {"seconds": perf_counter() - begin}

    def _add(self) -> dict[str, Any]:
        begin = perf_counter()
        self.contestant.add(self.index, self.x)
        return {"seconds": perf_counter() - begin}

    def _describe(self, save: str, factory: str) -> dict[str, Any]:
        if factory.startswith("IVF"):
            np.save(save + "-centroids.npy", self.contestant.centroids(self.index))
        np.save(save + "-kept.npy", self.contestant.kept(self.index, min(KEPT, len(self.x))))
        return {}

    def _memory(self, factory: str) -> dict[str, Any]:
        """By what the process grew, searches included; an index made before takes care of code and threads."""
        before = 0
        for _ in range(2):
            self.index = None
            before = _settled()
            self.index = self.contestant.trained(factory, self.x)
            self.contestant.add(self.index, self.x)
            self.contestant.search(self.index, self.queries, 1 if factory.startswith("IVF") else 0)
        return {"bytes": _settled() - before}

    def _search(self, nprobe: int, repeats: int, save: str) -> dict[str, Any]:
        spent = []
        ids = np.zeros((0, K))
        for _ in range(repeats):
            begin = perf_counter()
            ids = self.contestant.search(self.index, self.queries, nprobe)
            spent.append(perf_counter() - begin)
        np.save(save + ".npy", ids)
        return {"seconds": spent}


def _settled() -> int:
    """Resident bytes once what is free has gone back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


if __name__ == "__main__":
    worker.main(sys.argv[1:], Server)
