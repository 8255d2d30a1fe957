"""EmbeddingStore: embeddings with ids and metadata, in an index that grows with them.

Embeddings and metadata change together although they are kept in two places, the index and a dict:
the index decides. Metadata are added before the embeddings and removed after them, and
`_changing_ids` holds the ids of the change. If it is interrupted, the next change (or `save`) drops
the metadata of those ids that the index does not hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from . import store_file
from .arguments import integers
from .base import Index, restore_index
from .flat import IndexFlat
from .growth import bytes_per_vector, lists_needed, with_lists
from .index_file import DAMAGE
from .ivf import IndexIVFFlat
from .lock import Lock
from .metadata import as_json

__all__ = ["EmbeddingStore", "Hits"]

NO_IDS = np.zeros(0, np.int64)


class Hits(NamedTuple):
    """Results of a search. Metadata are the store's own objects: copy them before you change them.

    Attributes:
        distances: (Q, k) float32.
        ids: (Q, k) int64.
        metadata: Q lists of k values, None where there is none.
    """

    distances: Any
    ids: Any
    metadata: list[list[Any]]


class EmbeddingStore:
    """Embeddings to be searched, with ids and metadata.

    Few embeddings are searched exactly. From 50,000 on they are kept in inverted lists, and a
    search looks at the nearest sixteenth of them: about 20 times faster for one query, and about 3%
    of the nearest are missed (measured on patches of photographs under "cosine"; 15% of the largest
    products of vectors without structure). Searches may run while other threads add and delete:
    they see the store before or after a change.

    Args:
        metric: "cosine" (1 - cos), "euclidean" (squared) or "dot" (a similarity).
        max_memory_gb: Limit on what embeddings and ids take, in 1e9 bytes; 0 for none. An add
            beyond it is refused.
        index: A trained index of any kind, which keeps the embeddings, sets the metric and does not
            grow; None for one that grows.
        seed: Of the training of lists.
        backend: As in `Index`.

    Example:
        >>> import numpy as np
        >>> store = EmbeddingStore()
        >>> embeddings = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> store.add(embeddings, metadata=["east", {"name": "north"}]).tolist()
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
        if index is None:
            self.metric = validation.check_choice("metric", metric, Index.metrics)
        else:
            self.metric = index.metric
        self.max_memory_gb = validation.check_real("max_memory_gb", max_memory_gb)
        self.seed = validation.check_count("seed", seed, 0)
        self.backend = backend
        self.index = index
        self._grows = index is None
        # By id. Searches read it without a lock: ids leave it only by a new dict in its place.
        self._metadata: dict[int, Any] = {}
        self._changing_ids = NO_IDS
        self._lock = Lock()

    def __len__(self) -> int:
        return 0 if self.index is None else self.index.ntotal

    def add(
        self, embeddings: Any, ids: Any = None, metadata: Sequence[Any] | None = None
    ) -> np.ndarray:
        """Add embeddings (N, D), and return their ids (N,). If an error is raised, none is added.

        Args:
            embeddings: (N, D) `mx.array` or NumPy, of as many dimensions as those before.
            ids: (N,) distinct integers >= 0 that the store does not hold; None for the next ones.
            metadata: N values that JSON can hold, None for none: dicts have strings as keys,
                numbers are finite, integers have at most 4300 digits, and lists and dicts are
                nested at most 100 deep.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
        """
        data = validation.data(embeddings, name="embeddings")
        n = data.shape[1]
        values = [] if metadata is None else as_json(list(metadata))
        if metadata is not None and len(values) != n:
            raise ValueError(
                f"metadata must have N={n} values, got {len(values)}"
                f" (embeddings.shape={data.given_shape})"
            )
        return self._lock.run(lambda: self._add(data, ids, values))

    def _add(self, data: validation.Data, ids: Any, metadata: list[Any]) -> np.ndarray:
        n = data.shape[1]
        self._drop_orphans()
        index = self.index
        if index is None:
            index = IndexFlat(data.shape[2], self.metric, backend=self.backend)
        if data.batched or data.shape[2] != index.d:
            raise ValueError(
                f"embeddings must have shape (N, D)=(N, {index.d}), got {data.given_shape}"
            )
        self._check_memory(index, data)
        nlist = lists_needed(index, n) if self._grows else 0
        if not metadata and not nlist:
            new_ids = index._insert(data, ids)
            self.index = index
            return new_ids
        new_ids = index._new_ids(index._snapshot, ids, n)
        grown = with_lists(index, data, new_ids, nlist, self.seed) if nlist else None
        self._changing_ids = new_ids
        try:
            # A search looks up only ids that the index holds: metadata first.
            self._metadata.update(zip(new_ids.tolist(), metadata, strict=bool(metadata)))
            if grown is None:
                index._insert(data, new_ids)
                self.index = index
            else:
                self.index = grown
        except BaseException:
            self._drop_orphans()
            raise
        self._changing_ids = NO_IDS
        return new_ids

    def _check_memory(self, index: Index, data: validation.Data) -> None:
        n = len(self) + data.shape[1]
        needed = n * bytes_per_vector(index)
        if self.max_memory_gb and needed > self.max_memory_gb * 1e9:
            raise ValueError(
                f"max_memory_gb={self.max_memory_gb:g} must be >= {needed / 1e9:.3g} for {n}"
                f" embeddings (embeddings.shape={data.given_shape}); raise it, delete some, or give"
                " an index that compresses them"
            )

    def search(self, query: Any, k: int) -> Hits:
        """Find the k nearest embeddings of each query (Q, D), `mx.array` or NumPy.

        Results are those of `Index.search`, with metadata.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound; or the
                store has never held an embedding.
        """
        query = validation.data(query, name="query")
        for _ in range(3):
            metadata = self._metadata
            hits = self._find(query, k)
            # Otherwise some were deleted meanwhile, and hits may lack metadata.
            if self._metadata is metadata:
                return hits
        return self._lock.run(lambda: self._find(query, k))

    def _find(self, query: Any, k: int) -> Hits:
        metadata = self._metadata
        index = self.index
        if index is None:
            raise ValueError("search needs a store that holds embeddings: call add first")
        distances, ids = index.search(query, k)
        rows = np.asarray(ids).tolist()
        return Hits(distances, ids, [[metadata.get(key) for key in row] for row in rows])

    def delete(self, ids: Any) -> int:
        """Delete embeddings and their metadata by ids (M,), and return how many there were."""
        wanted = integers(ids)
        return self._lock.run(lambda: self._delete(wanted))

    def _delete(self, ids: np.ndarray) -> int:
        self._drop_orphans()
        if self.index is None:
            return 0
        self._changing_ids = ids
        try:
            n_removed = self.index.remove_ids(ids)
            self._forget(ids)
        except BaseException:
            self._drop_orphans()
            raise
        return n_removed

    def _orphans(self) -> np.ndarray:
        """Return the ids (M,) of an interrupted change that the index does not hold."""
        ids = self._changing_ids
        if not len(ids) or self.index is None or not self.index.ntotal:
            return ids
        return ids[self.index._places(self.index._snapshot, ids) < 0]

    def _drop_orphans(self) -> None:
        """Finish an interrupted change: what the index holds counts."""
        if len(self._changing_ids):
            self._forget(self._orphans())

    def _forget(self, ids: np.ndarray) -> None:
        """Drop the metadata of ids (M,), at the end of a change."""
        # Searches that have begun continue with the present dict.
        remaining = self._metadata.copy()
        for key in ids.tolist():
            remaining.pop(key, None)
        self._metadata = remaining
        self._changing_ids = NO_IDS

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store to one safetensors file in the directory `path`, made if it is missing.

        The file is replaced in one step: after a crash it is the version before, and a load at the
        same time gets the store before or after. Processes that save to one directory take turns,
        by a lock that ends when its holder does.

        Raises:
            OSError: The file can't be written.
            TimeoutError: Another process has been saving there for a minute.
            ValueError: The store has never held an embedding.
        """
        if self.index is None:
            raise ValueError("save needs a store that holds embeddings: call add first")
        store_file.save(Path(path), lambda file: self._lock.run(lambda: self._write(file)))

    def _write(self, file: Path) -> None:
        assert self.index is not None
        orphans = set(self._orphans().tolist())
        metadata = {key: value for key, value in self._metadata.items() if key not in orphans}
        index_parameters, index_arrays = self.index.state()
        parameters = {
            "grows": self._grows,
            "max_memory_gb": self.max_memory_gb,
            "seed": self.seed,
            "class": type(self.index).__name__,
            "index": index_parameters,
        }
        store_file.write(file, type(self).__name__, parameters, index_arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> EmbeddingStore:
        """Load a store that `save` wrote on any machine.

        Raises:
            OSError: A file can't be opened.
            ValueError: It is not a store, of a newer format, truncated or damaged; the message says
                which.
        """
        class_name, parameters, arrays = store_file.read(Path(path))
        try:
            if class_name != cls.__name__:
                raise ValueError(f"it holds an {class_name}")
            return cls._restore(parameters, arrays, backend)
        except DAMAGE as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}; save it again") from error

    @classmethod
    def _restore(
        cls, parameters: dict[str, Any], arrays: dict[str, np.ndarray], backend: str | None
    ) -> EmbeddingStore:
        """Return the store with that state, which may be damaged: one of `DAMAGE` then."""
        index_arrays, metadata = store_file.split(arrays)
        index = restore_index(parameters["class"], parameters["index"], index_arrays)
        index.backend = backend
        store = cls(
            max_memory_gb=parameters["max_memory_gb"],
            index=index,
            seed=parameters["seed"],
            backend=backend,
        )
        store._grows = validation.check_flag("grows", parameters["grows"])
        if store._grows and not isinstance(index, (IndexFlat, IndexIVFFlat)):
            raise ValueError(f"an {parameters['class']} does not grow")
        store._metadata = metadata
        return store
