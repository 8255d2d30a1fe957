"""The model of speed computes what it says, and its table is that of these kernels."""

from __future__ import annotations

import mlx.core as mx
import pytest
from metal.kit import needs_gpp
from metal.model import CHIPS, FEATURES, ROWS, TABLE, Chip, Shape, predict, shapes

from flash_kmeans_mlx.backends.metal.launch import Tiles

pytestmark = [
    needs_gpp,
    pytest.mark.skipif(mx.metal.is_available(), reason="on a GPU kernels are not emulated"),
    pytest.mark.usefixtures("metal"),
]


def test_limits_by_hand() -> None:
    """64 points, 64 centroids, 64 features: 512 products of matrices on one core of 1 GHz."""
    chip = Chip("small", "applegpu_g13p", 1, 1.0, 100.0, l2=1 << 20, slc=1 << 23, source="")
    tiles = Tiles(4, 2, 8, 32, 2)
    prediction = predict(Shape("", 1, 64, 64, 64), chip, tiles)
    microseconds = {name: 1e6 * s for name, s in prediction.limits.items()}

    shared_loads = 512 / 2 + 4 * 8  # a matrix for two products; the bias
    shared_stores = 64 * 64 / 32 + 2  # a value a lane; the bias
    device = 64 * 64 / 64 + 64 * 64 / 128 + 2 + 4 * 2 * 2 + 4  # x, c, bias, results, running
    scores = 64 * 64 / 32
    others = 3.5 * scores + 2 * device + shared_loads + shared_stores
    assert microseconds["matrix"] == pytest.approx((18 * 512 + others) / 4 / 1000)
    # Matrices take two cycles of the banks, the rest one; each is 128 bytes at 64 a cycle.
    assert microseconds["threadgroup memory"] == pytest.approx(
        2 * (2 * 512 / 2 + 4 * 8 + shared_stores) / 1000
    )
    x_and_c, others = 2 * 64 * 64 * 4, 64 * 4 + 2 * 64 * 4
    assert microseconds["memory"] == pytest.approx((x_and_c + others) / 100 / 1000)
    line_of_running = 128
    assert microseconds["L2"] == pytest.approx((x_and_c + others + line_of_running) / 32 / 1000)
    assert prediction.binding == "launch" and prediction.launches == 5e-6
    flops = 2 * 64**3
    assert prediction.of_peak == pytest.approx(flops / prediction.seconds / 256e9)


def test_what_the_last_level_cache_misses_comes_from_memory() -> None:
    shape, tiles = Shape("", 1, 6400, 64, 640), Tiles(4, 2, 8, 32, 0)
    limits = [
        predict(
            shape, Chip("small", "applegpu_g13p", 1, 1.0, 100.0, l2=1, slc=slc, source=""), tiles
        ).limits
        for slc in (1 << 30, 1)
    ]
    once = 4 * (6400 * 66 + 640 * 65)
    assert limits[0]["memory"] == pytest.approx(once / 100e9)
    assert limits[1]["memory"] == pytest.approx(2 * limits[1]["SLC"], rel=1e-4)


def test_the_table_is_that_of_these_kernels() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert "A model, not a measurement" in text
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.partition("microseconds")[0].splitlines()
        if line.startswith("| ")
    ]
    assert rows[0][5:] == [chip.name for chip in CHIPS]
    assert [row[0] for row in rows[1:]] == [shape.name for shape in shapes()]
    for name, _, n, d, k, *cells in rows[1:]:
        for cell in cells:
            share, limit = cell.split("% ")
            if int(n) >= ROWS and int(d) >= min(FEATURES) and int(k) >= 500:
                assert limit == "matrix", name
                # Of what the matrix units can give, at least 85 % with 1000 clusters.
                assert int(share) >= (76 if int(k) == 1000 and name.startswith("D=") else 70)
    shape = shapes()[-len(FEATURES)]
    prediction = predict(shape, CHIPS[0])
    expected = f"{prediction.of_peak:.0%} {prediction.binding}"
    assert next(row for row in rows if row[0] == shape.name)[5] == expected
