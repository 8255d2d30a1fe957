"""Metal source of a call of a custom kernel, as MLX writes it, and its translation for g++."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from flash_kmeans_mlx.backends.metal.export import Case, Source, trace

__all__ = [
    "THREADGROUP",
    "EmulationError",
    "Source",
    "generated",
    "parameters",
    "share_threadgroup_memory",
    "to_cpp",
]

THREADGROUP = re.compile(
    r"(?P<before>^|[;{}])(?P<space>[ \t]*)threadgroup\s+"
    r"(?P<type>(?:alignas\([^)]*\)\s+)?(?:typename\s+)?[\w:]+(?:<[^;=()]*?>)?(?:::\w+)*)\s+"
    r"(?P<name>\w+)(?P<dims>(?:\s*\[[^\]]*\])*)\s*;",
    re.MULTILINE,
)
LEFT_OVER = re.compile(r"\bthreadgroup\s+(?!const\b)[\w:]+(?:<[^;=()]*>)?\s+\w+\s*[\[;=,]")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
PARAMETER = re.compile(
    r"\s*(?:const )?(?:device|constant) .*?[*&] (?P<name>\w+) \[\[buffer\((?P<slot>\d+)\)\]\]"
)
ATTRIBUTE = re.compile(r"\s*\w+ (?P<name>\w+) \[\[")
SPACE = re.compile(r"(?m)^  const constant (?=[^&]* \[\[buffer\(\d+\)\]\])")
# g++ says this for whole functions, and does not fuse what it inlines; it takes it between functions only.
CONTRACTION = re.compile(r"(?m)^[ \t]*#pragma METAL fp contract\((off|on|fast)\)[ \t]*$")
INSTANCE = re.compile(r"decltype\((\w+(?:<.*?>)?)\) ")
BUFFER_SLOTS = 31


class EmulationError(RuntimeError):
    """A kernel did what Metal forbids, or what the emulator can't run."""


def generated(kernel: Callable[..., Any], inputs: Sequence[mx.array], **call: Any) -> Source:
    """The Metal source of a call; only shapes and types of `inputs` matter, they are not evaluated."""
    sources = trace(Case(lambda *arrays: kernel(inputs=list(arrays), **call), list(inputs)))
    if not sources:
        raise EmulationError(
            "this build of MLX does not hand out the Metal source of a kernel (0.32.0 and later do)"
        )
    return sources[0]


def parameters(source: Source) -> list[tuple[str, int | None]]:
    """Name and buffer slot of every parameter of the kernel, None for thread attributes."""
    start = source.msl.index(f"void {source.function}(\n")
    signature = source.msl[start : source.msl.index(") {\n", start)].split("\n", 1)[1]
    found: list[tuple[str, int | None]] = []
    for line in signature.split(",\n"):
        if buffer := PARAMETER.match(line):
            found.append((buffer["name"], int(buffer["slot"])))
        elif attribute := ATTRIBUTE.match(line):
            found.append((attribute["name"], None))
        else:
            raise EmulationError(f"a kernel parameter that is not understood: {line.strip()}")
    return found


def share_threadgroup_memory(msl: str, name: str) -> str:
    """`threadgroup` variables become references into the memory of the threadgroup; lines stay where they are."""
    count = 0

    def reference(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        key, kind, variable = f"emu_key_{count}", f"emu_type_{count}", match["name"]
        declared = " ".join(f"typedef {match['type']} {kind}{match['dims']};".split())
        lines = "\n" * match[0].count("\n")
        return (
            f"{match['before']}{match['space']}static const char {key} = 0; {declared} "
            f"{kind}& {variable} = emu::shared<{kind}>(&{key});{lines}"
        )

    shared = THREADGROUP.sub(reference, msl)
    if left := LEFT_OVER.search(COMMENT.sub("", shared)):
        raise EmulationError(
            f"kernel {name!r}: one threadgroup variable per statement, please: {left[0]!r}"
        )
    return shared


def contraction(match: re.Match[str]) -> str:
    """The pragma of g++ for one of Metal; to g++ "on" would mean "off"."""
    return f'#pragma GCC optimize ("fp-contract={"off" if match[1] == "off" else "fast"}")'


def to_cpp(source: Source, name: str) -> tuple[str, list[str]]:
    """A translation unit for g++ and the names of its buffers; errors name lines of the Metal source as `name:line`."""
    known = parameters(source)
    if sum(slot is not None for _, slot in known) > BUFFER_SLOTS:
        raise EmulationError(f"kernel {name!r}: more than {BUFFER_SLOTS} buffers, shapes included")
    body, _, instance = source.msl.partition("\ntemplate [[host_name(")
    match = INSTANCE.search(instance)
    function = match[1] if match else source.function
    # To g++ all memory is alike: inputs of fewer than 8 elements need no library of their own. MLX
    # names them in the signature and in the name of the function.
    body = SPACE.sub("  const device ", body).replace(source.function, f"custom_kernel_{name}")
    function = function.replace(source.function, f"custom_kernel_{name}")
    arguments = ", ".join(
        f"at.{parameter}" if slot is None else f"emu::Argument{{buffers[{slot}]}}"
        for parameter, slot in known
    )
    cpp = "\n".join(
        [
            "#include <metal_stdlib>",
            f'#line 1 "{name}"',
            CONTRACTION.sub(contraction, share_threadgroup_memory(body, name)),
            '#line 1 "generated call"',
            '#include "emu_launch.h"',
            "EMU_RUNTIME void emu::call_kernel(void* const* buffers, const Attributes& at) {",
            f"  {function}({arguments});",
            "}",
            "#ifdef EMU_MAIN",
            '#include "emu_main.h"',
            "#endif",
            "",
        ]
    )
    return cpp, [parameter for parameter, slot in known if slot is not None]
