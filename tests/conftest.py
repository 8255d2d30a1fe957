"""Runs before any test module: MLX reads MLX_ENABLE_TF32 once, when it is imported. Emulates Metal where a test asks for it."""

import os
import zlib
from collections.abc import Iterator

os.environ["MLX_ENABLE_TF32"] = "0"

import mlx.core as mx
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-minutes", type=float, default=0.0, help="minutes for which each fuzz test draws random examples")


@pytest.fixture
def fuzz_minutes(request: pytest.FixtureRequest) -> float:
    """Minutes for which a fuzz test draws random examples; 0 for a few, always the same."""
    return float(request.config.getoption("--fuzz-minutes") or 0)


@pytest.fixture
def metal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backend "metal" runs: on the GPU, or without one in the emulator; skips where there is neither.

    The emulator runs threads in one of its three orders, test by test another one.
    """
    if mx.metal.is_available():
        yield
        return
    from metal.compiler import why_not
    from metal.emulator import EmulatedKernel, emulation

    from flash_kmeans_mlx.backends import metal as backend

    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setattr(mx.fast, "metal_kernel", EmulatedKernel)
    monkeypatch.setattr(backend, "missing", lambda: None)
    with emulation(order=zlib.crc32(request.node.nodeid.encode()) % 3):
        yield


@pytest.fixture(autouse=True)
def _metal_where_named(request: pytest.FixtureRequest) -> None:
    """Tests with a parameter "metal" need not say more."""
    call = getattr(request.node, "callspec", None)
    if call is not None and "metal" in [value for value in call.params.values() if isinstance(value, str)]:
        request.getfixturevalue("metal")
