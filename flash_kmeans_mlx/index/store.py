"""EmbeddingStore: embeddings with ids and metadata, in an index that grows with them, in a directory."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import validation
from ..files import atomic as _files
from . import io
from .base import DAMAGE, Index, _integers, restored
from .flat import IndexFlat
from .ivf import LARGEST, IndexIVFFlat
from .lock import Lock

__all__ = ["EmbeddingStore", "Hits"]

FILE, LOCK = "store.safetensors", "store.lock"
OLD_HEAD, OLD_FORMAT = "store.json", "flash-kmeans-mlx store"  # of version 1
# What every Python reads back: deeper JSON and longer integers are refused by some.
MOST_LEVELS, MOST_DIGITS = 100, 4300
_ENCODER = json.JSONEncoder(allow_nan=False)
TOO_DEEP = f"lists and dicts must be nested at most {MOST_LEVELS} deep"
# Lists pay from here on. Measured on two cores with 100,000 vectors, 2 sqrt(N) lists and a 16th of them looked at: a query
# takes 0.5 to 0.8 ms instead of 10 to 12, 1,000 of them a quarter of the time, and 97 to 99% of the 10 nearest are found.
GROWS_AT, GROWS_BY, SHARE = 50_000, 8, 16


class Hits(NamedTuple):
    """What a search found: distances (Q, k) float32, ids (Q, k) int64, metadata: Q lists of k, None where there is none.

    Metadata are the store's own objects: copy them before you change them.
    """

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
        self.metric = (
            validation.check_choice("metric", metric, Index.metrics)
            if index is None
            else index.metric
        )
        self.max_memory_gb = validation.check_real("max_memory_gb", max_memory_gb)
        self.seed = validation.check_count("seed", seed, 0)
        self.backend = backend
        self.index = index
        self._grows = index is None
        self._metadata: dict[int, Any] = {}
        self._changing = np.zeros(0, np.int64)
        self._lock = Lock()

    def __len__(self) -> int:
        return 0 if self.index is None else self.index.ntotal

    def add(
        self, embeddings: Any, ids: Any = None, metadata: Sequence[Any] | None = None
    ) -> np.ndarray:
        """Add embeddings (N, D), `mx.array` or NumPy; returns their ids (N,).

        All are added, or none where an error is raised.

        Args:
            embeddings: as many dimensions as those before.
            ids: (N,) distinct integers >= 0 that the store does not hold; None for the next ones.
            metadata: N values that JSON can hold, None for none: dicts have strings as keys, numbers are finite, integers
                have at most 4300 digits, and lists and dicts are nested at most 100 deep.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound.
        """
        data = validation.data(embeddings, name="embeddings")
        n = data.shape[1]
        notes = [] if metadata is None else _checked(list(metadata))
        if metadata is not None and len(notes) != n:
            raise ValueError(
                f"metadata must have N={n} values, got {len(notes)} (embeddings.shape={data.given_shape})"
            )
        return self._lock.run(lambda: self._added(data, ids, notes))

    def _added(self, data: validation.Data, ids: Any, notes: list[Any]) -> np.ndarray:
        n = data.shape[1]
        self._drop_orphans()
        index = (
            self.index
            if self.index is not None
            else IndexFlat(data.shape[2], self.metric, backend=self.backend)
        )
        if data.batched or data.shape[2] != index.d:
            raise ValueError(
                f"embeddings must have shape (N, D)=(N, {index.d}), got {data.given_shape}"
            )
        need = (len(self) + n) * _row_bytes(index)
        if self.max_memory_gb and need > self.max_memory_gb * 1e9:
            raise ValueError(
                f"max_memory_gb={self.max_memory_gb:g} must be >= {need / 1e9:.3g} for {len(self) + n} embeddings"
                f" (embeddings.shape={data.given_shape}); raise it, delete some, or give an index that compresses them"
            )
        nlist = _lists_due(index, n) if self._grows else 0
        if not notes and not nlist:
            given = index._insert(data, ids)
            self.index = index
            return given
        given = index._new_ids(index._content, ids, n)
        grown = _grown(index, data, given, nlist, self.seed) if nlist else None
        # Metadata go first: they count only once the index has their ids.
        self._changing = given
        try:
            self._metadata.update(zip(given.tolist(), notes, strict=bool(notes)))
            if grown is None:
                index._insert(data, given)
            self.index = index if grown is None else grown
        except BaseException:
            self._drop_orphans()
            raise
        self._changing = given[:0]
        return given

    def search(self, query: Any, k: int) -> Hits:
        """The k nearest embeddings for each query (Q, D), `mx.array` or NumPy; results as `Index.search` has them.

        Raises:
            ValueError, TypeError: naming the argument, its value and its bound; the store has never held an embedding.
        """
        for _ in range(3):
            metadata = self._metadata
            hits = self._hits(query, k)
            if self._metadata is metadata:  # else some were deleted meanwhile
                return hits
        return self._lock.run(lambda: self._hits(query, k))

    def _hits(self, query: Any, k: int) -> Hits:
        metadata, index = self._metadata, self.index
        if index is None:
            raise ValueError("search needs a store that holds embeddings: call add first")
        distances, ids = index.search(query, k)
        return Hits(
            distances, ids, [[metadata.get(key) for key in row] for row in np.asarray(ids).tolist()]
        )

    def delete(self, ids: Any) -> int:
        """Delete embeddings and their metadata by ids (M,); returns how many there were."""
        wanted = _integers(ids)
        return self._lock.run(lambda: self._deleted(wanted))

    def _deleted(self, ids: np.ndarray) -> int:
        self._drop_orphans()
        if self.index is None:
            return 0
        self._changing = ids
        try:
            removed = self.index.remove_ids(ids)
            self._forget(ids)
        except BaseException:
            self._drop_orphans()
            raise
        return removed

    def _orphans(self) -> np.ndarray:
        """Return the ids (M,) of a change that was interrupted which the index does not hold."""
        ids = self._changing
        if not len(ids) or self.index is None or not self.index.ntotal:
            return ids
        return ids[self.index._places(self.index._content, ids) < 0]

    def _drop_orphans(self) -> None:
        """Finish a change that was interrupted: what the index holds counts."""
        if len(self._changing):
            self._forget(self._orphans())

    def _forget(self, ids: np.ndarray) -> None:
        """Drop the metadata of ids (M,), at the end of a change."""
        left = self._metadata.copy()  # searches that have begun read on in the present one
        for key in ids.tolist():
            left.pop(key, None)
        self._metadata = left
        self._changing = ids[:0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the store to one safetensors file in the directory `path`, which is made if need be.

        The file is replaced in one step: a crash keeps the version before, and who loads meanwhile gets the store before or
        after. Processes that save to one directory take turns, by a lock that ends with its holder.

        Raises:
            OSError: the file can't be written; TimeoutError: another process has been saving there for a minute.
            ValueError: the store has never held an embedding.
        """
        if self.index is None:
            raise ValueError("save needs a store that holds embeddings: call add first")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with _files.locked(folder / LOCK):
            self._lock.run(lambda: self._write(folder / FILE))
            _remove_old(folder)

    def _write(self, file: Path) -> None:
        assert self.index is not None
        orphans = set(self._orphans().tolist())
        kept = {key: note for key, note in self._metadata.items() if key not in orphans}
        parameters, arrays = self.index.state()
        head = {
            "grows": self._grows,
            "max_memory_gb": self.max_memory_gb,
            "seed": self.seed,
            "class": type(self.index).__name__,
            "index": parameters,
        }
        held = {f"index.{name}": array for name, array in arrays.items()}
        held["metadata"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
        io.write(file, type(self).__name__, head, held)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, backend: str | None = None) -> EmbeddingStore:
        """A store that `save` wrote, on any machine.

        Raises:
            OSError: a file can't be opened.
            ValueError: not a store, of a newer format, truncated or damaged; the message says which.
        """
        folder = Path(path)
        try:
            name, head, arrays = _read_old(folder) if _is_old(folder) else io.read(folder / FILE)
        except FileNotFoundError:
            if not (folder / FILE).exists():
                raise
            name, head, arrays = io.read(folder / FILE)  # saved meanwhile
        try:
            if name != cls.__name__:
                raise ValueError(f"it holds an {name}")
            held = {key[6:]: array for key, array in arrays.items() if key.startswith("index.")}
            index = restored(head["class"], head["index"], held)
            index.backend = backend
            store = cls(
                max_memory_gb=head["max_memory_gb"], index=index, seed=head["seed"], backend=backend
            )
            store._grows = validation.check_flag("grows", head["grows"])
            if store._grows and not isinstance(index, (IndexFlat, IndexIVFFlat)):
                raise ValueError(f"an {head['class']} does not grow")
            notes = _files.json_object(arrays["metadata"].tobytes())
            store._metadata = {int(key): note for key, note in notes.items()}
            if min(store._metadata, default=0) < 0:
                raise ValueError("ids of metadata must be >= 0")
        except DAMAGE as error:
            raise ValueError(f"cannot load {os.fspath(path)!r}: {error}; save it again") from error
        return store


