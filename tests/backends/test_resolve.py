"""Which backend runs: chosen once, named in the result, never silently another."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from helpers import BACKENDS, FITS

from flash_kmeans_mlx import BackendUnavailableError, assign, backends, batch_kmeans_Euclid
from flash_kmeans_mlx.backends import BACKENDS as NAMES
from flash_kmeans_mlx.backends import Problem, available, open_points, resolve
from flash_kmeans_mlx.metrics import EUCLIDEAN

X = np.random.default_rng(0).standard_normal((41, 3)).astype(np.float32)


def test_every_name_is_available_or_says_why() -> None:
    found = available()
    assert tuple(found) == tuple(NAMES) and set(BACKENDS) >= {"reference", "portable", "cpu"}
    assert all(reason is None or reason for reason in found.values())


@pytest.mark.parametrize("name", BACKENDS)
def test_a_named_backend_is_that_backend(name: str) -> None:
    assert resolve(name) == name
    with open_points(name, Problem(X[None], 4, EUCLIDEAN, X.shape)) as points:
        assert points.backend == name and points.shape == (1, 41, 3)
    for fit in FITS.values():
        assert fit(X, 4, 2, backend=name).backend == name


@pytest.mark.parametrize(
    ("device", "has_metal", "name"),
    [
        (mx.cpu, False, "cpu"),
        (mx.cpu, True, "cpu"),
        (mx.gpu, True, "metal"),
        (mx.gpu, False, "portable"),
    ],
    ids=["cpu", "cpu-of-a-mac", "apple-gpu", "other-gpu"],
)
def test_none_is_the_best_for_the_default_device(
    device: mx.DeviceType, has_metal: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(device))
    monkeypatch.setattr(mx.metal, "is_available", lambda: has_metal)
    assert resolve(None) == name


@pytest.mark.parametrize(
    ("has_metal", "reason"),
    [(False, "no Metal device"), (True, r"mx.set_default_device\(mx.gpu\)")],
)
def test_metal_says_what_it_lacks(
    has_metal: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: has_metal)
    with pytest.raises(
        BackendUnavailableError, match=rf"backend='metal' can't run here: .*{reason}"
    ):
        batch_kmeans_Euclid(X, 4, backend="metal")


def test_none_never_is_the_reference() -> None:
    result = batch_kmeans_Euclid(X, 4, 2)
    assert result.backend == resolve(None) != "reference"


@pytest.mark.parametrize("name", ["gpu", "CPU", "", 3])
def test_unknown_names_are_refused(name: object) -> None:
    message = rf"backend={name!r} must be one of {', '.join(map(repr, NAMES))} or None"
    with pytest.raises(ValueError, match=message):
        batch_kmeans_Euclid(X, 4, backend=name)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=message):
        assign(X, X[:4], backend=name)  # pyright: ignore[reportArgumentType]


def test_an_unavailable_backend_raises_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.BACKENDS["portable"], "missing", lambda: "no device at all")
    assert backends.available()["portable"] == "no device at all"
    with pytest.raises(
        BackendUnavailableError, match="backend='portable' can't run here: no device at all"
    ):
        batch_kmeans_Euclid(X, 4, backend="portable")
    assert batch_kmeans_Euclid(X, 4, backend="cpu").backend == "cpu"


def test_numba_is_imported_only_to_compile() -> None:
    import subprocess
    import sys

    batch_kmeans_Euclid(np.eye(3), 2, backend="cpu")  # keeps its kernels on disk
    code = (
        "import sys, numpy as np, flash_kmeans_mlx as fk\n"
        "fk.batch_kmeans_Euclid(np.eye(3), 2, backend='portable')\n"
        "assert 'llvmlite' not in sys.modules\n"
        "fk.batch_kmeans_Euclid(np.eye(3), 2, backend='cpu')\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
