"""Tiles of scores: no conflicts of banks, whole lines of memory, no barrier too many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest
from metal.emulator import Launch, SanitizerError, emulation
from metal.kit import needs_gpp
from metal.traffic import Busy, draw

from flash_kmeans_mlx.backends.metal import kernels, launch, sources
from flash_kmeans_mlx.backends.metal.launch import PointTiles, Tiles

pytestmark = [
    needs_gpp,
    pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated"),
    pytest.mark.usefixtures("metal"),
]
STREAMED = Tiles(4, 2, 4, 32, 0)
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
TILES = sorted({tiles for d in (16, 32, 64, 128, 256) for tiles in launch.assign_tiles(d)}, key=str)


def count(tiles: Tiles | PointTiles, d: int, k: int) -> Launch:
    """Return the counted assignment of two threadgroups of rows."""
    with emulation(count=True) as run:
        x, c, bias = draw(1, 2 * tiles.rows, d), draw(1, k, d), draw(1, k)
        mx.eval(kernels.assign(x, c, bias, tiles=tiles, device=Busy()))
    (counted,) = run.launches
    return counted


@contextmanager
def changed(header: str, old: str, new: str, nth: int = 0) -> Iterator[None]:
    """Put `new` for the n-th `old` in a file of `kernels/metal`."""
    text = sources.source_text

    def edited(name: str) -> str:
        parts = text(name).split(old)
        if name != header:
            return text(name)
        assert len(parts) > nth + 1
        return old.join(parts[: nth + 1]) + new + old.join(parts[nth + 1 :])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "source_text", edited)
        sources._build.cache_clear()
        try:
            yield
        finally:
            sources._build.cache_clear()


@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_banks_have_no_conflicts(tiles: Tiles) -> None:
    d = tiles.bk * (tiles.res or 3)
    counted = count(tiles, d, 70)
    work = counted.work
    assert work.matrix == 2 * tiles.nsg * tiles.rb * -(-70 // 8) * d // 8  # none is beyond K
    assert work.shared_reads > 0 and work.read_cycles == work.read_least
    assert work.shared_writes > 0 and work.write_cycles == work.write_least
    assert counted.threadgroup_bytes == tiles.tile_bytes


@pytest.mark.parametrize(
    ("layout", "reads", "writes"),
    [
        (("SKEW = 128 / BK", "SKEW = 0"), 1, 8),
        (("STRIDE = BN + 8", "STRIDE = BN"), 4, 1),
    ],
)
def test_other_layouts_have_conflicts(layout: tuple[str, str], reads: int, writes: int) -> None:
    with changed("scores", *layout):
        work = count(STREAMED, 96, 70).work
    bias_reads = 3 * 2 * 4 * STREAMED.cb  # of each tile and simdgroup, two cycles at most
    assert work.write_cycles == pytest.approx(writes * work.write_least, rel=0.05)
    assert work.read_cycles == pytest.approx(reads * work.read_least, abs=reads * bias_reads)


@pytest.mark.parametrize("d", [64, 128, 256])
def test_lines_are_read_whole(d: int) -> None:
    """A chunk of features is a line of 128 bytes, where rows begin with one."""
    for tiles in launch.assign_tiles(d):
        groups = 2
        buffers = {traffic.name: traffic for traffic in count(tiles, d, 64).buffers}
        assert 128 * buffers["c"].fetched == buffers["c"].read == groups * 64 * d * 4
        assert 128 * buffers["x"].fetched == buffers["x"].read


def test_points_are_compared_with_one_load_a_centroid() -> None:
    tiles = launch.assign_tiles(3)[0]
    work = count(tiles, 3, 64).work
    assert work.shared_reads == 2 * tiles.threads // 32 * 64
    assert work.read_cycles == work.shared_reads


@pytest.mark.sanitizer
@pytest.mark.parametrize("nth", range(3))
def test_every_barrier_of_the_sweep_is_needed(nth: int) -> None:
    x, c, bias = draw(1, 64, 70), draw(1, 70, 70), draw(1, 70)
    with (
        changed("scores", BARRIER, "", nth),
        emulation(sanitizer="thread"),
        pytest.raises(SanitizerError, match="data race"),
    ):
        mx.eval(kernels.assign(x, c, bias, tiles=STREAMED, device=Busy()))


def test_an_odd_number_of_chunks_is_streamed() -> None:
    for d in (64, 96, 100, 129):
        x, c, bias = draw(1, 70, d), draw(1, 130, d), draw(1, 130)
        label, _ = kernels.assign(x, c, bias, tiles=STREAMED)
        scores = np.array(x[0], np.float64) @ np.array(c[0], np.float64).T + np.array(bias[0])
        np.testing.assert_array_equal(np.array(label[0]), scores.argmax(1))
