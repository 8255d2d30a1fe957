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

#define UNROLL _Pragma("clang loop unroll(full)")

template <typename T, int W>
struct Total {
  static constexpr constant int TWICE = 2 * W;
  T v[W];
  T lanes[TWICE];
  METAL_FUNC void add(T x) thread {
    UNROLL for (int w = 0; w < W; w++) v[w] += x;
  }
};

template <typename T, int W>
METAL_FUNC void double_all(thread Total<T, W>& total, thread T (&rows)[2][W], bool keep) {
  if (!keep) {
    UNROLL for (int w = 0; w < W; w++) {
      const int other = w ^ 1;
      total.v[w] += rows[0][w] + rows[1][other];
    }
  }
  UNROLL for (int w = 0; w < Total<T, W>::TWICE; w++) total.lanes[w] = T(0);
}

#pragma METAL fp contract(off)
METAL_FUNC float lost(float a, float b) {
  const float sum = a + b, z = sum - a;
  return (a - (sum - z)) + (b - z);
}
METAL_FUNC float lost_square(float a) {
  const float square = a * a;
  return fma(a, a, -square);
}
#pragma METAL fp contract(on)

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
  Total<float, 2> total;
  float rows[2][2] = {{1.0f, 2.0f}, {3.0f, 4.0f}};
  total.add(1.0f);
  double_all(total, rows, i > 3);
  y[i] = total.v[0] + simd_sum(p[31 - i]) + n + w.v[0] + first(b) + m.thread_elements()[0];
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
    "member function without an address space": (
        "void add(T x) thread {",
        "void add(T x) {",
        "'add' is a member without an address space",
    ),
    "operator without an address space": (
        "  METAL_FUNC void add",
        "  METAL_FUNC void operator()(T x, T y) { add(x); add(y); }\n  METAL_FUNC void add",
        r"'operator\(\)' is a member without an address space",
    ),
    "loop over an array of a member without UNROLL": (
        "UNROLL for (int w = 0; w < W; w++) v[w] += x;",
        "for (int w = 0; w < W; w++) v[w] += x;",
        "indexed by 'w', whose loop has no UNROLL",
    ),
    "loop over an array of a parameter without UNROLL": (
        "UNROLL for (int w = 0; w < Total<T, W>::TWICE; w++) total",
        "for (int w = 0; w < Total<T, W>::TWICE; w++) total",
        "indexed by 'w', whose loop has no UNROLL",
    ),
    "loop over an array without constant bounds": (
        "UNROLL for (int w = 0; w < W; w++) {",
        "UNROLL for (int w = 0; w < (keep ? 1 : W); w++) {",
        "indexed by 'w', whose loop has no constant bounds",
    ),
    "UNROLL of a loop that may turn any number of times": (
        "  total.add(1.0f);",
        "  UNROLL for (uint k = 0; k < i; k++) total.add(1.0f);",
        "UNROLL of a loop without constant bounds",
    ),
    "error of a sum where products may be fused": (
        "#pragma METAL fp contract(off)\n",
        "",
        "an error of rounding without",
    ),
    "error of a product behind the end of the pragma": (
        "METAL_FUNC float lost_square",
        "#pragma METAL fp contract(fast)\nMETAL_FUNC float lost_square",
        "an error of rounding without",
    ),
    "array in registers indexed by data": (
        "const int other = w ^ 1;",
        "const int other = w ^ int(keep);",
        "indexed by 'other', which is not constant",
    ),
    "elements of a matrix indexed by data": (
        "m.thread_elements()[0]",
        "m.thread_elements()[i % 2]",
        "indexed by 'i', which is not constant",
    ),
    "pointer to an array": (
        "thread T (&rows)[2][W]",
        "thread T (*rows)[W]",
        "'rows' points to an array",
    ),
    "choice between arrays": (
        "const int other = w ^ 1;",
        "const int other = w ^ 1;\n      thread T* one = keep ? rows[0] : rows[1];",
        "a choice between arrays",
    ),
    "unnamed enumeration": (
        "static constexpr constant int TWICE = 2 * W;",
        "enum : int { TWICE = 2 * W };",
        "an unnamed enumeration",
    ),
    "UNROLL directly below a branch": (
        "  if (!keep) {\n    UNROLL for (int w = 0; w < W; w++) {",
        "  if (!keep)\n    UNROLL for (int w = 0; w < W; w++) {{",
        "UNROLL as the only statement",
    ),
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
