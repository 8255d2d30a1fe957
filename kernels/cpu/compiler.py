"""Compile kernels to object code by Numba, which only this module and what it imports need."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.core.registry import cpu_target as _cpu_target

from .entry import add_entry, add_runtime, numba_type
from .kinds import Kind

__all__ = ["compile_kernel", "make_dispatcher", "type_of"]


cpu_target: Any = _cpu_target  # no type checker knows its attributes


def make_dispatcher(function: Any, options: dict[str, Any]) -> Any:
    """Return a function as Numba knows it."""
    return CPUDispatcher(function, targetoptions={**options, "nopython": True})


@contextmanager
def _neither_optimized_nor_emitted() -> Iterator[None]:
    """Have Numba leave the functions that a kernel calls as they are: it contains them.

    They need no machine code of their own. The kernel is optimized once it is complete.
    """
    context = cpu_target.target_context
    codegen = context.codegen()
    changes: list[tuple[Any, str, Any]] = [
        (codegen, "_add_module", lambda module: None),
        (codegen._engine, "finalize_object", lambda: None),
        (codegen._library_class, "_optimize_final_module", lambda library: None),
        # By which callers find a function: unique, and of the type that Numba expects.
        (context, "get_executable", lambda library, fndesc, env: [].append),
    ]
    before = [vars(owner).get(name) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(changes, before, strict=True):
            if value is not None:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)


def type_of(value: Any) -> Any:
    """Return Numba's type of a function of Numba's, which a kernel calls."""
    cpu_target.typing_context.refresh()
    return cpu_target.typing_context.resolve_value_type(value)


def compile_kernel(
    dispatcher: Any, kinds: tuple[Kind, ...], symbol: str
) -> tuple[bytes, list[str]]:
    """Return object code with the function `symbol`, which takes arguments of these kinds.

    The second result is the names of functions that the code expects in the process.
    """
    types = tuple(map(numba_type, kinds))
    with global_compiler_lock, _without_garbage_collection():
        cpu_target.target_context.refresh()  # which makes what is needed to allocate
        with _neither_optimized_nor_emitted():
            dispatcher.compile(types)
            result = dispatcher.overloads[types]
            context = result.target_context
            library = context.codegen().create_library(symbol)
            entry = context.create_module(symbol)
            add_entry(context, entry, result.fndesc, kinds, symbol)
            add_runtime(entry)
            library.add_ir_module(entry)
            library.add_linking_library(result.library)
            library.finalize()
        module = library._final_module
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration and value.name != symbol:
                value.linkage = "internal"
        library._optimize_final_module()
        declared = (value.name for value in module.functions if value.is_declaration)
        externals = [name for name in declared if not name.startswith("llvm.")]
        return context.codegen()._tm.emit_object(module), externals


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Hold Python's collector, which takes a tenth of the time and finds little."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
