"""Checks by libclang, on the Metal source that MLX writes, of what the emulator can't see.

To g++ all memory is alike. Here `device`, `constant` and `threadgroup` are address spaces, so a pointer
of the wrong kind is an error, and so is a helper for `device` pointers that is called with an input of
fewer than 8 elements, which MLX passes as `constant`. Rules of MSL that C++ lacks are checked as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx

from metal.source import THREADGROUP, Source

HEADER = Path(__file__).parent / "lint_stdlib.h"
FLAGS = [
    "-x",
    "c++",
    "-std=c++17",
    "-nostdinc",
    "-Wno-unknown-attributes",
    "-Wno-ignored-attributes",
    "-Wno-c++17-extensions",
]
HOST_NAME = re.compile(r'template \[\[host_name\("\w+"\)\]\] \[\[kernel\]\]')
QUALIFIERS = {"thread", "device", "constant", "threadgroup"}
CONSTANT = 2
WARNING = 2  # libclang's severities: 2 warning, 3 error, 4 fatal


def why_not() -> str | None:
    """The reason why sources can't be checked here; None if they can."""
    if mx.metal.is_available():
        return "Metal's own compiler checks the kernels here"
    return (
        None
        if find_spec("clang") and find_spec("clang.cindex")
        else "the lint needs libclang (pip install libclang)"
    )


def lint(source: Source | str, name: str = "kernel") -> list[str]:
    """Findings as `name:line: text`, by the lines of the Metal source; the list is empty for a clean kernel."""
    msl = source if isinstance(source, str) else source.msl
    # a threadgroup variable is not on the stack: static is the nearest that C++ has
    code = THREADGROUP.sub(
        lambda m: m[0].replace("threadgroup", "static threadgroup", 1),
        HOST_NAME.sub("template", msl),
    )
    unit = (
        import_module("clang.cindex")
        .Index.create()
        .parse(
            name, args=["-include", str(HEADER), *FLAGS], unsaved_files=[(name, code)], options=0
        )
    )
    findings = [
        (problem.location.line, problem.spelling)
        for problem in unit.diagnostics
        if problem.severity >= WARNING and not _copies_a_struct(problem)
    ]
    findings += _rules(unit.cursor, name, code.encode())
    return [f"{name}:{line}: {text}" for line, text in sorted(set(findings))]


def _copies_a_struct(problem: Any) -> bool:
    """Whether it is a copy of a struct between address spaces, which MSL allows and C++ does not."""
    if not problem.spelling.startswith(("no matching constructor", "no viable overloaded '='")):
        return False
    notes = [note.spelling for note in problem.children]
    return any("implicit copy" in note and "address space" in note for note in notes)


def _rules(unit: Any, name: str, code: bytes) -> Iterator[tuple[int, str]]:
    """Findings by MSL's own rules.

    Every pointer names its address space, constants live in `constant`, there are no lambdas.
    """
    clang = import_module("clang.cindex")
    kinds: Any = clang.CursorKind
    pointers = (clang.TypeKind.POINTER, clang.TypeKind.LVALUEREFERENCE)
    scopes = (kinds.TRANSLATION_UNIT, kinds.NAMESPACE, kinds.STRUCT_DECL, kinds.CLASS_TEMPLATE)

    def visit(parent: Any) -> Iterator[tuple[int, str]]:
        for cursor in parent.get_children():
            if cursor.location.file is not None and cursor.location.file.name != name:
                continue
            line = cursor.location.line
            if cursor.kind == kinds.LAMBDA_EXPR:
                yield line, "a lambda: MSL has none"
            if cursor.kind in (kinds.PARM_DECL, kinds.VAR_DECL, kinds.FIELD_DECL):
                kind = cursor.type
                if kind.kind in pointers and not _qualified(cursor, code):
                    yield (
                        line,
                        f"{cursor.spelling!r} points without an address space (thread, device, ...)",
                    )
                fixed = parent.kind in scopes or cursor.storage_class == clang.StorageClass.STATIC
                if cursor.kind == kinds.VAR_DECL and fixed and not _qualified(cursor, code):
                    yield line, f"{cursor.spelling!r} is static and not `constant`"
            yield from visit(cursor)

    yield from visit(unit)


def _qualified(cursor: Any, code: bytes) -> bool:
    """Whether a declaration names an address space; `thread` expands to nothing and may stand before its extent."""
    start, end = cursor.extent.start.offset, cursor.location.offset
    statement = re.split(rb"[;{}(,]", code[max(0, start - 200) : start])[-1]
    return bool(QUALIFIERS & set(re.findall(r"\w+", (statement + b" " + code[start:end]).decode())))
