"""The exported sources are all that can be asked for, and libclang takes them as C++14 and as C++17."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_kmeans_mlx.backends.metal import export, groups, launch
from flash_kmeans_mlx.backends.metal.sources import DEFINITIONS
from metal import lint

pytestmark = pytest.mark.skipif(mx.metal.is_available(), reason="Metal's own compiler is here")
needs_libclang = pytest.mark.skipif(lint.why_not() is not None, reason=lint.why_not() or "")

INSTANCE = re.compile(r"decltype\(\w+(<.*?>)?\)")
BODY = re.compile(r"(?m)^(template <[^\n]*>\n)?\[\[kernel\]\]")
NAME = re.compile(r'#line 2 "flash_kmeans_(\w+)"')


@cache
def exported() -> dict[str, str]:
    return export.sources(export.cases())


def name(msl: str) -> str:
    match = NAME.search(msl)
    assert match
    return match[1]


def instances(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Names of kernels with their template arguments."""
    found = set()
    for msl in sources.values():
        match = INSTANCE.search(msl)
        found.add((name(msl), match[1] if match else ""))
    return found


def random_cases(number: int) -> Iterator[export.Case]:
    """Calls of all kernels with shapes that nobody chose; cheap, as nothing is computed."""
    rng = np.random.default_rng(0)

    def draw(largest: int) -> int:
        return int(np.exp(rng.uniform(0, np.log(largest + 1))))

    for _ in range(number):
        b, n, k, d, entries = draw(20), draw(2000), draw(10**5), draw(600), draw(100)
        dtype = export.DTYPES[rng.integers(3)]
        framed, weighted = rng.random(2) < 0.5
        for tiles in launch.assign_tiles(d):
            yield export.assign_case(b, n, k, d, dtype, framed=framed, tiles=tiles)
        if groups.tiles_for(k, d):
            yield export.groups_case(b, n, k, d, dtype, framed=framed)
        yield export.sum_case(b, n, k, d, dtype, weighted=weighted, framed=framed)
        yield export.sum_case(b, n, k % 64 + 1, d, dtype, weighted=weighted, framed=framed)
        yield export.top_case(b, n, min(k, 2000), d, dtype, entries, framed=framed)
        yield export.top_of_rows_case(n, k, dtype, entries)


@cache
def asked() -> set[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "MAX_PRODUCTS", 2**62)  # several launches would be evaluated
        return instances(export.sources(random_cases(300)))


def test_every_kernel_is_exported() -> None:
    assert {name(msl) for msl in exported().values()} == set(DEFINITIONS)


def test_whatever_the_shapes_ask_for_is_exported() -> None:
    assert len(asked()) > 300
    assert asked() <= instances(exported())


def test_a_missing_case_is_noticed() -> None:
    kept = (case for case in export.cases() if case.inputs[0].shape[-1] != 32)
    assert not asked() <= instances(export.sources(kept))


@needs_libclang
@pytest.mark.parametrize("standard", lint.STANDARDS)
@pytest.mark.parametrize("kernel", DEFINITIONS)
def test_exported_sources_are_valid(kernel: str, standard: str) -> None:
    # All sources of a kernel have the same header, which is parsed once.
    header, bodies = "", []
    for msl in exported().values():
        if name(msl) == kernel:
            body = BODY.search(msl)
            assert body
            start = body.start()
            assert header in ("", msl[:start])
            header = msl[:start]
            bodies.append(msl[start:])
    assert bodies
    assert lint.errors(header + "".join(bodies), standard) == []


@needs_libclang
@pytest.mark.parametrize("standard", lint.STANDARDS)
@pytest.mark.parametrize("kernel", DEFINITIONS)
def test_kernels_agree_with_the_preamble(kernel: str, standard: str) -> None:
    """No name of ours is also one of MLX's; libclang does not understand all of the preamble itself."""
    before = export.preamble()
    msl = next(msl for msl in exported().values() if name(msl) == kernel)
    after = before.count("\n") + 1
    assert lint.errors(before + msl, standard, after) == []
    taken = "template <typename U> struct Limits {};\n"
    assert lint.errors(before + taken + msl, standard, after) != []


def test_the_preamble_is_complete() -> None:
    text = export.preamble()
    assert "#pragma once" not in text
    assert set(re.findall("#include.*", text)) <= {
        f"#include <metal_{part}>" for part in ("stdlib", "math", "logging")
    }
    order = [text.index(f"kernels/{part}.h") for part in ("bf16", "complex", "utils")]
    assert order == sorted(order)


def test_files_are_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [next(export.cases())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "cases", lambda: iter(few))
        assert export.main([str(tmp_path / "new")]) == 0
    ((function, msl),) = export.sources(iter(few)).items()
    (file,) = (tmp_path / "new").iterdir()
    assert function == f"custom_kernel_flash_kmeans_{file.stem}"
    assert file.read_text(encoding="utf-8") == export.preamble() + msl
    assert "1 kernels written" in capsys.readouterr().out
    assert export.main([]) == 2


COMPILER = """#!/usr/bin/env bash
case "$*" in
  *--version*) echo "a compiler" ;;
  *metal4.1*) exit 1 ;;
  *wrong.metal*) echo "wrong:3:4: error: no" && exit 1 ;;
esac
"""


def test_the_script_reports_errors_and_the_versions_that_it_compiled(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / ".ci" / "metal"
    compiler = tmp_path / "xcrun"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    sources = tmp_path / "sources"
    sources.mkdir()
    path = f"{tmp_path}:{os.environ['PATH']}"

    def compile_all() -> subprocess.CompletedProcess[str]:
        command = [str(script), str(sources)]
        environment = os.environ | {"PATH": path}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert compile_all().returncode != 0  # nothing to compile
    (sources / "right.metal").touch()
    done = compile_all()
    assert done.returncode == 0
    assert "All sources compile as Metal 3.1 3.2 4.0\n" in done.stdout
    assert "Metal 4.1: this compiler does not know it" in done.stdout
    (sources / "wrong.metal").touch()
    done = compile_all()
    assert done.returncode == 1
    assert "1 wrong:3:4: error: no" in done.stdout
