"""Runs before any test module: MLX reads this variable once, when it is imported."""

import os

os.environ["MLX_ENABLE_TF32"] = "0"
