"""Sizes that both the plan of a fit and the kernels use, and the debug switch."""

import os

# Shards of rows begin at multiples of this.
SHARD_ROWS = 512
# Rows of the smallest tile. Tiles are powers of two up to SHARD_ROWS: no two shards share one.
TILE_ROWS = 64
# Float32 values between the lanes of two dimensions: a power of two apart, lanes share few lines
# of the cache.
LANE_PADDING = 16
# Whether kernels check indices and addresses, which is slow.
DEBUG = os.environ.get("FLASH_KMEANS_DEBUG", "") not in ("", "0")
