"""Codes of 4 bits are scanned in registers: the same candidates, bit for bit, as by look-ups in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import Array, every_metric
from llvmlite.binding import get_host_cpu_features
from numba import njit

from flash_kmeans_mlx.backends import scan_codes
from flash_kmeans_mlx.backends.codes import ProductCoding
from flash_kmeans_mlx.backends.cpu import codes, kernels
from flash_kmeans_mlx.index.lists import InvertedLists
from flash_kmeans_mlx.metrics import PROXIMITIES

BLOCK, LABELS = 16, 16
NLIST = 5
TINY = 2.0**-126
PARTS = (1, 2, 3, 5, 6, 7, 8, 9, 11, 15, 16, 31, 33, 64, 129, 255, 256)
KINDS = ("plain", "grid", "wide", "one", "same", "tiny", "huge", "vast", "overflow")
HOST = {name for name, has in get_host_cpu_features().items() if has}
FORCED = {  # the name of a CPU, its features, and the planes that it looks up at once
    "avx2": ("haswell", ["avx2", "fma"], 2),
    "sse": ("x86-64-v2", ["sse4.2"], 1),
}
in_registers = pytest.mark.skipif(not kernels.ir.LOOKUPS, reason="this CPU looks up no bytes")
nibbles = kernels.nibbles
address, reaching = kernels.ir.address, nibbles._reaching  # which only compiled code can call


@njit
def rows_reaching(planes, n_planes, table, start, step, tail, needed):
    return reaching(address(planes), n_planes, address(table), start, step, tail, needed)


def values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return float32 of a kind; the first axis is that of parts."""
    x = rng.standard_normal(shape)
    if kind == "grid":
        x = np.rint(x)
    elif kind == "wide":
        x *= 10 ** rng.uniform(-15, 9, (shape[0], *(1 for _ in shape[1:])))
    elif kind == "one":
        x[1:] *= 1e-6
    elif kind == "same":
        x[:] = x[:, :1]
    else:
        x *= {"tiny": 1e-36, "subnormal": 1e-41, "huge": 1e12, "vast": 1e16, "overflow": 1e19}.get(
            kind, 1
        )
    return x.astype(np.float32)


class Codes:
    """Random codes in lists, and queries that probe some of these."""

    def __init__(
        self, kind: str, m: int, metric: str, residual: bool, rng: np.random.Generator
    ) -> None:
        dsub = int(rng.choice([1, 2, 5]))
        n = int(rng.choice([1, 5, 16, 17, 100, 1200]))
        books = values(kind, (m, LABELS, dsub), rng)
        centroids = np.zeros((NLIST, m * dsub), np.float32)
        if residual:
            scale = np.abs(books).max()
            centroids = (scale * rng.standard_normal((NLIST, m * dsub))).astype(np.float32)
        self.coding = ProductCoding(
            codebooks=books, nbits=4, centroids=centroids, residual=residual
        )
        self.proximity = PROXIMITIES[metric]
        labels = rng.integers(LABELS, size=(n, m + m % 2), dtype=np.uint8)
        labels[:, m:] = 0
        owner = rng.integers(NLIST, size=n)
        payload = self.coding.with_terms(
            labels[:, ::2] | labels[:, 1::2] << 4, owner, self.proximity
        )
        lists = InvertedLists(NLIST, payload.shape[1], np.uint8)
        self.lists = lists.added(owner, payload, rng.permutation(n))
        kind = "plain" if kind == "tiny" else kind
        self.queries = values(kind, (m, dsub, 3), rng).reshape(m * dsub, 3).T.copy()
        self.queries[2] = self.coding.decode(payload[:1], owner[:1])
        self.probes = np.stack([rng.permutation(NLIST)[:4] for _ in self.queries])

    def candidates(self, scan_rows: kernels.jit.Kernel, keep: int, capacity: int) -> Array:
        """Return the keys (Q, keep) of the best rows, sorted."""
        scan = codes._Scan(self.lists, self.coding, self.proximity)
        n = len(self.queries)
        buffers = kernels.select.Buffers(
            keys=np.zeros((n, capacity), np.uint64),
            counts=np.zeros(n, np.int64),
            least=np.full(n, -np.inf, np.float32),
        )
        scan_rows(scan._op, scan._coding, self.queries, scan._lists, self.probes, keep, buffers)
        kernels.select.settle(keep, buffers, None)
        return np.sort(buffers.keys[:, :keep], axis=1)


