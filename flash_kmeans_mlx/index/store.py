"""EmbeddingStore: embeddings with ids and metadata, in an index that grows with them, in a directory."""

from __future__ import annotations

import json
import os
import threading
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _files, validation
from .base import Index, load_index
from .flat import IndexFlat
from .ivf import LARGEST, IndexIVFFlat
from .lock import ReadersWriterLock

__all__ = ["EmbeddingStore", "Hits"]

FORMAT, FORMAT_VERSION = "flash-kmeans-mlx store", 1
HEAD = "store.json"
# Lists pay from here on. Measured on two cores with 100,000 vectors, 2 sqrt(N) lists and a 16th of them looked at: a query
# takes 0.5 to 0.8 ms instead of 10 to 12, 1,000 of them a quarter of the time, and 97 to 99% of the 10 nearest are found.
GROWS_AT, GROWS_BY, SHARE = 50_000, 8, 16


class Hits(NamedTuple):
    """What a search found: distances (Q, k) float32, ids (Q, k) int64, metadata: Q lists of k, None where there is none."""

    distances: Any
    ids: Any
    metadata: list[list[Any]]


class EmbeddingStore:
    """Embeddings to be searched, with ids and metadata of one's own.

    Few embeddings are searched exactly; from 50,000 on they are kept in lists, of which a search looks at the nearest
    sixteenth: some twenty times faster for one query, and some 3% of the nearest are missed (of photographs' patches under
    "cosine"; of the largest products of vectors without structure some 15%). Searches may run while other threads add and
    delete: they see the store before or after.

    Args:
        metric: "cosine" (1 - cos), "euclidean" (squared) or "dot" (a similarity).
        max_memory_gb: cap on what embeddings and ids take, in 1e9 bytes; 0 for none. An add beyond it is refused.
        index: a trained one of any kind to keep them in, whose metric counts then and which does not grow; None for one that
            grows.
        seed: of the lists' training.
        backend: as in `Index`.

    Example:
        >>> import numpy as np
        >>> store = EmbeddingStore()
        >>> store.add(np.array([[1.0, 0.0], [0.0, 1.0]]), metadata=["east", {"name": "north"}]).tolist()
        [0, 1]
        >>> store.search(np.array([[1.0, 3.0]]), k=1).metadata
        [[{'name': 'north'}]]
    """

    def __init__(
        self,
        metric: str = "cosine",
        max_memory_gb: float = 0.0,
        *,
        index: Index | None = None,
        seed: int = 0,
        backend: str | None = None,
    ) -> None:
        if index is not None and not index.is_trained:
            raise ValueError("index must be trained: call its train first")
        self.metric = validation.check_choice("metric", metric, Index.metrics) if index is None else index.metric
        self.max_memory_gb = validation.check_real("max_memory_gb", max_memory_gb)
        self.seed = validation.check_count("seed", seed, 0)
        self.backend = backend
        self.index = index
        self._grows = index is None
        self._metadata: dict[int, Any] = {}
        self._lock, self._saving = ReadersWriterLock(), threading.Lock()

    def __len__(self) -> int:
        return 0 if self.index is None else self.index.ntotal

    def add(self, embeddings: Any, ids: Any = None, metadata: Sequence[Any] | None = None) -> np.ndarray:
        """Add embeddings (N, D), `mx.array` or NumPy; returns their ids (N,).

        Args:
            embeddings: as many dimensions as those before.
            ids: (N,) distinct integers >= 0 that the store does not hold; None for the next ones.
            metadata: N values that JSON can hold; None for none.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound.
        """
        data = validation.data(embeddings, name="embeddings")
        n = data.shape[1]
        notes = [] if metadata is None else json.loads(json.dumps(list(metadata), allow_nan=False))
        if metadata is not None and len(notes) != n:
            raise ValueError(f"metadata must have N={n} values, got {len(notes)} (embeddings.shape={data.given_shape})")
        with self._lock.writing():
            index = self.index if self.index is not None else IndexFlat(data.shape[2], self.metric, backend=self.backend)
            if data.batched or data.shape[2] != index.d:
                raise ValueError(f"embeddings must have shape (N, D)=(N, {index.d}), got {data.given_shape}")
            need = (len(self) + n) * _row_bytes(index)
            if self.max_memory_gb and need > self.max_memory_gb * 1e9:
                raise ValueError(
                    f"max_memory_gb={self.max_memory_gb:g} must be >= {need / 1e9:.3g} for {len(self) + n} embeddings"
                    f" (embeddings.shape={data.given_shape}); raise it, delete some, or give an index that compresses them"
                )
            given = index._insert(data, ids)
            self.index = index
            if notes:
                self._metadata.update(zip(given.tolist(), notes, strict=True))
            if self._grows:
                self.index = _grown(index, self.seed)
            return given

    def search(self, query: Any, k: int) -> Hits:
        """The k nearest embeddings for each query (Q, D), `mx.array` or NumPy; results as `Index.search` has them.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; the store has never held an embedding.
        """
        with self._lock.reading():
            if self.index is None:
                raise ValueError("search needs a store that holds embeddings: call add first")
            distances, ids = self.index.search(query, k)
            return Hits(distances, ids, [[self._metadata.get(key) for key in row] for row in np.asarray(ids).tolist()])

    def delete(self, ids: Any) -> int:
        """Delete embeddings and their metadata by ids (M,); returns how many there were."""
        with self._lock.writing():
            removed = 0 if self.index is None else self.index.remove_ids(ids)
            for key in np.asarray(ids).tolist():
                self._metadata.pop(key, None)
            return removed

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store into the directory `path`, which is made if need be: an index in safetensors, the rest in JSON.

        A crash keeps the version before: new files have new names, and the one that names them is replaced last.
        """
        folder = Path(path)
        with self._saving, self._lock.reading():
            if self.index is None:
                raise ValueError("save needs a store that holds embeddings: call add first")
            folder.mkdir(parents=True, exist_ok=True)
            version = uuid.uuid4().hex
            names = {"index": f"index-{version}.safetensors", "metadata": f"metadata-{version}.json"}
            self.index.save(folder / names["index"])
            notes = json.dumps(self._metadata).encode()
            with _files.replacing(folder / names["metadata"]) as file:
                file.write(notes)
            head = {
                "format": FORMAT, "format_version": FORMAT_VERSION, **names, "crc32": zlib.crc32(notes), "grows": self._grows,
                "max_memory_gb": self.max_memory_gb, "seed": self.seed,
            }  # fmt: skip
            with _files.replacing(folder / HEAD) as file:
                file.write(json.dumps(head, indent=1).encode())
            for kind, suffix in (("index", "safetensors"), ("metadata", "json")):
                for old in folder.glob(f"{kind}-*.{suffix}"):
                    if old.name != names[kind]:
                        old.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> EmbeddingStore:
        """A store that `save` wrote, on any machine.

        Raises:
            OSError: a file can't be opened.
            ValueError: not a store, of a newer format, truncated or damaged; the message says which.
        """
        folder = Path(path)
        text = (folder / HEAD).read_bytes()
        try:
            head = _files.json_object(text)
            if head.get("format") != FORMAT:
                raise ValueError(f"its format is {head.get('format')!r}, not {FORMAT!r}")
            version = validation.check_count("format_version", head.get("format_version"), 1)
            if version > FORMAT_VERSION:
                raise ValueError(f"its format_version={version} must be <= {FORMAT_VERSION}; upgrade flash-kmeans-mlx")
            files = [folder / Path(head[kind]).name for kind in ("index", "metadata")]
            notes = files[1].read_bytes()
            if zlib.crc32(notes) != head["crc32"]:
                raise ValueError(f"the sum of {files[1].name} is wrong; copy the store again")
            index = load_index(files[0])
            index.backend = backend
            store = cls(max_memory_gb=head["max_memory_gb"], index=index, seed=head["seed"], backend=backend)
            store._grows = validation.check_flag("grows", head["grows"])
            store._metadata = {int(key): note for key, note in _files.json_object(notes).items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}") from error
        return store


def _row_bytes(index: Index) -> int:
    """What a vector and its id take in an index."""
    lists = getattr(index, "lists", None)
    return 8 + (4 * index.d if lists is None else lists.payload.dtype.itemsize * lists.payload.shape[1])


def _grown(index: Index, seed: int) -> Index:
    """The index, or one of lists that suits the number of its vectors."""
    if index.ntotal < (GROWS_BY * (index.nlist // 2) ** 2 if isinstance(index, IndexIVFFlat) else GROWS_AT):
        return index
    parameters, arrays = index.state()
    rows, ids = arrays["rows"][:, : index.d], arrays["ids"]
    if np.abs(rows).max() > LARGEST:  # which lists don't take
        return index
    nlist = int(2 * np.sqrt(len(ids)))
    grown = IndexIVFFlat(index.d, nlist, index.metric, nlist // SHARE, seed=seed, backend=index.backend)
    grown.train(rows)
    grown.add(rows, ids)
    grown._restore_next_id(parameters["next_id"], ids)
    return grown
