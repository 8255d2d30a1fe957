"""The lint finds a kernel that breaks a rule, for every rule, and passes the sound kernel it was made from."""

from __future__ import annotations

import re

import mlx.core as mx
import pytest

from metal.kit import kernel
from metal.lint import lint, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

HEADER = """
constant constexpr int WIDTH = 4;

template <typename T>
struct Pack {
  T v[WIDTH];
};

// A comment with `threadgroup float s[4];` in it.
template <typename T>
METAL_FUNC void fill(threadgroup T* to, const device T* from, thread uint& n, uint i) {
  to[i] = from[i];
  n += 1;
}

template <typename P>
METAL_FUNC float first(P from) {
  return float(from[0]);
}
"""
SOURCE = """
  uint i = thread_position_in_grid.x, n = 0;
  constexpr int SIZE = 32;
  threadgroup T s[SIZE];
  fill(s, a, n, i);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup float* p = (threadgroup float*)s;
  const Pack<float> w = *reinterpret_cast<const device Pack<float>*>(a);
  simdgroup_float8x8 m = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_multiply_accumulate(m, m, m, m);
  y[i] = simd_sum(p[31 - i]) + n + w.v[0] + first(b) + m.thread_elements()[0];
"""

DEFECTS = {
    "pointer without an address space": (
        "threadgroup float* p = (threadgroup float*)s;",
        "float* p = s;",
        "cannot initialize",
    ),
    "thread pointer without a qualifier": (
        "  y[i] =",
        "  float local = 0; float* q = &local; n += *q;\n  y[i] =",
        "'q' points without",
    ),
    "reference without a qualifier": ("thread uint& n", "uint& n", "'n' points without"),
    "helper for the wrong space": (
        "const device T* from",
        "const constant T* from",
        "no matching function",
    ),
    "helper without a space": ("threadgroup T* to", "T* to", "no matching function"),
    "static constant of no space": (
        "constant constexpr int WIDTH",
        "constexpr int WIDTH",
        "'WIDTH' is static and not `constant`",
    ),
    "lambda": (
        "  y[i] =",
        "  auto f = [&](uint k) { return k; };\n  n = f(n);\n  y[i] =",
        "a lambda",
    ),
    "unknown name": ("first(b)", "second(b)", "second"),
    "threadgroup memory with a value": (
        "threadgroup T s[SIZE];",
        "threadgroup T s[SIZE] = {};",
        "automatic variable|address space",
    ),
}


def findings(
    source: str = SOURCE, header: str = HEADER, size: int = 32, dtype: mx.Dtype = mx.float32
) -> list[str]:
    call = {
        "output_shapes": [(32,)],
        "output_dtypes": [mx.float32],
        "grid": (32, 1, 1),
        "threadgroup": (32, 1, 1),
    }
    made = kernel(source, 2, header=header)
    return lint(
        made.source([mx.zeros((size,), dtype), mx.zeros((3,))], template=[("T", dtype)], **call),
        "checked",
    )


def test_a_sound_kernel_is_clean() -> None:
    assert findings() == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_found(defect: str) -> None:
    old, new, message = DEFECTS[defect]
    assert (SOURCE + HEADER).count(old) == 1
    found = "\n".join(findings(SOURCE.replace(old, new), HEADER.replace(old, new)))
    assert re.search(rf"checked:\d+: .*({message})", found), found


def test_inputs_of_fewer_than_8_elements_are_constant() -> None:
    assert findings(size=8) == []
    found = "\n".join(findings(size=7))
    assert "no matching function for call to 'fill'" in found
    assert "reinterpret_cast from 'constant float const *' to 'device Pack<float> const *'" in found


def test_half_and_bfloat_are_known() -> None:
    source = "uint i = thread_position_in_grid.x; T x = a[i] + T(1); y[i] = float(x) + float(b[0]);"
    for dtype in (mx.float16, mx.bfloat16):
        assert findings(source, "", dtype=dtype) == []
