"""Random scans of scalar-quantized codes against brute force in float64; `python tests/scalar_codes.py --problems 500`."""

from __future__ import annotations

import argparse

import numpy as np
from helpers import Array

from flash_kmeans_mlx.backends import scan_codes
from flash_kmeans_mlx.backends.codes import Coding
from flash_kmeans_mlx.backends.cpu import kernels
from flash_kmeans_mlx.index.lists import InvertedLists
from flash_kmeans_mlx.index.scalar_quantizer import ScalarQuantizer
from flash_kmeans_mlx.metrics import PROXIMITIES

KINDS = ("normal", "offset", "ranges", "ties", "ends", "tiny", "large", "near")
METRICS = ("euclidean", "cosine", "dot")
DIMS = (1, 2, 3, 4, 5, 7, 8, 31, 64, 130, 513)


def problem(
    kind: str, qtype: str, d: int, n: int, nlist: int, q: int, rng: np.random.Generator
) -> tuple[Coding, Array, Array, Array]:
    """Return the meaning of codes, codes (N, code_size), their lists (N,) and queries (Q, D)."""
    # Float16 holds values up to 65,504.
    scale = {"tiny": 1e-7, "large": 1e5 if qtype == "8bit" else 1e4}.get(kind, 1.0)
    widths = 10.0 ** rng.integers(-4, 3, d) if kind == "ranges" else np.ones(d)
    widths[rng.random(d) < 0.1] = 0 if kind == "ranges" else 1
    spread = scale * widths
    centroids = 3 * spread * rng.standard_normal((nlist, d)) + (1000 if kind == "offset" else 0)
    centroids = centroids.astype(np.float32)
    labels = rng.integers(nlist, size=n)
    residuals = (spread * rng.standard_normal((n, d))).astype(np.float32)
    if kind == "ties":
        residuals = residuals[rng.integers(max(1, n // 50), size=n)]
        centroids[:] = centroids[0]
    if kind == "ends":
        residuals = np.repeat(rng.choice([-1, 1], (n, 1)), d, 1).astype(np.float32)
    quantizer = ScalarQuantizer(d, qtype)
    quantizer.learn(residuals)
    codes = quantizer.codes(residuals)
    coding = quantizer.coding(centroids)
    queries = centroids[rng.integers(nlist, size=q)] + spread * rng.standard_normal((q, d))
    if kind == "near":
        chosen = rng.integers(n, size=q)
        queries = coding.decode(codes[chosen], labels[chosen])
    if kind == "ends":
        queries = np.repeat(rng.choice([-1, 0, 1], (q, 1)), d, 1)
    if kind == "ties":
        queries[0] = 0
    return coding, codes, labels, queries.astype(np.float32)


def check(
    kind: str,
    qtype: str,
    metric: str,
    d: int,
    n: int,
    k: int,
    *,
    seed: int,
    backend: str = "cpu",
    q: int = 9,
    nlist: int = 5,
) -> None:
    """Assert that the k nearest are found for certain, in order of distance and then id."""
    rng = np.random.default_rng(seed)
    coding, codes, labels, queries = problem(kind, qtype, d, n, nlist, q, rng)
    proximity = PROXIMITIES[metric]
    payload = coding.with_terms(codes, labels, proximity)
    ids = rng.permutation(3 * n)[:n]
    lists = InvertedLists(nlist, payload.shape[1], np.uint8).added(labels, payload, ids)
    probes = np.stack([rng.permutation(nlist)[: 1 + seed % nlist] for _ in range(q)])
    distances, found = scan_codes(backend, lists, coding, proximity, queries, probes, k)
    rows = coding.decode(payload, labels).astype(np.float64)
    for i, query in enumerate(queries.astype(np.float64)):
        mine = np.flatnonzero(np.isin(labels, probes[i]))
        values = proximity.distances(query, rows[mine])
        m = min(k, len(mine))
        assert (found[i, m:] == -1).all() and np.isposinf(distances[i, m:]).all()
        near = np.sort(values)[:m]
        size = np.abs(values).max(initial=0.0) if metric == "dot" else 0.0
        room = 1e-12 * np.abs(near) + 1e-13 * size + (1e-14 if metric == "cosine" else 0)
        said = kind, qtype, metric, d, n, k, seed, i
        assert (np.abs(distances[i, :m] - near) <= room).all(), said
        place = {int(number): j for j, number in enumerate(ids[mine])}
        own = values[[place[int(number)] for number in found[i, :m]]]
        assert (np.abs(own - near) <= room).all(), said
        order = np.lexsort([found[i, :m], distances[i, :m]])
        assert (order == np.arange(m)).all(), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for number in range(arguments.problems):
        qtype = ("8bit", "fp16")[number % 2]
        kind, metric = str(rng.choice(KINDS)), str(rng.choice(METRICS))
        d, n = int(rng.choice(DIMS)), int(rng.integers(1, 1200))
        k, q = int(rng.choice([1, 10, 300])), int(rng.choice([1, 3, 70]))
        check(kind, qtype, metric, d, n, k, q=q, nlist=int(rng.integers(1, 9)), seed=number)
    print(f"{arguments.problems} problems: {kernels.ir.INT8 or 'no products'},", end=" ")
    print(f"vectors of {kernels.ir.WIDTH}, halves by one instruction: {kernels.ir.HALVES}")


if __name__ == "__main__":
    main()
