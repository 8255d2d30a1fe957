"""The emulator contracts products and flushes subnormals where it is told to, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal.emulator import EmulationError, emulation
from metal.kit import needs_gpp, run

pytestmark = needs_gpp

OFF = "#pragma METAL fp contract(off)\n"
# The sum of a product and of a number, and what rounding the sum took from it.
TWO_SUM = """
struct Twofold {
  float hi, lo;
};

METAL_FUNC Twofold two_sum(float a, float b) {
  const float sum = a + b, z = sum - a;
  return Twofold{sum, (a - (sum - z)) + (b - z)};
}

METAL_FUNC Twofold multiply_add(float a, float b, float c) { return two_sum(a * b, c); }
"""
SUMS = "const Twofold s = multiply_add(a[i], b[i], c[i]);\ny[i] = s.hi;\nz[i] = s.lo;"
SUBNORMAL = np.float32(2.0**-140)


def draw() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(512).astype(np.float32) for _ in range(3)]


def compute(source: str, *inputs: np.ndarray, **options: Any) -> tuple[np.ndarray, ...]:
    return run(
        f"uint i = thread_position_in_grid.x;\n{source}",
        *map(mx.array, inputs),
        grid=(inputs[0].size, 1, 1),
        **options,
    )


def lost(header: str) -> int:
    """For how many of 512 sums hi + lo is not the exact sum of the rounded product and of c."""
    a, b, c = draw()
    hi, lo = compute(SUMS, a, b, c, header=header, shapes=[(512,)] * 2)
    exact = (a * b).astype(np.float64) + c
    return int((hi.astype(np.float64) + lo != exact).sum())


def test_contraction_breaks_an_error_free_transformation_without_the_pragma() -> None:
    assert lost(TWO_SUM) == 0
    with emulation(contract=True):
        assert lost(TWO_SUM) > 100
        assert lost(OFF + TWO_SUM) == 0


@pytest.mark.parametrize("mode", ["on", "fast"])
def test_contraction_is_allowed_again_after_the_pragma(mode: str) -> None:
    product = "y[i] = fused(a[i], b[i], c[i]);"
    function = "METAL_FUNC float fused(float a, float b, float c) { return a * b - c; }"
    a, b, _ = draw()
    c = a * b
    rounding = (a.astype(np.float64) * b - c).astype(np.float32)
    with emulation(contract=True):
        for header, expected in (
            (function, rounding),
            (OFF + function, 0 * c),
            (OFF + OFF.replace("off", mode) + function, rounding),
        ):
            (y,) = compute(product, a, b, c, header=header)
            np.testing.assert_array_equal(y, expected)


def test_the_pragma_inside_a_function_is_refused() -> None:
    header = f"METAL_FUNC float fused(float a) {{\n{OFF}return a * a + a;\n}}\n"
    with pytest.raises(EmulationError, match="not allowed inside functions"):
        compute("y[i] = fused(a[i]);", draw()[0], header=header)


# Kernels that need subnormals: what they give with them, and where they are flushed.
NEEDS_SUBNORMALS: dict[str, tuple[str, Callable[[np.float32], float], float]] = {
    "result": ("y[i] = a[i] * 0x1p-20f;", lambda x: x * 2.0**-20, 0.0),
    "operand": ("y[i] = a[i] * 0x1p-20f * 0x1p40f;", lambda x: x * 2.0**20, 0.0),
    "comparison": ("y[i] = a[i] * 0x1p-20f > 0;", lambda x: 1.0, 0.0),
    "sum over a simdgroup": ("y[i] = simd_sum(a[i] * 0x1p-20f);", lambda x: x * 32 * 2.0**-20, 0.0),
}


@pytest.mark.parametrize("defect", NEEDS_SUBNORMALS)
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_are_flushed(defect: str, threads: int) -> None:
    source, kept, flushed = NEEDS_SUBNORMALS[defect]
    x = np.full(64, np.ldexp(1.0, -125), np.float32)
    for flush, expected in ((False, kept(x[0])), (True, flushed), (False, kept(x[0]))):
        with emulation(threads=threads, flush=flush):
            (y,) = compute(source, x, threadgroup=(32, 1, 1))
        np.testing.assert_array_equal(y, np.float32(expected))
    assert SUBNORMAL * np.float32(1) == SUBNORMAL  # this thread flushes nothing afterwards


def test_flushing_ends_with_an_error() -> None:
    source = "if (i < 5) threadgroup_barrier(mem_flags::mem_threadgroup);\ny[i] = a[i];"
    with emulation(threads=1, flush=True), pytest.raises(EmulationError, match="divergent"):
        compute(source, draw()[0])
    assert SUBNORMAL * np.float32(1) == SUBNORMAL


def test_copies_and_halfs_keep_subnormals() -> None:
    half = np.full(32, 2.0**-20, np.float16)
    with emulation(flush=True):
        (y,) = compute("y[i] = a[i];", np.full(32, SUBNORMAL))
        np.testing.assert_array_equal(y, SUBNORMAL)
        (y,) = compute("y[i] = float(a[i]);", half)
        np.testing.assert_array_equal(y, half.astype(np.float32))


def test_an_emulation_inside_another_keeps_its_arithmetic() -> None:
    with emulation(contract=True, flush=True):
        with emulation(order=1) as inner:
            assert (inner.contract, inner.flush) == (True, True)
        with emulation(contract=False) as inner:
            assert (inner.contract, inner.flush) == (False, True)
    with emulation() as outer:
        assert (outer.contract, outer.flush) == (False, False)
