"""Constants that both the plan of a fit and the kernels use, and the debug switch."""

import os

import numpy as np

# Shards of rows begin at multiples of this, and at tiles where tiles are kept.
SHARD_ROWS = 128
# Rows of the smallest and of the largest tile; tiles are powers of two.
TILE_ROWS, MOST_TILE_ROWS = 64, 512
# Float32 values between the lanes of two dimensions: a power of two apart, lanes share few lines
# of the cache.
LANE_PADDING = 16
NEG_INF = np.float32(-np.inf)
# Whether kernels check indices and addresses, which is slow.
DEBUG = os.environ.get("FLASH_KMEANS_DEBUG", "") not in ("", "0")
