"""Emulated simdgroup operations, matrices, atomics and vectors agree with NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from metal.emulator import emulation
from metal.kit import needs_gpp, run

pytestmark = needs_gpp

LANE = np.arange(32)
NONE = np.uint32(0xFFFFFFFF)
INTS = np.random.default_rng(0).integers(0, 2**31, 32).astype(np.uint32)
FLOATS = np.random.default_rng(1).integers(-50, 50, 32).astype(np.float32)

UINT_OPERATIONS = {
    "simd_shuffle(x, 31 - l)": INTS[::-1],
    "simd_shuffle(x, ushort(l * 7 % 32))": INTS[LANE * 7 % 32],
    "simd_shuffle(x, ushort(l + 1))": np.append(INTS[1:], NONE),
    "simd_shuffle_xor(x, 5)": INTS[LANE ^ 5],
    "simd_shuffle_down(x, 3)": np.append(INTS[3:], [NONE] * 3),
    "simd_shuffle_up(x, 3)": np.append([NONE] * 3, INTS[:-3]),
    "simd_shuffle_rotate_down(x, 3)": np.roll(INTS, -3),
    "simd_shuffle_rotate_up(x, 3)": np.roll(INTS, 3),
    "simd_broadcast(x, 9)": np.full(32, INTS[9]),
    "simd_broadcast_first(x)": np.full(32, INTS[0]),
    "simd_and(x | 1u)": np.full(32, np.bitwise_and.reduce(INTS | 1)),
    "simd_or(x)": np.full(32, np.bitwise_or.reduce(INTS)),
    "simd_xor(x)": np.full(32, np.bitwise_xor.reduce(INTS)),
    "simd_sum(x)": np.full(32, INTS.sum(dtype=np.uint32)),
    "simd_max(x)": np.full(32, INTS.max()),
    "simd_min(x)": np.full(32, INTS.min()),
    "simd_prefix_inclusive_sum(x)": np.cumsum(INTS, dtype=np.uint32),
    "simd_prefix_exclusive_sum(x)": np.cumsum(INTS, dtype=np.uint32) - INTS,
    "uint(simd_any(x == simd_max(x)))": np.full(32, 1),
    "uint(simd_all(x > simd_min(x)))": np.full(32, 0),
    "uint(ulong(simd_ballot(x % 2 == 1)))": np.full(
        32, ((INTS % 2) << LANE.astype(np.uint32)).sum(dtype=np.uint32)
    ),
}


@pytest.mark.parametrize("order", [0, 1, 2])
def test_operations_on_integers(order: int) -> None:
    stores = "".join(
        f"y[{i} * 32 + l] = {expression};\n" for i, expression in enumerate(UINT_OPERATIONS)
    )
    source = f"uint l = thread_index_in_simdgroup, x = a[l];\n{stores}"
    with emulation(order=order):
        (y,) = run(source, mx.array(INTS), shapes=[(len(UINT_OPERATIONS), 32)], dtypes=[mx.uint32])
    for row, (expression, expected) in zip(y, UINT_OPERATIONS.items(), strict=True):
        np.testing.assert_array_equal(row, expected.astype(np.uint32), err_msg=expression)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_operations_on_floats(dtype: mx.Dtype) -> None:
    with_nan = FLOATS.copy()
    with_nan[3] = np.nan
    source = """
        uint l = thread_index_in_simdgroup;
        T x = a[l], v = b[l];
        y[l] = simd_sum(x / T(32));
        y[32 + l] = simd_max(v);
        y[64 + l] = simd_min(v);
        y[96 + l] = simd_shuffle_down(x, 1);
        y[128 + l] = max(v, x);
    """
    a, b = (mx.array(v).astype(dtype) for v in (FLOATS // 8 * 8, with_nan))
    (y,) = run(source, a, b, shapes=[(5, 32)], dtypes=[dtype], template=[("T", dtype)])
    x = FLOATS // 8 * 8
    np.testing.assert_array_equal(y[0], np.full(32, x.sum() / 32))
    np.testing.assert_array_equal(y[1], np.full(32, np.nanmax(with_nan)))
    np.testing.assert_array_equal(y[2], np.full(32, np.nanmin(with_nan)))
    np.testing.assert_array_equal(y[3], np.append(x[1:], np.nan))
    np.testing.assert_array_equal(y[4], np.fmax(with_nan, x))


def test_a_partial_simdgroup_has_fewer_lanes() -> None:
    source = (
        "uint i = thread_position_in_grid.x; y[i] = simd_sum(1); z[i] = simd_shuffle_xor(i, 1);"
    )
    y, z = run(source, shapes=[(45,), (45,)], dtypes=[mx.int32, mx.uint32], grid=(45, 1, 1))
    np.testing.assert_array_equal(y, [32] * 32 + [13] * 13)
    np.testing.assert_array_equal(z, [*(np.arange(44) ^ 1), NONE])


def test_simdgroups_do_not_wait_for_each_other() -> None:
    source = """
        uint s = simdgroup_index_in_threadgroup, i = thread_position_in_grid.x;
        float x = i;
        for (uint k = 0; k < s; k++) x = simd_max(x);
        y[i] = x;
    """
    (y,) = run(source, grid=(128, 1, 1), shapes=[(128,)])
    np.testing.assert_array_equal(y, np.r_[np.arange(32), [63] * 32, [95] * 32, [127] * 32])


def test_lanes_of_a_matrix() -> None:
    source = """
        simdgroup_float8x8 m;
        simdgroup_load(m, a, 8);
        uint l = thread_index_in_simdgroup;
        y[2 * l] = m.thread_elements()[0];
        y[2 * l + 1] = m.thread_elements()[1];
    """
    (y,) = run(source, mx.arange(64.0), shapes=[(32, 2)])
    quad = LANE // 4
    row, col = (quad & 4) + LANE // 2 % 4, (quad & 2) * 2 + LANE % 2 * 2
    np.testing.assert_array_equal(y[:, 0], row * 8 + col)
    np.testing.assert_array_equal(y[:, 1], row * 8 + col + 1)


def test_load_and_store_of_a_matrix_with_stride_origin_and_transpose() -> None:
    source = """
        simdgroup_float8x8 m;
        simdgroup_load(m, a, 20, ulong2(3, 5), true);
        threadgroup float t[8 * 12];
        simdgroup_store(m, t, 12, ulong2(2, 0));
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = thread_index_in_simdgroup; i < 64; i += 32) y[i] = t[i / 8 * 12 + 2 + i % 8];
        simdgroup_store(make_filled_simdgroup_matrix<float, 8, 8>(3.0f), z);
        simdgroup_store(simdgroup_float8x8(2.0f), z + 64, 8, ulong2(0), true);
    """
    a = np.arange(400, dtype=np.float32).reshape(20, 20)
    y, z = run(source, mx.array(a), shapes=[(8, 8), (2, 8, 8)])
    np.testing.assert_array_equal(y, a[5:13, 3:11].T)
    np.testing.assert_array_equal(z, [np.full((8, 8), 3), 2 * np.eye(8)])


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_products_of_matrices(dtype: mx.Dtype) -> None:
    source = """
        simdgroup_matrix<T, 8, 8> p, q;
        simdgroup_float8x8 r, s;
        simdgroup_load(p, a);
        simdgroup_load(q, b);
        simdgroup_load(r, c);
        simdgroup_multiply_accumulate(r, p, q, r);
        simdgroup_multiply(s, q, p);
        simdgroup_store(r, y);
        simdgroup_store(s, z);
    """
    a, b, c = np.random.default_rng(2).integers(-9, 10, (3, 8, 8)).astype(np.float32)
    inputs = [mx.array(a).astype(dtype), mx.array(b).astype(dtype), mx.array(c)]
    y, z = run(source, *inputs, shapes=[(8, 8)] * 2, template=[("T", dtype)])
    np.testing.assert_array_equal(y, a @ b + c)
    np.testing.assert_array_equal(z, b @ a)


def test_atomics_count_every_thread() -> None:
    source = """
        uint i = thread_position_in_grid.x;
        device atomic<float>* f = (device atomic<float>*)&z[0];
        atomic_fetch_add_explicit((device atomic<uint>*)&y[i % 3], 1u, memory_order_relaxed);
        atomic_fetch_max_explicit((device atomic<uint>*)&y[3], i, memory_order_relaxed);
        atomic_fetch_add_explicit(f, 0.5f, memory_order_relaxed);
    """
    y, z = run(
        source,
        shapes=[(4,), (1,)],
        dtypes=[mx.uint32, mx.float32],
        grid=(1000, 1, 1),
        threadgroup=(64, 1, 1),
        init_value=0,
    )
    np.testing.assert_array_equal(y, [334, 333, 333, 999])
    assert z[0] == 500


def test_vectors() -> None:
    source = """
        float4 v = float4(1, 2, 3, 4), w(2.0f);
        half2 h = half2(0.5h, 1.5h);
        uint3 u(7, 8, 9);
        v += w * 2;
        v.x -= 1;
        y[0] = dot(v, w); y[1] = float(h.x + h.y); y[2] = u.z % 4; y[3] = fma(v, w, w).y; y[4] = max(v, float4(6)).x;
        y[5] = any(u == uint3(8)); y[6] = select(1.0f, 2.0f, true); y[7] = as_type<uint>(1.0f) >> 23; y[8] = clamp(9, 1, 5);
        y[9] = popcount(255u); y[10] = rsqrt(4.0f); y[11] = half(65536.0f) > half(65504.0h);
    """
    (y,) = run(source, shapes=[(12,)], grid=(1, 1, 1))
    np.testing.assert_array_equal(y, [50, 2, 1, 14, 6, 1, 2, 127, 5, 8, 0.5, 1])
