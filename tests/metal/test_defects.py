"""The emulator and the sanitizers find defects that are put into small kernels, and pass the cures."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal.emulator import EmulationError, SanitizerError, emulation
from metal.kit import needs_gpp, run

pytestmark = needs_gpp

FENCE = "threadgroup_barrier(mem_flags::mem_threadgroup);"
SIMD_FENCE = "simdgroup_barrier(mem_flags::mem_threadgroup);"
LINE = r"\(broken:\d+\)"


def broken(source: str, *inputs: Any, threads: int = 64, **options: Any) -> tuple[np.ndarray, ...]:
    """Two threadgroups of 64 threads with one float32 output a thread."""
    call = {
        "shapes": [(2 * threads,)],
        "grid": (2 * threads, 1, 1),
        "threadgroup": (threads, 1, 1),
        "name": "broken",
    }
    return run(
        f"uint i = thread_position_in_grid.x, t = thread_index_in_threadgroup;\n{source}",
        *inputs,
        **{**call, **options},
    )


DIVERGENT = {
    "barrier in a branch": (
        f"if (t < 40)\n{FENCE}\ny[i] = 1;",
        rf"divergent control flow: 40 of 64 threads wait at threadgroup_barrier {LINE}; 24 of 64 have returned",
    ),
    "barriers on both sides": (
        f"if (t < 40)\n{FENCE}\nelse\n{FENCE}\ny[i] = 1;",
        rf"divergent threadgroup_barrier: some threads are at threadgroup_barrier {LINE}, others at threadgroup_barrier {LINE}",
    ),
    "return before a barrier": (
        f"if (t == 5) return;\n{FENCE}\ny[i] = 1;",
        "63 of 64 threads wait at threadgroup_barrier",
    ),
    "simd operation in a branch": (
        "y[i] = 0;\nif (t % 32 < 16)\ny[i] = simd_max(float(t));",
        rf"16 of 32 threads wait at simd_max {LINE}",
    ),
    "different simd operations": (
        "if (t % 2) y[i] = simd_max(float(t));\nelse y[i] = simd_sum(float(t));",
        rf"divergent simd_\w+: some threads are at simd_\w+ {LINE}, others at simd_\w+ {LINE}",
    ),
    "return before a simd operation": (
        "if (t == 3) return;\ny[i] = simd_sum(1.0f);",
        "31 of 32 threads wait at simd_sum",
    ),
    "simdgroup barrier in a branch": (
        f"if (t % 32 == 0)\n{SIMD_FENCE}\ny[i] = 1;",
        "1 of 32 threads wait at simdgroup_barrier",
    ),
}


@pytest.mark.parametrize("defect", DIVERGENT)
def test_divergence_is_an_error(defect: str) -> None:
    source, message = DIVERGENT[defect]
    for order in range(3):
        with (
            emulation(order=order),
            pytest.raises(
                EmulationError, match=f"kernel 'broken': threadgroup .*{message}"
            ) as error,
        ):
            broken(source)
        lines = {int(n) for n in re.findall(r"\(broken:(\d+)\)", str(error.value))}
        for n in lines:  # the lines are quoted below the message
            assert re.search(rf"\n  broken:{n}: .*(barrier|simd_)", str(error.value))


def test_divergence_between_simdgroups_is_fine_for_simd_operations() -> None:
    (y,) = broken("y[i] = t < 32 ? simd_sum(1.0f) : 2.0f;")
    np.testing.assert_array_equal(y, [32] * 32 + [2] * 32 + [32] * 32 + [2] * 32)


def test_a_matrix_product_needs_a_whole_simdgroup() -> None:
    source = "simdgroup_float8x8 m(1.0f);\nsimdgroup_multiply_accumulate(m, m, m, m);\ny[i] = m.thread_elements()[0];"
    with pytest.raises(
        EmulationError, match=rf"simdgroup_multiply_accumulate {LINE} in a simdgroup of 16 lanes"
    ):
        broken(source, threads=48)


def test_threadgroup_memory_has_an_end() -> None:
    source = "threadgroup float p[4096];\nthreadgroup float q[SIZE];\nq[t] = p[t] = t;\ny[i] = p[t] + q[t];"
    with emulation() as clean:
        broken(source, template=[("SIZE", 4096)])
    assert clean.launches[0].threadgroup_bytes == 32768
    with pytest.raises(
        EmulationError, match="32784 bytes of threadgroup memory, more than the 32768 there are"
    ):
        broken(source, template=[("SIZE", 4097)])


def test_thread_memory_has_an_end() -> None:
    source = (
        "float p[65520];\nfor (uint k = 0; k < 65520; k++) p[k] = a[k % 64];\ny[i] = p[uint(a[t])];"
    )
    with pytest.raises(EmulationError, match="frame size of [0-9]+ bytes is larger"):
        broken(source, mx.zeros((64,)))


def test_reads_of_threadgroup_memory_that_was_not_written_give_nan() -> None:
    (y,) = broken(f"threadgroup float s[65];\ns[t] = t;\n{FENCE}\ny[i] = s[t + 1];")
    np.testing.assert_array_equal(np.isnan(y), [False] * 63 + [True] + [False] * 63 + [True])


def test_a_missing_barrier_shows_in_some_order_without_a_sanitizer() -> None:
    wrong = 0
    for order in range(3):
        with emulation(order=order):
            (y,) = broken("threadgroup float s[64];\ns[t] = t;\ny[i] = s[63 - t];")
        wrong += int(np.isnan(y).sum())
    assert wrong


RACES = {
    "barrier after a write": (
        f"threadgroup float s[64];\ns[t] = t;\n{FENCE}\ny[i] = s[63 - t];",
        FENCE,
    ),
    "barrier before the next write": (
        f"""threadgroup float s[64];
        float sum = 0;
        for (uint k = 0; k < 3; k++) {{
            s[t] = k;
            {FENCE}
            sum += s[63 - t];
            /**/{FENCE}
        }}
        y[i] = sum;""",
        f"/**/{FENCE}",
    ),
    "simdgroup barrier before a shuffle's partner reads": (
        f"threadgroup float s[64];\ns[t] = t;\nfloat x = simd_shuffle_xor(float(t), 1);\n{SIMD_FENCE}\ny[i] = s[t ^ 1] + x;",
        SIMD_FENCE,
    ),
    "simdgroup barrier around a matrix product": (
        f"""threadgroup float s[128];
        threadgroup float* mine = s + t / 32 * 64;
        simdgroup_float8x8 m(1.0f);
        simdgroup_multiply_accumulate(m, m, m, m);
        simdgroup_store(m, mine);
        {SIMD_FENCE}
        y[i] = mine[63 - t % 32];""",
        SIMD_FENCE,
    ),
}


@pytest.mark.sanitizer
@pytest.mark.parametrize("defect", RACES)
def test_missing_barriers_are_races(defect: str) -> None:
    source, barrier = RACES[defect]
    assert source.count(barrier) == 1
    with emulation(sanitizer="thread"):
        (y,) = broken(source)
        assert not np.isnan(y).any()
        with pytest.raises(
            SanitizerError, match=r"kernel 'broken': (.|\n)*data race(.|\n)*\n  broken:\d+: "
        ) as error:
            broken(source.replace(barrier, ""))
    assert "data race" in error.value.report


@pytest.mark.sanitizer
def test_sums_that_are_not_atomic_are_races() -> None:
    right = "atomic_fetch_add_explicit((device atomic<float>*)&y[0], 1.0f, memory_order_relaxed);"
    across = "if (t == 0) y[0] += 1;"
    with emulation(sanitizer="thread"):
        (y,) = broken(right, init_value=0)
        assert y[0] == 128
        for wrong in ("y[0] += 1;", across):
            with pytest.raises(SanitizerError, match="data race"):
                broken(wrong, init_value=0)
        broken("if (i == 0) y[0] += 1;", init_value=0)


@pytest.mark.sanitizer
def test_a_fence_does_not_order_threadgroups() -> None:
    source = f"if (t == 0) y[i] = 1;\n{FENCE.replace('mem_threadgroup', 'mem_device')}\nif (t == 1) z[i] = y[64 - i / 64 * 64];"
    with emulation(sanitizer="thread"), pytest.raises(SanitizerError, match="data race"):
        broken(source, shapes=[(128,), (128,)])


OUTSIDE = {
    "device read": ("y[i] = a[i + 1];", "heap-buffer-overflow"),
    "device read before the start": ("y[i] = a[int(i) - 1];", "heap-buffer-overflow"),
    "device write": ("y[i + 1] = a[i];", "heap-buffer-overflow"),
    "threadgroup array": ("threadgroup float s[64];\ns[t] = t;\ny[i] = s[t + 1];", "out of bounds"),
    "threadgroup read": (
        "threadgroup float s[64];\nthreadgroup float* p = s;\np[t] = t;\ny[i] = p[t + 1];",
        "use-after-poison",
    ),
    "threadgroup write": (
        "threadgroup float s[64];\nthreadgroup float* p = s;\np[t + 1] = t;\ny[i] = 1;",
        "use-after-poison",
    ),
    "thread array": (
        "float s[4] = {1, 2, 3, 4};\ny[i] = s[t % 5];",
        "out of bounds|stack-buffer-overflow",
    ),
    "integer overflow": (
        "int n = int(a[i]) + 2147483600;\ny[i] = n + int(t);",
        "signed integer overflow",
    ),
}


@pytest.mark.sanitizer
@pytest.mark.parametrize("defect", OUTSIDE)
def test_accesses_outside_are_found(defect: str) -> None:
    source, message = OUTSIDE[defect]
    with (
        emulation(sanitizer="address"),
        pytest.raises(SanitizerError, match=rf"(?s)'broken'.*({message}).*\n  broken:\d+: "),
    ):
        broken(source, mx.arange(128.0))


@pytest.mark.sanitizer
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_a_clean_kernel_is_clean_under_sanitizers(sanitizer: str) -> None:
    source = f"""
        threadgroup T s[64];
        simdgroup_matrix<T, 8, 8> p, q(T(1));
        simdgroup_float8x8 sum(0.0f);
        s[t] = a[i];
        {FENCE}
        simdgroup_load(p, s);
        simdgroup_multiply_accumulate(sum, p, q, sum);
        float x = simd_sum(sum.thread_elements()[0] + sum.thread_elements()[1]) + simd_shuffle_xor(float(s[63 - t]), 1);
        {FENCE}
        s[t] = T(x);
        {FENCE}
        y[i] = s[t ^ 1];
    """
    a = (mx.arange(128) % 5).astype(mx.float16)
    results = []
    for kind in (None, sanitizer):
        with emulation(sanitizer=kind, order=2):
            results.append(broken(source, a, template=[("T", mx.float16)])[0])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.sanitizer
def test_errors_of_the_emulator_come_through_a_sanitizer() -> None:
    with (
        emulation(sanitizer="address"),
        pytest.raises(EmulationError, match="40 of 64 threads wait at threadgroup_barrier"),
    ):
        broken(DIVERGENT["barrier in a branch"][0])
    with emulation(sanitizer="thread"), pytest.raises(EmulationError, match="more than the 8000"):
        broken("y[i] = 1;", grid=(8192, 1, 1))
