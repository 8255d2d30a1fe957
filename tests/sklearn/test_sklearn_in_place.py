"""KMeans reads large X in place with copy_x=False: the bits of a copy, and little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import blobs
from memory import peak
from numpy.testing import assert_array_equal

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.backends.cpu.plan import plan
from flash_kmeans_mlx.backends.points import Problem
from flash_kmeans_mlx.errors import VectorFileError
from flash_kmeans_mlx.metrics import EUCLIDEAN
from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans
from flash_kmeans_mlx.sklearn import rows as sklearn_rows

X = blobs(1, 3000, 6, 9)[0] + 5
WEIGHTS = np.random.default_rng(0).integers(0, 3, len(X))
LARGE = np.random.default_rng(0).standard_normal((300_000, 64), np.float32)


def first_rows(x: Any, n_clusters: int, random_state: Any) -> Any:
    del random_state
    return x[:n_clusters]


INITS: dict[str, Any] = {"random": "random", "array": X[:6], "callable": first_rows}


def bits(model: KMeans) -> list[bytes]:
    found = model.labels_, model.cluster_centers_, model.inertia_, model.n_iter_
    return [np.asarray(value).tobytes() for value in found]


@pytest.mark.parametrize("scale", [1, 2.0**-110])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits(
    dtype: type, init: str, weighted: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (X * scale).astype(dtype)
    x.flags.writeable = False
    weights = WEIGHTS if weighted else None
    start = INITS[init] * scale if init == "array" else INITS[init]
    options: Any = {"init": start, "n_init": 2 if init == "random" else 1, "random_state": 0}
    wanted = KMeans(6, **options).fit(x, sample_weight=weights)
    monkeypatch.setattr(sklearn_rows, "COPIED", 0)
    model = KMeans(6, copy_x=False, **options).fit(x, sample_weight=weights)
    assert bits(model) == bits(wanted)
    assert_array_equal(x, (X * scale).astype(dtype))


def test_seeds_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = KMeans(6, n_init=3, random_state=0).fit(X)
    monkeypatch.setattr(sklearn_rows, "COPIED", 0)
    models = [KMeans(6, n_init=3, random_state=0, copy_x=False).fit(X) for _ in range(2)]
    assert bits(models[0]) == bits(models[1])
    assert models[0].inertia_ == pytest.approx(wanted.inertia_, rel=0.01)


@pytest.mark.parametrize("backend", ["portable", "reference"])
def test_other_backends_copy(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_rows, "COPIED", 0)
    model = KMeans(6, backend=backend, copy_x=False, max_iter=2).fit(X)
    assert model.backend_ == backend


@pytest.mark.parametrize("kind", ["float32", "float64", "memmap"])
def test_memory(kind: str, tmp_path: Path) -> None:
    x = LARGE.astype(np.float64) if kind == "float64" else LARGE
    if kind == "memmap":
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = KMeans(8, max_iter=2, random_state=0, copy_x=False, backend="cpu")
    assert peak(lambda: model.fit(x)) < 24 * len(x) + (20 << 20)
    assert x.nbytes > 1.8 * (24 * len(x) + (20 << 20)) or kind != "float64"


def test_memory_of_a_tolerance() -> None:
    model = MiniBatchKMeans(8, max_iter=1, random_state=0, tol=0.01)
    assert peak(lambda: model.fit(LARGE)) < LARGE.nbytes // 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init", ["random", "k-means++"])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(3000, 700, 3000), (3, 900_000, 2), (900_000, 3, 9), (30_000, 128, 500)]
)
def test_the_cap_is_never_too_low(n: int, d: int, k: int, init: str, weighted: bool) -> None:
    x = np.broadcast_to(np.float32(0), (n, d))
    points = sklearn_rows.FitInput(
        given=x,
        data=sklearn_rows.Data(
            sklearn_rows.RowStream(sklearn_rows.ArraySource(x, np.zeros(d), 1.0, 0.0)),
            mlx=False,
            batched=False,
        ),
        order=slice(None),
        origin=np.zeros(d),
        unit=1.0,
        variance=0.0,
    )
    for runs in (1, 3):
        problem = Problem(
            x=points.data.x,
            n_clusters=k,
            metric=EUCLIDEAN,
            given_shape=(n, d),
            weights=np.broadcast_to(np.float32(1), (1, n)) if weighted else None,
            max_bytes=int(points.max_mem_gb(k, runs, weighted) * 1e9),
            runs=runs,
            init=init,
        )
        assert plan(problem, 2).threads >= 2  # one reads


def test_a_map_that_has_become_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_rows, "COPIED", 0)
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = sklearn_rows.ArraySource(np.load(path, mmap_mode="r"), np.zeros(6), 1.0, 9.0)
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(VectorFileError, match="smaller"):
        source.cursor()


def test_the_source(tmp_path: Path) -> None:
    origin = X.mean(0)
    source = sklearn_rows.ArraySource(X, origin, 2.0, 9.0)
    wanted = ((X - origin) / 2).astype(np.float32)
    assert_array_equal(source.take(np.array([5, 2])), wanted[[5, 2]])
    with source.cursor() as cursor:
        assert_array_equal(cursor.read(7, 2999), wanted[7:2999])
    assert source.place(3) == "row 3"
    other = X.copy()
    other[0] += 1
    signatures = [sklearn_rows.ArraySource(x, origin, 2.0, 9.0).signature() for x in (X, other)]
    assert source.signature() == signatures[0] != signatures[1]


def test_a_callable_start_for_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    path = tmp_path / "x.npy"
    start = X[:6].astype(np.float32)
    found = fk.batch_kmeans_Euclid(path, 6, 5, init=lambda x, k, _: x.take(np.arange(k)))
    assert_array_equal(found.centroids, fk.batch_kmeans_Euclid(path, 6, 5, init=start).centroids)
