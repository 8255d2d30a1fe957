"""Compiles translation units with g++, once per content: results are kept in the user's cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from metal.source import EmulationError

SHIM = Path(__file__).parent / "msl"
COMMON = (
    "-std=c++17",
    "-march=native",
    "-fno-strict-aliasing",
    "-pthread",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",
)
OPTIMISED = (
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ftrivial-auto-var-init=pattern",
    "-Werror=frame-larger-than=131072",  # half of a fiber's stack (emu_fiber.h)
)
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-fsanitize=thread",),
}


def why_not() -> str | None:
    """The reason why kernels can't be emulated here; None if they can."""
    if not sys.platform.startswith("linux"):
        return "the emulator is for Linux; kernels run on the GPU here"
    return None if shutil.which("g++") else "the emulator needs g++"


@cache
def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "flash-kmeans-mlx-emulator"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="flash-kmeans-mlx-emulator-"))
    return path


@cache
def environment() -> bytes:
    """What, besides source and flags, decides on the result: the shim, the compiler and the processor it compiles for."""
    version = subprocess.run(
        ["g++", "-march=native", "-v", "-E", "-x", "c++", os.devnull],
        capture_output=True,
        check=True,
    )
    return version.stderr + b"".join(path.read_bytes() for path in sorted(SHIM.iterdir()))


def gpp(*arguments: str) -> None:
    run = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "error" in line]
        raise EmulationError("does not compile:\n" + "\n".join(errors[:8] or [run.stderr[-2000:]]))


def build(cpp: str, suffix: str, steps: Sequence[Sequence[str]]) -> Path:
    """Runs g++ with each of `steps`, in which {source}, {object} and {result} are replaced, unless it has been done."""
    key = hashlib.sha256(repr((cpp, steps)).encode() + environment()).hexdigest()[:32]
    result = folder() / f"{key}{suffix}"
    if result.exists():
        return result
    with tempfile.TemporaryDirectory(dir=folder(), prefix="build-") as work:
        names = {
            "source": f"{work}/kernel.cpp",
            "object": f"{work}/kernel.o",
            "result": f"{work}/result{suffix}",
        }
        Path(names["source"]).write_text(cpp)
        for step in steps:
            gpp(*(argument.format(**names) for argument in step))
        os.replace(names["result"], result)  # atomic: another process sees all of it or nothing
    return result


@cache
def library(cpp: str, count: bool) -> ctypes.CDLL:
    flags = [*COMMON, *OPTIMISED, "-I", str(SHIM)]
    if count:
        # g++ would add libtsan if it were told -fsanitize when it links
        steps = [
            [*flags, "-fsanitize=thread", "-DEMU_COUNT", "-c", "{source}", "-o", "{object}"],
            [
                *flags,
                "-shared",
                "-Wl,-Bsymbolic",
                "{object}",
                str(SHIM / "count.cpp"),
                "-o",
                "{result}",
            ],
        ]
    else:
        steps = [[*flags, "-shared", "-Wl,-Bsymbolic", "{source}", "-o", "{result}"]]
    return ctypes.CDLL(str(build(cpp, ".so", steps)))


def executable(cpp: str, sanitizer: str) -> Path:
    flags = [*COMMON, "-O1", "-g", "-DEMU_MAIN", "-I", str(SHIM), *SANITIZERS[sanitizer]]
    return build(cpp, ".exe", [[*flags, "{source}", "-o", "{result}"]])
