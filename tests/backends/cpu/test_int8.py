"""Labels by 8-bit products are those of tiles, bit for bit, with every instruction set at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import int8_labels
import llvmlite.binding
import pytest

HOST = {name for name, has in llvmlite.binding.get_host_cpu_features().items() if has}
FORCED = {  # the name of a CPU, its features, and what multiplies bytes then
    "avx2": ("haswell", ["avx2", "fma"], "avx2, vectors of 8"),
    "avx-vnni": ("alderlake", ["avx2", "fma", "avxvnni"], "vnni, vectors of 8"),
    "sdot": ("neoverse-n1", [], "sdot, vectors of 4"),  # whatever has SMMLA has it too
}
SCRIPT = Path(int8_labels.__file__)


def run(cache: Path, cpu: str, features: str | None, *arguments: str, **more: str) -> str:
    """Return what the script prints with kernels compiled for this CPU."""
    environment = {
        **os.environ,
        "FLASH_KMEANS_CACHE_DIR": str(cache),
        "NUMBA_CPU_NAME": cpu,
        **more,
    }
    environment.pop("NUMBA_CPU_FEATURES", None)
    if features is not None:
        environment["NUMBA_CPU_FEATURES"] = features
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not int8_labels.ir.INT8, reason="this CPU has no products of bytes")
@pytest.mark.parametrize("kind", int8_labels.KINDS)
def test_labels_are_those_of_tiles(kind: str) -> None:
    for seed, (n, d, k) in enumerate([(300, 41, 70), (1, 1, 1), (150, 300, 9), (65, 3, 200)]):
        int8_labels.check(kind, seed, n, d, k)


@pytest.mark.skipif(not int8_labels.ir.INT8, reason="this CPU has no products of bytes")
def test_sums_of_the_most_dimensions_do_not_overflow() -> None:
    int8_labels.check("signs", 0, 3, int8_labels.int8.MAX_DIMS, 5)


@pytest.mark.parametrize("name", FORCED)
def test_other_instruction_sets_find_the_same_labels(name: str, tmp_path: Path) -> None:
    cpu, features, said = FORCED[name]
    if not (set(features) <= HOST if features else int8_labels.ir.INT8 == "smmla"):
        pytest.skip(f"this CPU has no {name}")
    named = ",".join(f"+{feature}" for feature in features)
    assert f"with {said}" in run(tmp_path, cpu, named, "--problems", "60")


@pytest.mark.skipif("avx" not in HOST, reason="of x86")
@pytest.mark.parametrize(
    ("features", "more"),
    [("+sse4.2", {}), ("", {}), (None, {"NUMBA_ENABLE_AVX": "0"})],
    ids=["sse", "none", "avx disabled"],
)
def test_without_instructions_for_bytes_there_are_none(
    features: str | None, more: dict[str, str], tmp_path: Path
) -> None:
    said = run(tmp_path, "x86-64-v2", features, **more)
    assert said == "no products of bytes, vectors of 4\n"
