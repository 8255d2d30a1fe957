"""Scans of scalar-quantized codes on every backend against float64 brute force; the problems are in scalar_codes.py."""

from __future__ import annotations

import pytest
from helpers import every_backend, every_metric
from scalar_codes import KINDS, check

from flash_kmeans_mlx.index import ScalarQuantizer

every_kind = pytest.mark.parametrize("kind", KINDS)
every_qtype = pytest.mark.parametrize("qtype", ["8bit", "fp16"])


@every_backend
@every_metric
@every_qtype
@every_kind
def test_the_nearest_are_found(kind: str, qtype: str, metric: str, backend: str) -> None:
    for seed, (d, n, k) in enumerate([(1, 60, 5), (7, 300, 1), (33, 200, 40)]):
        check(kind, qtype, metric, d, n, k, seed=seed, backend=backend)


@every_qtype
def test_many_queries_share_lists(qtype: str) -> None:
    for seed in range(3):
        check("normal", qtype, "euclidean", 20, 900, 10, seed=seed, q=150)


def test_sums_of_the_most_dimensions_do_not_overflow() -> None:
    check("ends", "8bit", "dot", 1 << 16, 20, 3, seed=0, q=2, nlist=1)
    with pytest.raises(ValueError, match=r"d=65537 must be <= 2\*\*16 for qtype='8bit'"):
        ScalarQuantizer((1 << 16) + 1)
