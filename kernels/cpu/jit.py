"""`njit`: kernels that are compiled once, kept on disk and loaded without Numba."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from functools import cached_property, update_wrapper
from importlib import import_module
from typing import Any

from . import object_cache
from .kinds import Kind, describe
from .sizes import DEBUG

__all__ = ["Kernel", "carray", "cgutils", "intrinsic", "njit", "types"]

# Numba gives a literal 0 or True a type of its own and compiles a kernel once more for it:
# kernels pass np.int64(0) and np.bool_(True) to one another.
# Without `ninf`, as a running best starts at -inf. With `nnan`, as NaN is refused before.
OPTIONS = {
    "nogil": True,
    "boundscheck": DEBUG,
    "error_model": "numpy",
    "fastmath": {"nnan", "nsz", "contract", "reassoc", "arcp"},
    "no_cfunc_wrapper": True,
    "no_cpython_wrapper": not DEBUG,
}
_lock = threading.RLock()


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a kernel of a function; options are those of `numba.njit`, beside `OPTIONS`."""
    if function is None:
        return lambda function: njit(function, **options)
    if DEBUG:
        return import_module("numba").njit(**{**OPTIONS, **options})(function)
    return Kernel(function, {**OPTIONS, **options})


class _Imported:
    """A module, or a function of one, that is imported when it is used: only compiling needs it."""

    def __init__(self, module: str, name: str = "") -> None:
        self._module = module
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._module), name)

    def __call__(self, *arguments: Any) -> Any:
        raise TypeError(f"only kernels can call {self._name}")

    @property
    def _numba_type_(self) -> Any:
        return _compiler().type_of(getattr(import_module(self._module), self._name))


types: Any = _Imported("numba.core.types")
cgutils: Any = _Imported("numba.core.cgutils")
carray: Any = _Imported("numba", "carray")


class intrinsic:  # noqa: N801  # used as a decorator
    """`numba.extending.intrinsic`, made when a kernel is compiled."""

    def __init__(self, definition: Callable[..., Any]) -> None:
        self._definition = definition

    def __call__(self, *arguments: Any) -> Any:
        raise TypeError(f"only kernels can call {self._definition.__name__}")

    @cached_property
    def _made(self) -> Any:
        return import_module("numba.extending").intrinsic(self._definition)

    @property
    def _numba_type_(self) -> Any:
        return _compiler().type_of(self._made)


class Kernel:
    """A function that is compiled for the kinds of its arguments when it is first called.

    Attributes:
        py_func: The function.
        targetoptions: Numba's options; this and `py_func` are what Numba asks for.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        update_wrapper(self, function)
        self.py_func = function
        self.targetoptions = options
        self._calls: tuple[Callable[..., Any], ...] = ()
        self._by_kinds: dict[tuple[Kind, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        for call in self._calls:
            result = call(*arguments)
            if result is not NotImplemented:
                return result
        kinds = tuple(map(describe, arguments))
        result = self._load(kinds)(*arguments)
        if result is NotImplemented:  # where `describe` and entry.py disagree
            raise TypeError(f"{self.py_func.__name__} does not take {kinds}")
        return result

    @property
    def signatures(self) -> list[tuple[Kind, ...]]:
        """Kinds of arguments for which it was compiled or read from disk."""
        return list(self._by_kinds)

    @cached_property
    def dispatcher(self) -> Any:
        """The function as Numba knows it."""
        return _compiler().make_dispatcher(self.py_func, self.targetoptions)

    @property
    def _numba_type_(self) -> Any:
        return self.dispatcher._numba_type_

    def _load(self, kinds: tuple[Kind, ...]) -> Callable[..., Any]:
        """Return the code for arguments of these kinds, from disk or compiled now."""
        with _lock:
            if kinds in self._by_kinds:  # loaded by another thread meanwhile
                return self._by_kinds[kinds]
            name = f"{self.__module__.rpartition('.')[2]}.{self.py_func.__name__}"
            digest = hashlib.sha256(repr(kinds).encode()).hexdigest()[:16]
            file = f"{name}.{digest}"
            symbol = f"flash_kmeans.{object_cache.key()}.{file}"
            code = object_cache.read(file)
            if code is None:
                _announce(name)
                code, externals = _compiler().compile_kernel(self.dispatcher, kinds, symbol)
                if lacking := object_cache.missing(externals):
                    raise RuntimeError(f"kernel {name} calls {lacking}, which nothing here has")
                object_cache.write(file, code, externals)
            call = import_module(f"{__package__}.loader").load(code, symbol, kinds)
            self._by_kinds[kinds] = call
            self._calls += (call,)
            return call


def _announce(name: str) -> None:
    """Tell why this takes seconds."""
    note = f"flash-kmeans-mlx: compiling kernel {name} for this CPU, once"
    print(note, file=sys.stderr, flush=True)


def _compiler() -> Any:
    return import_module(f"{__package__}.compiler")


# A process forked while another thread compiles or loads would wait for that thread for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )
