"""Launches are counted exactly, for kernels whose work is known."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from metal.emulator import Traffic, Work, emulation
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
        Traffic(
            "a", 3072, 1024, 0, read_once=1024, written_once=0, instructions=8, lines=24, fetched=24
        ),
        Traffic(
            "b", 64, 1024, 0, read_once=4 * 16, written_once=0, instructions=8, lines=8, fetched=4
        ),
        Traffic(
            "y", 512, 0, 512, read_once=0, written_once=512, instructions=8, lines=8, fetched=4
        ),
        Traffic("z", 4, 16, 16, read_once=16, written_once=16, instructions=8, lines=8, fetched=4),
    )
    assert launch.work == Work(
        threadgroup_barriers=8,
        shared_reads=8,
        read_cycles=8,
        read_least=8,
        shared_writes=8,
        write_cycles=8,
        write_least=8,
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


STORE = "s[{}] = a[t];\nsimdgroup_barrier(mem_flags::mem_threadgroup);\ny[t] = s[{}];"
BANKS = {  # a body of one simdgroup; cycles and least cycles of its stores, then of its loads
    "in order": (STORE.format("t", "31 - t"), (1, 1), (1, 1)),
    "one word": (STORE.format("t", "5"), (1, 1), (1, 1)),
    "two words of a bank": (STORE.format("t", "t % 2 * 32"), (1, 1), (2, 1)),
    "columns": (STORE.format("t * 32", "t * 32"), (32, 1), (32, 1)),
    "padded columns": (STORE.format("t * 33", "t * 33"), (1, 1), (1, 1)),
    # 8 columns by 4 features, 4 * 72 words apart: the features share a bank.
    "transposed": (STORE.format("t % 4 * 4 * 72 + t / 4", "t"), (4, 1), (1, 1)),
    "pairs": (
        STORE.format("t", "0")
        .replace("s[0];", "p.x + p.y;")
        .replace("y[t]", "float2 p = reinterpret_cast<threadgroup float2*>(s)[t];\ny[t]"),
        (1, 1),
        (2, 2),
    ),
    # Odd lanes come by twice: 32 words, then 16 more in 16 banks.
    "loop": (
        "for (uint k = 0; k < 1 + t % 2; k++) s[t + 512 * k] = a[t];\ny[t] = a[t];",
        (2, 2),
        (0, 0),
    ),
}


@pytest.mark.parametrize("case", BANKS)
def test_cycles_of_banks(case: str) -> None:
    body, writes, reads = BANKS[case]
    with emulation(order=2, count=True) as counted:
        run(
            f"uint t = thread_index_in_simdgroup;\nthreadgroup float s[32 * 33];\n{body}",
            mx.zeros((32,)),
        )
    work = counted.launches[0].work
    assert (work.write_cycles, work.write_least) == writes
    assert (work.read_cycles, work.read_least) == reads


@pytest.mark.parametrize(
    ("at", "lines"),
    [
        ("t", 1),
        ("t + 1", 2),
        ("31 - t", 1),
        ("0", 1),
        ("t * 2", 2),
        ("t * 32", 32),
        ("t / 4 * 32 + t % 4", 8),
    ],
)
def test_lines_of_an_instruction(at: str, lines: int) -> None:
    with emulation(count=True) as counted:
        run(f"uint t = thread_index_in_simdgroup;\ny[t] = a[{at}];", mx.zeros((1024,)))
    read, written = counted.launches[0].buffers
    assert (read.instructions, read.lines) == (1, lines)
    assert (written.instructions, written.lines) == (1, 1)


def test_operations_of_simdgroups() -> None:
    source = """
        uint t = thread_index_in_threadgroup;
        simdgroup_float8x8 m(1.0f);
        for (int i = 0; i < 3; i++) simdgroup_multiply_accumulate(m, m, m, m);
        float x = simd_sum(m.thread_elements()[0]);
        if (t < 32) x = simd_shuffle_xor(x, 1);
        simdgroup_barrier(mem_flags::mem_none);
        threadgroup_barrier(mem_flags::mem_none);
        y[t] = x;
    """
    with emulation(count=True) as counted:
        run(source, mx.zeros((8,)), shapes=[(64,)], grid=(64, 1, 1), threadgroup=(64, 1, 1))
    (launch,) = counted.launches
    assert launch.work == Work(matrix=6, simd=3, simdgroup_barriers=2, threadgroup_barriers=2)


def test_lines_fetched_between_barriers() -> None:
    source = """
        uint t = thread_index_in_threadgroup;
        float x = a[t] + a[t + 32];
        threadgroup_barrier(mem_flags::mem_none);
        y[t] = x + a[t % 32];
    """
    with emulation(count=True) as counted:
        run(source, mx.zeros((128,)), shapes=[(64,)], grid=(64, 1, 1), threadgroup=(64, 1, 1))
    read, written = counted.launches[0].buffers
    assert (read.lines, read.fetched) == (6, 3 + 1)
    assert (written.lines, written.fetched) == (2, 2)
