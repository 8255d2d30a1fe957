"""Sizes that the plan of a fit and the kernels must agree on, and whether kernels check their indices."""

import os

SHARD_ROWS = 512  # shards of rows begin at multiples of this
TILE_ROWS = 64  # tiles hold a power of two of rows from this on up to SHARD_ROWS, so that no two shards share one
LANE_PADDING = 16  # float32 between the lanes of two dimensions: powers of two apart, they would share few cache lines
DEBUG = os.environ.get("FLASH_KMEANS_DEBUG", "") not in (
    "",
    "0",
)  # kernels check indices and addresses; slow
