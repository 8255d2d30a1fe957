"""Bytes are counted exactly, for kernels whose traffic is known."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from metal.emulator import Traffic, emulation
from metal.kit import needs_gpp, run

pytestmark = needs_gpp


def test_bytes_of_a_known_kernel() -> None:
    source = """
        uint i = thread_position_in_grid.x, g = threadgroup_position_in_grid.x;
        threadgroup float t[64];
        t[thread_index_in_threadgroup] = b[thread_index_in_simdgroup % 4];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = half(a[i * a_shape[1]] * t[63 - thread_index_in_threadgroup]);
        if (thread_index_in_threadgroup == 0) atomic_fetch_add_explicit((device atomic<uint>*)&z[0], g, memory_order_relaxed);
    """
    a, b = mx.zeros((256, 3)), mx.zeros((16,))
    with emulation(count=True) as counted:
        run(
            source,
            a,
            b,
            shapes=[(256,), (1,)],
            dtypes=[mx.float16, mx.uint32],
            grid=(256, 1, 1),
            threadgroup=(64, 1, 1),
            init_value=0,
            name="known",
        )
    (launch,) = counted.launches
    assert launch.name == "known" and launch.threadgroup_bytes == 256 and launch.grid == (256, 1, 1)
    assert launch.buffers == (
        Traffic("a", 3072, read=1024, written=0, read_once=1024, written_once=0),
        Traffic("b", 64, read=1024, written=0, read_once=4 * 16, written_once=0),
        Traffic("y", 512, read=0, written=512, read_once=0, written_once=512),
        Traffic("z", 4, read=16, written=16, read_once=16, written_once=16),
    )


def test_wide_loads_count_all_their_bytes() -> None:
    header = "template <typename T, int W> struct Pack { T v[W]; };\n"
    source = """uint i = thread_position_in_grid.x;
        Pack<float, 4> p = *reinterpret_cast<const device Pack<float, 4>*>(a + 1 + 4 * i);
        *reinterpret_cast<device Pack<float, 4>*>(y + 4 * i) = p;
    """
    a = mx.arange(129.0)
    with emulation(count=True) as counted:
        (y,) = run(source, a, shapes=[(128,)], header=header)
    np.testing.assert_array_equal(y, np.arange(1.0, 129.0))
    read, written = counted.launches[0].buffers
    assert (read.read, read.read_once, written.written, written.written_once) == (512,) * 4
