"""Metal source becomes C++ that keeps its lines: parameters, threadgroup variables, address spaces."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest

from metal.kit import kernel, needs_gpp
from metal.source import EmulationError, Source, parameters, share_threadgroup_memory, to_cpp


def generated(source: str, inputs: Sequence[mx.array] = (mx.zeros((3, 3)),)) -> Source:
    return kernel(source, name="text").source(
        inputs,
        output_shapes=[(8,)],
        output_dtypes=[mx.float32],
        grid=(8, 1, 1),
        threadgroup=(8, 1, 1),
    )


@needs_gpp
def test_parameters_of_a_kernel() -> None:
    found = parameters(
        generated(
            "y[thread_position_in_grid.x] = a[a_shape[0]] + a_ndim + simdgroup_index_in_threadgroup;"
        )
    )
    assert found == [
        ("a", 0),
        ("a_shape", 1),
        ("a_ndim", 2),
        ("y", 3),
        ("simdgroup_index_in_threadgroup", None),
        ("thread_position_in_grid", None),
    ]


@needs_gpp
def test_inputs_in_either_address_space_make_the_same_cpp() -> None:
    small, large = (generated("y[0] = a[0];", inputs=[mx.zeros((size,))]) for size in (7, 8))
    assert "const constant float* a [[buffer(0)]]" in small.msl
    assert "const device float* a [[buffer(0)]]" in large.msl
    assert to_cpp(small, "text") == to_cpp(large, "text")


@pytest.mark.parametrize(
    "declaration",
    [
        "threadgroup float s[32];",
        "  threadgroup  T\n  s[2 * TILE]\n  [4];",
        "uint i; threadgroup uint s;",
        "{ threadgroup typename S::Operand s[4]; }",
        "threadgroup Pack<float, 4> s[4];",
        "threadgroup atomic<uint> s[K + (N > 4 ? 1 : 2)];",
        "threadgroup alignas(16) half s[8];",
    ],
)
def test_threadgroup_variables_are_shared_and_lines_stay(declaration: str) -> None:
    shared = share_threadgroup_memory(f"a\n{declaration}\nb", "text")
    assert "emu::shared<emu_type_1>(&emu_key_1);" in shared and "& s = " in shared
    assert shared.count("\n") == declaration.count("\n") + 2


@pytest.mark.parametrize(
    "text",
    [
        "threadgroup float* p = s;",
        "void f(threadgroup const T* a, const threadgroup T& b, threadgroup float *c);",
        "x = (threadgroup half*)s; // threadgroup float s[4], or threadgroup memory s;",
        "/* threadgroup float s[4],\n t[5]; */",
    ],
)
def test_threadgroup_pointers_and_comments_stay(text: str) -> None:
    assert share_threadgroup_memory(text, "text") == text


@pytest.mark.parametrize(
    "text",
    ["threadgroup float s[4], t[4];", "threadgroup float s[4] = {0};", "threadgroup float s = 0;"],
)
def test_a_declaration_that_would_not_be_shared_is_refused(text: str) -> None:
    with pytest.raises(
        EmulationError, match="kernel 'text': one threadgroup variable per statement"
    ):
        share_threadgroup_memory(text, "text")
