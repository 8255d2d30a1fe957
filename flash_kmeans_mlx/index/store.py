"""EmbeddingStore: embeddings with ids and metadata, in an index that grows with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import validation
from . import saving, store_file
from .arguments import LARGEST_ID, one_as_row, vectors
from .base import Index
from .contents import Contents, no_contents
from .current import Current
from .flat import IndexFlat
from .growth import check_memory
from .index_file import DAMAGE
from .ivf import IndexIVFFlat
from .metadata import as_json
from .store_results import Hits, Records
from .string_ids import given_ids
from .where import condition

__all__ = ["EmbeddingStore", "Hits", "Records"]


class EmbeddingStore:
    """Embeddings to be searched, with ids and metadata.

    Few embeddings are searched exactly. From 50,000 on they are kept in inverted lists, and a
    search looks at the nearest sixteenth of them: about 20 times faster for one query, and about 3%
    of the nearest are missed (measured on patches of photographs under "cosine"; 15% of the largest
    products of vectors without structure). Searches may run while other threads change the store:
    they see it before or after a change.

    Ids are integers, or strings, all of one kind. Wherever a method takes ids, one id will do.
    ``len(store)``, ``id in store`` and ``for id in store`` work as expected.

    Args:
        metric: "cosine" (1 - cos), "euclidean" (squared) or "dot" (a similarity).
        max_memory_gb: Limit on what embeddings and integer ids take, in 1e9 bytes; 0 for none. A
            change beyond it is refused.
        index: A trained index of any kind, which keeps the embeddings, sets the metric and does not
            grow; None for one that grows. It belongs to the store from then on.
        seed: Of the training of lists.
        backend: As in `Index`.

    Example:
        >>> import numpy as np
        >>> store = EmbeddingStore()
        >>> embeddings = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> store.add(embeddings, ids=["e", "n"], metadata=[{"name": "east"}, {"name": "north"}])
        array(['e', 'n'], dtype=object)
        >>> hits = store.search([1.0, 3.0], k=1)
        >>> hits.ids.tolist(), hits.metadata
        ([['n']], [[{'name': 'north'}]])
        >>> store.search([1.0, 3.0], k=1, where={"name": "east"}).ids.tolist()
        [['e']]
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
        if index is not None:
            index._check_changeable()
        if index is None:
            self.metric = validation.check_choice("metric", metric, Index.metrics)
        else:
            self.metric = index.metric
        self.max_memory_gb = validation.check_real("max_memory_gb", max_memory_gb)
        self.seed = validation.check_count("seed", seed, 0)
        self.backend = backend
        self._grows = index is None
        self._current = Current(no_contents(index))

    @property
    def index(self) -> Index | None:
        """The index of the embeddings, None before the first add. Change it by the store only."""
        return self._current.read().index

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} embeddings, metric={self.metric!r})"

    def __len__(self) -> int:
        return self._current.read().size

    def __iter__(self) -> Iterator[Any]:
        contents = self._current.read()
        return iter(contents.names.to_caller(contents.ids()).tolist())

    def __contains__(self, id: Any) -> bool:  # noqa: A002  # as in `Index.reconstruct`
        is_number = isinstance(id, (int, np.integer)) and not isinstance(id, bool)
        if not isinstance(id, str) and not (is_number and 0 <= id <= LARGEST_ID):
            return False
        contents = self._current.read()
        return bool(contents.places(contents.names.find(given_ids(id)))[0] >= 0)

    def add(
        self, embeddings: Any, ids: Any = None, metadata: Sequence[Any] | None = None
    ) -> np.ndarray:
        """Add embeddings (N, D), and return their ids (N,). If an error is raised, none is added.

        Args:
            embeddings: (N, D) `mx.array` or NumPy, of as many dimensions as those before.
            ids: (N,) distinct integers >= 0 or strings that the store does not hold; None for the
                next integers.
            metadata: N values that JSON can hold, None for none: dicts have strings as keys,
                numbers are finite, integers have at most 4300 digits, and lists and dicts are
                nested at most 100 deep.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
        """
        data = validation.data(embeddings, name="embeddings")
        n = data.shape[1]
        values = None if metadata is None else as_json(metadata, n, data.given_shape)
        given = None if ids is None else given_ids(ids, n)

        def added(contents: Contents) -> tuple[Contents, np.ndarray]:
            index = self._index_for(contents, data)
            new_ids = contents.new_ids(index, given, n)
            after = self._with_rows(contents, data, new_ids, given, values)
            return after, after.names.to_caller(new_ids)

        return self._current.change(added)

    def update(
        self, ids: Any, embeddings: Any = None, metadata: Sequence[Any] | None = None
    ) -> None:
        """Replace embeddings, metadata or both of ids (M,) that the store holds, all or none.

        Args:
            ids: (M,) distinct ids.
            embeddings: (M, D), None to keep those there are.
            metadata: M values, as in `add`, which replace the old ones whole; None to keep those.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
        """
        if embeddings is None and metadata is None:
            raise ValueError("update needs embeddings or metadata")
        data = None if embeddings is None else validation.data(embeddings, name="embeddings")
        given = given_ids(ids)
        given = given_ids(given, len(given) if data is None else data.shape[1])
        shape = None if data is None else data.given_shape
        values = None if metadata is None else as_json(metadata, len(given), shape)

        def updated(contents: Contents) -> tuple[Contents, None]:
            held, _ = contents.held(given, "update")
            if data is not None:
                return self._with_rows(contents, data, held, given, values), None
            after = contents.with_records(held, values, None, shared=False)
            return after.changed(contents.snapshot, held), None

        self._current.change(updated)

    def upsert(self, ids: Any, embeddings: Any, metadata: Sequence[Any] | None = None) -> None:
        """Add embeddings (N, D) with new ids, and replace those of ids that the store holds.

        Args:
            ids: (N,) distinct integers >= 0 or strings.
            embeddings: (N, D), as in `add`.
            metadata: N values, as in `add`; None to keep those there are.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound.
        """
        data = validation.data(embeddings, name="embeddings")
        n = data.shape[1]
        values = None if metadata is None else as_json(metadata, n, data.given_shape)
        given = given_ids(ids, n)

        def upserted(contents: Contents) -> tuple[Contents, None]:
            index = self._index_for(contents, data)
            chosen = contents.names.find(given)
            is_new = contents.places(chosen) < 0
            if is_new.any():
                new = [given[i] for i in np.flatnonzero(is_new)]
                new_given = new if isinstance(given, list) else np.array(new)
                chosen = chosen.copy()
                chosen[is_new] = contents.new_ids(index, new_given, len(new))
            return self._with_rows(contents, data, chosen, given, values), None

        self._current.change(upserted)

    def get(self, ids: Any) -> Records:
        """Return the embeddings and metadata of ids (M,).

        Raises:
            ValueError, TypeError: The store does not hold an id, or ids are none.
        """
        given = given_ids(ids)
        contents = self._current.read()
        held, places = contents.held(given, "get")
        rows = np.zeros((0, 0 if contents.index is None else contents.index.d), np.float32)
        if contents.index is not None and len(places):
            rows = contents.index._rows_at(contents.snapshot, places)
        return Records(rows, [contents.metadata.get(one) for one in held.tolist()])

    def search(self, query: Any, k: int, *, where: Any = None) -> Hits:
        """Find the k nearest embeddings of each query, with their metadata.

        Args:
            query: (Q, D) `mx.array` or NumPy; (D,) is one query, with results of shape (1, k).
            k: Neighbours of every query; where there are fewer, ids are -1 (None for strings).
            where: Which metadata may be found; None for any. A function of the metadata, None where
                there is none; or a mapping of fields, all of which must be as it says: a value, a
                list of values, or (op, value) with op one of "==", "!=", "<", "<=", ">", ">=",
                "in", "not in" and "contains" (a list a value, or a string a part of it). Order is
                among numbers and among strings. A field that is missing meets "!=" and "not in"
                alone. The search of lists looks at the same lists as without it.

        Raises:
            ValueError, TypeError: The message names the argument, its value and its bound; or the
                store has never held an embedding.
        """
        meets = None if where is None else condition(where)
        contents = self._current.read()
        index = contents.index
        if index is None:
            raise ValueError("search needs a store that holds embeddings: call add first")
        get = contents.metadata.get
        allowed = None
        if meets is not None:
            allowed = np.array(
                [one for one in contents.ids().tolist() if meets(get(one))], np.int64
            )
        queries = validation.data(one_as_row(query), name="query")
        distances, ids = index._k_nearest(queries, k, allowed, snapshot=contents.snapshot)
        metadata = [[get(one) for one in row] for row in np.asarray(ids).tolist()]
        return Hits(distances, contents.names.to_caller(ids), metadata)

    def delete(self, ids: Any) -> int:
        """Delete embeddings and their metadata by ids (M,), and return how many there were."""
        given = given_ids(ids)

        def deleted(contents: Contents) -> tuple[Contents, int]:
            contents.check_kind(given)
            wanted = np.unique(contents.names.find(given))
            wanted = wanted[contents.places(wanted) >= 0]
            if contents.index is None or not len(wanted):
                return contents, 0
            snapshot, n = contents.index._without(contents.snapshot, wanted)
            return contents.without_records(wanted).changed(snapshot, wanted), n

        return self._current.change(deleted)

    def _index_for(self, contents: Contents, data: validation.Data) -> Index:
        """Return the index that keeps the embeddings, a new one for the first ones."""
        index = contents.index
        if index is None:
            index = IndexFlat(data.shape[2], self.metric, backend=self.backend)
        if data.batched or data.shape[2] != index.d:
            raise ValueError(
                f"embeddings must have shape (N, D)=(N, {index.d}), got {data.given_shape}"
            )
        return index

    def _with_rows(
        self, contents: Contents, data: validation.Data, ids: np.ndarray, given: Any, values: Any
    ) -> Contents:
        """Return the contents with embeddings of ids (N,), their names and their metadata."""
        index = self._index_for(contents, data)
        n_new = int((contents.places(ids) < 0).sum())
        check_memory(self.max_memory_gb, index, contents.size + n_new, data.given_shape)
        rows, _ = vectors(data, index.d, index._limit)
        only_new = n_new == len(ids)
        if only_new:
            self._current.begin_add(ids)
        after = contents.with_rows(index, rows, ids, self.seed if self._grows else None)
        return after.with_records(ids, values, given, shared=only_new)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store to the directory `path`, made if it is missing.

        The first save writes one safetensors file. The next ones append what has changed to a file
        beside it, until that has half the size of the first. After a crash the directory holds the
        version before or after, and a load at the same time gets one of the two. Processes that
        save there take turns, by a lock that ends when its holder does; if another one has saved
        since, the whole store is written in place of the other.

        Raises:
            OSError: A file can't be written.
            TimeoutError: Another process has been saving there for a minute.
            ValueError: The store has never held an embedding.
        """
        self._save(Path(path), whole=False)

    def compact(self) -> None:
        """Save the whole store as one file where it was last saved or loaded.

        Raises:
            ValueError: It was neither; or as `save`.
        """
        saved = self._current.read().saved
        if saved is None:
            raise ValueError("compact needs a store that was saved or loaded: call save first")
        self._save(saved.folder, whole=True)

    def _save(self, folder: Path, *, whole: bool) -> None:
        def saved(contents: Contents) -> tuple[Contents, None]:
            own = {"grows": self._grows, "max_memory_gb": self.max_memory_gb, "seed": self.seed}
            place = saving.save(folder, type(self).__name__, own, contents, whole=whole)
            return contents.saved_at(place), None

        if self._current.read().index is None:
            raise ValueError("save needs a store that holds embeddings: call add first")
        with store_file.locked(folder):
            self._current.change(saved)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> EmbeddingStore:
        """Load a store that `save` wrote on any machine.

        Raises:
            OSError: A file can't be opened.
            ValueError: It is not a store, of a newer format, truncated or damaged; the message says
                which.

        Warns:
            UserWarning: The last change was not written to its end; it is left out.
        """
        parameters, contents = saving.load(Path(path), cls.__name__, backend)
        try:
            store = cls(
                max_memory_gb=parameters["max_memory_gb"],
                index=contents.index,
                seed=parameters["seed"],
                backend=backend,
            )
            store._grows = validation.check_flag("grows", parameters["grows"])
            if store._grows and not isinstance(contents.index, (IndexFlat, IndexIVFFlat)):
                raise ValueError(f"an {parameters['class']} does not grow")
        except DAMAGE as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}; save it again") from error
        store._current = Current(contents)
        return store