@in_registers
@every_metric
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_are_those_of_tables_in_memory(kind: str, residual: bool, metric: str) -> None:
    if kind == "overflow" and (residual or metric != "euclidean"):
        pytest.skip("sums of inf and -inf rank nothing")
    rng = np.random.default_rng(KINDS.index(kind))
    for m in PARTS:
        some = Codes(kind, m, metric, residual, rng)
        for keep in (1, 12, 40, 300):
            capacity = keep if keep <= 32 else 2 * keep
            found = some.candidates(nibbles.scan_nibbles, keep, capacity)
            wanted = some.candidates(kernels.codes.scan_codes, keep, capacity)
            np.testing.assert_array_equal(found, wanted, str(m))


@in_registers
@every_metric
def test_results_are_those_of_tables_in_memory(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for m in PARTS:
        some = Codes("grid" if m % 2 else "plain", m, metric, m % 4 < 2, rng)
        found = []
        for most in (nibbles.MAX_PARTS, 0):
            monkeypatch.setattr(nibbles, "MAX_PARTS", most)
            some.lists.parts = None
            given = "cpu", some.lists, some.coding, some.proximity, some.queries, some.probes
            found.append(scan_codes(*given, 7))
            monkeypatch.undo()
        np.testing.assert_array_equal(found[0][0], found[1][0])
        np.testing.assert_array_equal(found[0][1], found[1][1])


@every_metric
def test_results_do_not_depend_on_how_many_queries_go_together(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = Codes("grid", 6, metric, True, np.random.default_rng(1))
    given = "cpu", some.lists, some.coding, some.proximity, some.queries, some.probes
    found = scan_codes(*given, 4)
    monkeypatch.setattr(codes, "MAX_KEPT", 1)
    for one, other in zip(found, scan_codes(*given, 4), strict=True):
        np.testing.assert_array_equal(one, other)


@in_registers
@pytest.mark.parametrize("tail", ["NONE", "MINUS", "TIMES"])
@pytest.mark.parametrize("kind", [*KINDS[:-1], "subnormal"])
def test_bounds_are_reached_and_close(kind: str, tail: str) -> None:
    """No score is above its bound, and no bound is above its score by more than rounding up allows."""
    rng = np.random.default_rng(len(kind))
    for m in PARTS:
        n_planes = -(-m // 2)
        entries = np.full((2 * n_planes, LABELS), -0.0, np.float32)
        entries[:m] = values(kind, (m, LABELS), rng)
        base = np.float32(rng.choice([0, 1, 1e3]) * -np.abs(entries).max())
        planes = rng.integers(256, size=(n_planes + 4, BLOCK), dtype=np.uint8)
        if m % 2:
            planes[n_planes - 1] &= 15
        scores = np.full(BLOCK, base)
        for i in range(n_planes):
            low, high = planes[i] & 15, planes[i] >> 4
            scores += entries[2 * i, low] + entries[2 * i + 1, high]
        factors = np.abs(values("plain", (BLOCK,), rng)) * (np.abs(scores).max() + TINY)
        factors = factors if tail == "MINUS" else np.abs(values("plain", (BLOCK,), rng))
        factors = factors.astype(np.float32)
        planes[n_planes:] = factors.view(np.uint8).reshape(BLOCK, 4).T
        table = np.zeros((2, n_planes, LABELS), np.uint8)
        step, low, size = nibbles.round_up(entries, table)
        start = nibbles.bound_from(base, low, size, m)
        room = m * np.float64(step) + (m + 12) * 2.0**-21 * (size + abs(base)) + 4 * TINY
        if tail == "MINUS":
            scores -= factors
            room += 2.0**-22 * np.abs(factors)
        elif tail == "TIMES":
            scores *= factors
            room = room * factors + TINY
        above = np.nextafter((scores + room).astype(np.float32), np.float32(np.inf))
        number = getattr(kernels.codes, tail)
        for lane in range(BLOCK):
            found = [
                rows_reaching(planes, n_planes, table, start, step, number, needed) >> lane & 1
                for needed in (scores[lane], above[lane])
            ]
            assert found == [1, 0], (m, lane)


@pytest.mark.parametrize("name", FORCED)
def test_other_instruction_sets_find_the_same(name: str, tmp_path: Path) -> None:
    cpu, features, planes = FORCED[name]
    if not set(features) <= HOST:
        pytest.skip(f"this CPU has no {name}")
    environment = {
        **os.environ,
        "FLASH_KMEANS_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features),
    }
    script = (
        "import sys, pytest\n"
        "from flash_kmeans_mlx.backends.cpu import kernels\n"
        f"assert kernels.nibbles.PLANES == {planes}\n"
        f"sys.exit(pytest.main(['-n0', '-q', '-k', 'memory or close', {__file__!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
