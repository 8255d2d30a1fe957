"""The emulator runs kernels as MLX's documentation says the GPU does.

Calls, types, grids, poisoned outputs and limits of launches; every kernel is as small as it can be.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal.emulator import EmulatedKernel, EmulationError, emulation
from metal.kit import kernel, needs_gpp, run

pytestmark = needs_gpp

I = "uint i = thread_position_in_grid.x;"


def test_it_takes_the_place_of_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", EmulatedKernel)
    double: Any = mx.fast.metal_kernel("double", ["x"], ["y"], f"{I} y[i] = 2 * x[i];")
    (y,) = double(
        inputs=[mx.arange(9.0)],
        output_shapes=[(3, 3)],
        output_dtypes=[mx.float32],
        grid=(9, 1, 1),
        threadgroup=(4, 1, 1),
    )
    assert isinstance(y, mx.array) and y.shape == (3, 3) and y.dtype == mx.float32
    np.testing.assert_array_equal(np.array(y).ravel(), 2 * np.arange(9.0))


@pytest.mark.parametrize(
    "dtype", [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.int32, mx.uint8, mx.bool_]
)
def test_types(dtype: mx.Dtype) -> None:
    a = mx.array([0, 1, 2, 3, 5, 7, 100, 101, 1]).astype(dtype)
    kinds = {"template": [("T", dtype)], "dtypes": [dtype]}
    (y,) = run(
        f"{I} T x = a[i]; y[i] = x == T(0) ? x : T(float(x) + 1.0f);",
        a,
        shapes=[(9,)],
        grid=(9, 1, 1),
        **kinds,
    )
    x = np.array(a.astype(mx.float32))
    np.testing.assert_array_equal(
        y, np.array(mx.array(np.where(x == 0, 0, x + 1)).astype(dtype).astype(mx.float32))
    )


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_small_floats_round_to_nearest_even(dtype: mx.Dtype) -> None:
    x = np.random.default_rng(0).standard_normal(500).astype(np.float32) * np.float32(100)
    x[:3] = np.inf, -np.inf, np.nan
    (y,) = run(
        "y[thread_position_in_grid.x] = T(a[thread_position_in_grid.x]);",
        mx.array(x),
        shapes=[(500,)],
        grid=(500, 1, 1),
        threadgroup=(100, 1, 1),
        dtypes=[dtype],
        template=[("T", dtype)],
    )
    np.testing.assert_array_equal(y, np.array(mx.array(x).astype(dtype).astype(mx.float32)))


def test_bfloat_arithmetic_stays_bfloat() -> None:
    a = mx.array([1.0, 3.0, 256.0, 1.5] * 2).astype(mx.bfloat16)
    (y,) = run(
        f"{I} bfloat s = a[i] + a[i] / a[1]; s += a[0]; y[i] = s;",
        a,
        shapes=[(8,)],
        grid=(8, 1, 1),
        dtypes=[mx.bfloat16],
    )
    np.testing.assert_array_equal(y, np.array((a + a / a[1] + a[0]).astype(mx.float32)))


def test_templates_of_three_kinds_and_several_instances_of_one_kernel() -> None:
    k = kernel(f"{I} y[i] = T(B ? a[i] + N : a[i] - N);")
    for dtype, n, b, expected in (
        (mx.float32, 3, True, 4.5),
        (mx.float32, 2, False, -0.5),
        (mx.int32, 3, True, 4),
    ):
        (y,) = k(
            inputs=[mx.full((8,), 1.5)],
            output_shapes=[(8,)],
            output_dtypes=[dtype],
            grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
            template=[("T", dtype), ("N", n), ("B", b)],
        )
        np.testing.assert_array_equal(np.array(y), np.full(8, expected))


def test_sources_are_translated_once_per_shapes_types_and_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    k, traced = kernel(f"{I} y[i] = a[i] + N;"), []
    real = mx.export_function
    monkeypatch.setattr(mx, "export_function", lambda *a, **kw: (traced.append(1), real(*a, **kw)))
    for n, size in ((1, 8), (1, 8), (2, 8), (1, 16), (2, 8)):
        (y,) = k(
            inputs=[mx.zeros((size,))],
            output_shapes=[(8,)],
            output_dtypes=[mx.float32],
            grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
            template=[("N", n)],
        )
        assert np.array(y)[0] == n
    assert len(traced) == 3


def test_shapes_strides_scalars_and_small_inputs() -> None:
    source = (
        f"{I} y[i] = a_shape[0] * 1000 + a_shape[1] * 100 + a_strides[0] * 10 + a_ndim + b + c[1];"
    )
    (y,) = run(source, mx.zeros((2, 4)), 0.25, mx.array([0.0, 0.5]), shapes=[(1,)], grid=(1, 1, 1))
    assert y[0] == 2000 + 400 + 40 + 2 + 0.25 + 0.5


def test_inputs_that_are_not_contiguous_are_copied() -> None:
    a = mx.arange(12.0).reshape(3, 4)
    (y,) = run(f"{I} y[i] = a[i];", a.T, shapes=[(4, 3)], grid=(12, 1, 1))
    np.testing.assert_array_equal(y, np.arange(12.0).reshape(3, 4).T)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_ragged_grids_run_exactly_their_threads(order: int) -> None:
    source = """
        uint3 p = thread_position_in_grid, g = threadgroup_position_in_grid, t = thread_position_in_threadgroup;
        uint3 n = dispatch_threads_per_threadgroup, m = threads_per_threadgroup;
        atomic_fetch_add_explicit(&y[(p.z * 5 + p.y) * 7 + p.x], 1u, memory_order_relaxed);
        uint3 same = g * n + t, size = min(n, threads_per_grid - g * n);
        bool right = all(same == p) && all(size == m) && thread_index_in_threadgroup == (t.z * m.y + t.y) * m.x + t.x;
        right = right && thread_index_in_simdgroup == thread_index_in_threadgroup % 32 && all(threadgroups_per_grid == uint3(2, 2, 3));
        if (right) atomic_fetch_add_explicit(&y[105], 1u, memory_order_relaxed);
    """
    with emulation(order=order):
        (y,) = run(
            source,
            shapes=[(106,)],
            dtypes=[mx.uint32],
            grid=(7, 5, 3),
            threadgroup=(4, 3, 1),
            init_value=0,
            atomic_outputs=True,
        )
    np.testing.assert_array_equal(y, [1] * 105 + [105])


def test_init_value_fills_every_output() -> None:
    y, z = run(
        "if (a[0] > 0) z[0] = 1;",
        mx.zeros((8,)),
        shapes=[(5,), (3,)],
        dtypes=[mx.bfloat16, mx.int32],
        init_value=7,
    )
    np.testing.assert_array_equal(y, np.full(5, 7.0))
    np.testing.assert_array_equal(z, np.full(3, 7))


def test_what_is_not_written_is_nan() -> None:
    source = f"{I} threadgroup float t[32]; float x; simdgroup_float8x8 m; if (i < 4) y[i] = i == 0 ? t[3] : i == 1 ? m.thread_elements()[0] : 1;"
    y, z = run(source, shapes=[(5,), (2,)], dtypes=[mx.float32, mx.uint32])
    np.testing.assert_array_equal(y, [np.nan, np.nan, 1, 1, np.nan])
    np.testing.assert_array_equal(z, [0xFFFFFFFF] * 2)


def test_threadgroup_memory_does_not_outlive_its_threadgroup() -> None:
    source = "threadgroup float t[1]; y[threadgroup_position_in_grid.x] = t[0]; t[0] = 5;"
    with emulation(threads=1):
        (y,) = run(source, shapes=[(6,)], grid=(6, 1, 1), threadgroup=(1, 1, 1))
    assert np.isnan(y).all()


def test_orders_differ_and_shuffling_repeats_itself() -> None:
    source = "y[thread_position_in_grid.x] = atomic_fetch_add_explicit((device atomic<uint>*)&z[0], 1u, memory_order_relaxed);"
    runs = []
    for order in (0, 1, 2, 2):
        with emulation(order=order, threads=1):
            runs.append(
                run(
                    source,
                    shapes=[(64,), (1,)],
                    dtypes=[mx.uint32] * 2,
                    grid=(64, 1, 1),
                    init_value=0,
                )[0]
            )
    np.testing.assert_array_equal(runs[0], np.arange(64))
    np.testing.assert_array_equal(runs[1], np.arange(64)[::-1])
    np.testing.assert_array_equal(runs[2], runs[3])
    assert sorted(runs[2]) == list(range(64)) and (runs[2] != runs[0]).any()


@pytest.mark.parametrize(
    ("grid", "threadgroup", "message"),
    [
        ((2048, 1, 1), (1025, 1, 1), "1025 threads in a threadgroup, more than the 1024"),
        ((64, 64, 1), (64, 32, 1), "2048 threads in a threadgroup"),
        ((0, 1, 1), (32, 1, 1), "an empty launch"),
    ],
)
def test_limits_of_a_launch(
    grid: tuple[int, int, int], threadgroup: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(EmulationError, match=f"kernel 'limits': .*{message}"):
        run("y[0] = 1;", shapes=[(1,)], grid=grid, threadgroup=threadgroup, name="limits")


def test_a_threadgroup_is_no_larger_than_the_grid() -> None:
    (y,) = run(
        "y[thread_position_in_grid.x] = threads_per_threadgroup.x;",
        grid=(40, 1, 1),
        threadgroup=(4096, 1, 1),
    )
    np.testing.assert_array_equal(y, np.full(40, 40.0))


def test_more_than_31_buffers() -> None:
    names = [f"x{i}" for i in range(31)]
    k = EmulatedKernel("many", names, ["y"], "y[0] = x0;")
    with pytest.raises(EmulationError, match="more than 31 buffers"):
        k(
            inputs=[1.0] * 31,
            output_shapes=[(1,)],
            output_dtypes=[mx.float32],
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
        )


def test_compile_errors_name_the_kernel_and_the_line() -> None:
    with pytest.raises(
        EmulationError,
        match=r"kernel 'wrong': does not compile:\n.*wrong:\d+.*not_there(.|\n)*wrong:\d+: y\[0\] = not_there",
    ):
        run("y[0] = not_there;", name="wrong")


def test_errors_of_mlx_stay() -> None:
    k = kernel("y[0] = a;")
    call = {"output_dtypes": [mx.float32], "grid": (1, 1, 1), "threadgroup": (1, 1, 1)}
    with pytest.raises(ValueError, match="Expected `inputs` to have size 1"):
        k(inputs=[], output_shapes=[(1,)], **call)
    with pytest.raises(ValueError, match="Only supports the GPU"):
        k(inputs=[1.0], output_shapes=[(1,)], stream=mx.cpu, **call)


def test_verbose_prints_the_metal_source(capsys: pytest.CaptureFixture[str]) -> None:
    kernel("y[0] = a;", name="talks")(
        inputs=[1.0],
        output_shapes=[(1,)],
        output_dtypes=[mx.float32],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
        verbose=True,
    )
    assert "[[kernel]] void custom_kernel_talks" in capsys.readouterr().out


def test_options_are_checked_and_end_with_the_block() -> None:
    with (
        pytest.raises(ValueError, match="sanitizer must be None or one of"),
        emulation(sanitizer="memory"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="can't be counted under a sanitizer"),
        emulation(sanitizer="thread", count=True),
    ):
        pass
    with emulation() as outer:
        with emulation(order=1) as inner:
            run("y[0] = 1;")
        run("y[0] = 1;")
    assert len(outer.launches) == len(inner.launches) == 1


def test_a_dry_emulation_makes_sources_and_runs_nothing() -> None:
    with emulation(dry=True) as dry:
        (y,) = run("y[0] = 1;", shapes=[(3,)])
    assert np.isnan(y).all()
    assert "y[0] = 1;" in dry.launches[0].source.msl


def test_compiled_code_runs_inside_an_emulation() -> None:
    k = kernel(f"{I} y[i] = a[i] + 1;")

    def step(x: mx.array) -> mx.array:
        return (
            2
            * k(
                inputs=[x],
                output_shapes=[(8,)],
                output_dtypes=[mx.float32],
                grid=(8, 1, 1),
                threadgroup=(8, 1, 1),
            )[0]
        )

    with emulation():
        with emulation(order=1):
            pass
        y = mx.compile(step)(mx.zeros((8,)))
        np.testing.assert_array_equal(np.array(y), np.full(8, 2.0))


def test_offsets_beyond_32_bits_on_sparse_buffers() -> None:
    rows, cols = 4_300_001, 1000
    x, y = np.zeros((rows, cols), np.float16), np.zeros(rows, np.float32)
    x[-1, -1] = 3
    k = kernel(f"{I} y[i] = a[ulong(i) * a_shape[1] + a_shape[1] - 1];")
    k.run_last_threadgroup([x], [y], grid=(rows, 1, 1), threadgroup=(32, 1, 1))
    assert x.size > 2**32 and y[-1] == 3 and not y[:-1].any()
