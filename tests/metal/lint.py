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

from metal.lint_rules import Rules
from metal.source import THREADGROUP, Source

HEADER = Path(__file__).parent / "lint_stdlib.h"
FLAGS = [
    "-x",
    "c++",
    "-nostdinc",
    "-Wno-unknown-attributes",
    "-Wno-ignored-attributes",
    "-Wno-c++17-extensions",
    "-ferror-limit=0",
]
STANDARDS = ("c++14", "c++17")  # of Metal 3 and of Metal 4
INCLUDE = re.compile(r"(?m)^#include <.*>$")
HOST_NAME = re.compile(r'template \[\[host_name\("\w+"\)\]\] \[\[kernel\]\]')
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
    unit, code = _parse(msl, name, STANDARDS[-1])
    findings = [*_diagnostics(unit), *Rules(unit.cursor, name, code.encode()).findings()]
    return [f"{name}:{line}: {text}" for line, text in sorted(set(findings))]


def errors(msl: str, standard: str, first_line: int = 0) -> list[str]:
    """What libclang itself says of the lines from `first_line` on, without the rules."""
    unit, _ = _parse(msl, "kernel", standard)
    found = set(_diagnostics(unit))
    return [f"{line}: {text}" for line, text in sorted(found) if line >= first_line]


def _parse(msl: str, name: str, standard: str) -> tuple[Any, str]:
    # a threadgroup variable is not on the stack: static is the nearest that C++ has
    code = THREADGROUP.sub(
        lambda m: m[0].replace("threadgroup", "static threadgroup", 1),
        INCLUDE.sub("", HOST_NAME.sub("template", msl)),
    )
    arguments = ["-include", str(HEADER), f"-std={standard}", *FLAGS]
    index = import_module("clang.cindex").Index.create()
    return index.parse(name, args=arguments, unsaved_files=[(name, code)], options=0), code


def _diagnostics(unit: Any) -> Iterator[tuple[int, str]]:
    for problem in unit.diagnostics:
        if problem.severity >= WARNING and not _copies_a_struct(problem):
            yield problem.location.line, problem.spelling


def _copies_a_struct(problem: Any) -> bool:
    """Whether it is a copy of a struct between address spaces, which MSL allows and C++ does not."""
    if not problem.spelling.startswith(("no matching constructor", "no viable overloaded '='")):
        return False
    notes = [note.spelling for note in problem.children]
    return any("implicit copy" in note and "address space" in note for note in notes)
