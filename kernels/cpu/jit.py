"""Numba's `njit` with a cache on disk that never fails.

Kernels that can't be kept or read are compiled again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numba
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

__all__ = ["njit"]

F = TypeVar("F", bound=Callable[..., Any])
# Errors of reading a file that is damaged, or pickled by other versions of the libraries.
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(RuntimeError, pickle.PickleError),
)


def njit(*, cache: bool, **options: Any) -> Callable[[F], F]:
    """Return Numba's decorator; `cache` keeps compiled code on disk, if a folder is writable.

    Args:
        cache: Whether to keep compiled code on disk.
        **options: Options of `numba.njit`.
    """

    def decorate(function: Any) -> Any:
        compiled: Any = numba.njit(**options)(function)
        if cache and isinstance(compiled, Dispatcher):  # not so with NUMBA_DISABLE_JIT
            try:
                compiled._cache = _Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
            except (RuntimeError, OSError) as error:  # there is no folder at all
                _not_kept(error)
        return compiled

    return decorate


_LOCATORS = caching.CacheImpl._locator_classes
# Its name has an underscore in Numba 0.61.
_in_tree: Any = next(kind for kind in _LOCATORS if kind.__name__.endswith("InTreeCacheLocator"))


class _InTree(_in_tree):
    """A cache beside the source that is read even where nothing can be written: in containers."""

    def ensure_cache_path(self) -> None:
        pass


class _Kind(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar[list[Any]] = [*_LOCATORS, _InTree]


class _Files(caching.IndexDataCacheFile):
    """Numba's files of one function, with checksums: damaged machine code would crash or go wrong.

    Code is kept together with its key. Processes that compile at the same time, or a full disk,
    leave an index that names other code.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (self._version, self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        *found, data = super().load(key) or (None,)
        return data if found == [self._version, self._source_stamp, key] else None

    def _load_index(self) -> dict[Any, str]:
        try:
            _check_sum(self._index_path)
            return super()._load_index()
        except UNREADABLE:
            return {}

    def _load_data(self, name: str) -> Any:
        _check_sum(self._data_path(name))
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[Any]:
        with super()._open_for_write(filepath) as file:
            whole = BytesIO()
            yield whole
            file.write(whole.getvalue() + _sum(whole.getvalue()))  # pickle reads to its own end


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _check_sum(path: str) -> None:
    data = Path(path).read_bytes()
    if _sum(data[:-4]) != data[-4:]:
        raise ValueError(f"{path} is damaged")


class _Cache(caching.FunctionCache):
    """The cache of one function; a change of any kernel invalidates it, as kernels are inlined."""

    _impl_class = _Kind

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, _sources())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except UNREADABLE:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _not_kept(error)
        except RuntimeError as error:
            if "no compiled object" not in str(error):
                raise
            # Ctrl-C came while LLVM called back with the code, where Python can only print it.
            raise KeyboardInterrupt from error


@cache
def _sources() -> str:
    """Return a hash of all kernels: a function's code contains that of functions in other files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_said: list[bool] = []


def _not_kept(error: Exception) -> None:
    """Say once that kernels are compiled in memory."""
    if not _said:
        _said.append(True)
        reason = getattr(error, "strerror", None) or error
        note = (
            f"flash-kmeans-mlx: kernels can't be kept on disk ({reason}), every process compiles"
            " them again: set NUMBA_CACHE_DIR to a folder that can be written to"
        )
        print(note, file=sys.stderr, flush=True)


# A process forked while another thread compiles would wait for that thread for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
