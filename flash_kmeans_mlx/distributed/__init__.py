"""Fits on the workers of a Dask cluster: shards are read by the workers that compute them."""