def _checked(metadata: list[Any]) -> list[Any]:
    """Return what JSON makes of metadata, where any Python can read it again."""
    try:
        limit = getattr(sys, "get_int_max_str_digits", lambda: 0)()  # Python's own; 0 for none
        parse = None if 0 < limit <= MOST_DIGITS else _short_integer
        notes = json.loads(_ENCODER.encode(metadata), parse_int=parse)
        if notes != metadata:  # a key that was no string, or only a tuple that is a list now
            _check_keys(metadata)
        _check_depth(notes)
    except RecursionError:
        raise ValueError(f"metadata must be values that JSON can hold: {TOO_DEEP}") from None
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"metadata must be values that JSON can hold: {error}") from None
    return notes


def _check_keys(metadata: list[Any]) -> None:
    """Check that the keys of dicts are strings; there are no circles."""
    left: list[Any] = [metadata]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise TypeError(f"the key {wrong[0]!r} of a dict must be a string")
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value


def _check_depth(notes: list[Any]) -> None:
    """Check how deep the lists and dicts that JSON made are nested."""
    level, depth, kinds = [notes], 0, {dict, list}
    while level:
        depth += 1
        if depth > MOST_LEVELS + 1:
            raise ValueError(TOO_DEEP)
        values = (value.values() if type(value) is dict else value for value in level)
        level = [v for inner in values for v in inner if type(v) in kinds]


