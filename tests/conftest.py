"""Set MLX up before any test module imports it, and emulate Metal where a test asks for it."""

import gc
import os
import zlib
from collections.abc import Iterator

os.environ["MLX_ENABLE_TF32"] = "0"  # read once, when MLX is imported

import mlx.core as mx
import pytest


@pytest.fixture
def metal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run backend "metal" on the GPU, or without one in the emulator; skip where there is neither.

    The emulator runs threads in one of three orders, which the name of the test chooses.
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
    strict = request.config.option.metal_strict
    order = zlib.crc32(request.node.nodeid.encode()) % 3
    with emulation(order=order, contract=strict, flush=strict):
        yield


@pytest.fixture(autouse=True)
def _metal_where_named(request: pytest.FixtureRequest) -> None:
    """Use the fixture `metal` for every test with a parameter "metal"."""
    if _names_metal(request.node):
        request.getfixturevalue("metal")


def _names_metal(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    values = () if call is None else call.params.values()
    return any(isinstance(value, str) and value == "metal" for value in values)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-minutes", type=float, default=0.0, help="go on with random problems for as long"
    )
    parser.addoption(
        "--metal-strict",
        action="store_true",
        help="only tests of backend Metal, emulated with contraction and without subnormals",
    )
    parser.addoption("--fuzz-case", default="", help="check one problem, as a failure printed it")


@pytest.fixture
def fuzz_minutes(request: pytest.FixtureRequest) -> float:
    return request.config.option.fuzz_minutes


@pytest.fixture
def fuzz_case(request: pytest.FixtureRequest) -> str:
    return request.config.option.fuzz_case


# Folders of tests that take seconds each.
LONG = ("benchmark", "distributed", "fuzz")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long tests first, and leave out what --metal-strict does not change.

    At the end, one process would run a long test while the others have none.
    """
    items.sort(key=lambda item: item.path.parent.name not in LONG)
    if not config.option.metal_strict:
        return
    left_out = []
    chosen = []
    for item in items:
        uses = _names_metal(item) or "metal" in getattr(item, "fixturenames", ())
        (chosen if uses and "sanitizer" not in item.keywords else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen


def pytest_collection_finish() -> None:
    """Keep modules and tests out of garbage collections: of 500,000 objects, one takes 0.3 s."""
    gc.collect()
    gc.freeze()
