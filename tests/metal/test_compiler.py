"""Kernels are compiled once, whoever asks for them at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metal import compiler
from metal.kit import needs_gpp
from metal.source import EmulationError

pytestmark = needs_gpp

STEP = ["-shared", "-fPIC", "{source}", "-o", "{result}"]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    return tmp_path


def test_threads_that_need_the_same_kernel_build_it_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, ...]] = []
    real = compiler.gpp
    monkeypatch.setattr(compiler, "gpp", lambda *a: (built.append(a), real(*a)))
    source = 'extern "C" int one() { return 1; }'
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: compiler.build(source, ".so", [STEP]), range(8)))
    assert len(built) == 1
    assert len(set(paths)) == 1
    assert [path.name for path in folder.iterdir()] == [paths[0].name]


def test_a_failed_build_leaves_nothing(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(EmulationError, match="does not compile"):
            compiler.build("int one() { return two; }", ".so", [STEP])
    assert not list(folder.iterdir())