def _short_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"an integer has more than {MOST_DIGITS} digits")
    return int(digits)


def _is_old(folder: Path) -> bool:
    """Whether an older version of the package was the last to save there."""
    head, file = folder / OLD_HEAD, folder / FILE
    if not (head.exists() and file.exists()):
        return head.exists()
    return (
        head.stat().st_mtime_ns > file.stat().st_mtime_ns
        and OLD_FORMAT.encode() in head.read_bytes()
    )


def _read_old(folder: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Return what `io.read` would have, from the three files of version 1."""
    text = (folder / OLD_HEAD).read_bytes()
    try:
        head = _files.json_object(text)
        if head.get("format") != OLD_FORMAT:
            raise ValueError(f"its format is {head.get('format')!r}, not {OLD_FORMAT!r}")
        version = validation.check_count("format_version", head.get("format_version"), 1)
        if version > 1:
            raise ValueError(f"its format_version={version} must be <= 1; upgrade flash-kmeans-mlx")
        file, metadata = (folder / Path(head[kind]).name for kind in ("index", "metadata"))
        notes = metadata.read_bytes()
        if zlib.crc32(notes) != head["crc32"]:
            raise ValueError(f"the sum of {metadata.name} is wrong; copy the store again")
        own = {name: head[name] for name in ("grows", "max_memory_gb", "seed")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot load {os.fspath(folder)!r}: {error}") from error
    name, parameters, arrays = io.read(file)
    arrays = {f"index.{key}": array for key, array in arrays.items()}
    own |= {"class": name, "index": parameters}
    return "EmbeddingStore", own, arrays | {"metadata": np.frombuffer(notes, np.uint8)}


def _remove_old(folder: Path) -> None:
    """Remove the files of version 1: the head, after those that it names."""
    with suppress(OSError, ValueError):
        head = _files.json_object((folder / OLD_HEAD).read_bytes())
        if head.get("format") == OLD_FORMAT:
            for name in map(str, (head.get("index"), head.get("metadata"))):
                if re.fullmatch(
                    r"(index-[0-9a-f]{32}\.safetensors|metadata-[0-9a-f]{32}\.json)", name
                ):
                    (folder / name).unlink(missing_ok=True)
            (folder / OLD_HEAD).unlink()


def _row_bytes(index: Index) -> int:
    """What a vector and its id take in an index."""
    lists = getattr(index, "lists", None)
    return 8 + (
        4 * index.d if lists is None else lists.payload.dtype.itemsize * lists.payload.shape[1]
    )


def _lists_due(index: Index, n: int) -> int:
    """Return how many lists suit the vectors in `index` and n more; 0 if `index` suits them."""
    n += index.ntotal
    enough = GROWS_BY * (index.nlist // 2) ** 2 if isinstance(index, IndexIVFFlat) else GROWS_AT
    return 0 if n < enough else int(2 * np.sqrt(n))


def _grown(index: Index, data: Any, ids: np.ndarray, nlist: int, seed: int) -> IndexIVFFlat | None:
    """Return an index of lists with what `index` holds and data to add; None where lists don't take it."""
    new = index._vectors(data, "embeddings")[0]
    parameters, arrays = index.state()
    old = arrays["rows"][:, : index.d]
    if any(np.abs(rows).max(initial=0) > LARGEST for rows in (old, new)):
        return None
    rows, ids = np.concatenate([old, new]), np.concatenate([arrays["ids"], ids])
    del arrays, old
    grown = IndexIVFFlat(
        index.d, nlist, index.metric, nlist // SHARE, seed=seed, backend=index.backend
    )
    grown.train(rows)
    grown.add(rows, ids)
    grown._restore_next_id(parameters["next_id"], ids)
    return grown
