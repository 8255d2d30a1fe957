"""Compiles translation units with g++, each content once: results are kept in the user's cache folder.

The key of a result is a hash of the source, the flags, the compiler, its processor and the headers of
`msl/`. Processes share the folder: one that needs a result that another is building waits for it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from metal.source import EmulationError

SHIM = Path(__file__).parent / "msl"
COMMON = (
    "-std=c++17",
    "-march=native",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-pthread",
    "-Wno-attributes",
    "-Wno-unknown-pragmas",
)
LIBRARY = (
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-ftrivial-auto-var-init=pattern",
    "-Werror=frame-larger-than=131072",  # half of a fiber's stack (emu_fiber.h)
)
QUICK = ("-O1",)  # most kernels run for less time than -O2 takes to compile them
# A product is fused with the sums that follow, across statements too, if sums are its only uses. Other
# compilers may fuse more: g++ has no option for that.
CONTRACTED = ("-O1", "-fexpensive-optimizations", "-ffp-contract=fast")
# Counted as an optimiser leaves it, but a copy of a structure or vector is one access.
OPTIMISED = ("-O2", "-fno-tree-sra")
# -g1: reports name lines, and need nothing else.
SANITIZERS = {
    "address": ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
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
    """All that a result depends on besides source and flags: headers, compiler and processor."""
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


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds the lock of a file that is to be built; other threads and processes wait for it."""
    lock = path.with_suffix(".lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it looks for the result first


def build(cpp: str, suffix: str, steps: Sequence[Sequence[str]]) -> Path:
    """Runs g++ with each of `steps`, in which {source}, {object} and {result} are replaced, unless it has been done."""
    key = hashlib.sha256(repr((cpp, steps)).encode() + environment()).hexdigest()[:32]
    result = folder() / f"{key}{suffix}"
    if result.exists():
        return result
    with alone(result):
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
            os.replace(names["result"], result)  # atomic: nobody sees half of it
    return result


@cache
def precompiled(flags: tuple[str, ...]) -> Path:
    """A folder with the headers of `msl/` precompiled for these flags, to be searched before `msl/`.

    The header of a kernel is larger than most kernels: precompiled, it halves their compilation.
    """
    header = f'#include "{SHIM / "metal_stdlib"}"\n'
    step = [*flags, "-x", "c++-header", "{source}", "-o", "{result}"]
    result = build(header, ".gch", [step])
    path = result.with_suffix(".headers")
    path.mkdir(exist_ok=True)
    link = path / "metal_stdlib.gch"
    with suppress(FileExistsError):
        link.symlink_to(result)
    return path


def compile_flags(*flags: str) -> list[str]:
    """The flags of a translation unit, with the precompiled header."""
    every = (*COMMON, *flags)
    return [*every, "-I", str(precompiled(every)), "-I", str(SHIM)]


@cache
def library(cpp: str, count: bool, contract: bool = False) -> ctypes.CDLL:
    if count:
        # g++ would add libtsan if it were told -fsanitize when it links
        flags = compile_flags(*LIBRARY, *OPTIMISED, "-fsanitize=thread", "-DEMU_COUNT")
        steps = [
            [*flags, "-c", "{source}", "-o", "{object}"],
            [*COMMON, "-shared", "-Wl,-Bsymbolic", "{object}", str(counting()), "-o", "{result}"],
        ]
    else:
        flags = compile_flags(*LIBRARY, *(CONTRACTED if contract else QUICK))
        steps = [[*flags, "-shared", "-Wl,-Bsymbolic", "{source}", "-o", "{result}"]]
    return ctypes.CDLL(str(build(cpp, ".so", steps)))


@cache
def counting() -> Path:
    """The object file that counts bytes."""
    flags = [*COMMON, *LIBRARY, *OPTIMISED]
    source = (SHIM / "count.cpp").read_text()
    return build(source, ".o", [[*flags, "-c", "{source}", "-o", "{result}"]])


def executable(cpp: str, sanitizer: str) -> Path:
    flags = compile_flags("-DEMU_MAIN", *SANITIZERS[sanitizer])
    return build(cpp, ".exe", [[*flags, "{source}", "-o", "{result}"]])
