"""The CPU that kernels are compiled for: this one, or what Numba's settings name."""

import os
from functools import cache
from typing import Any

import llvmlite.binding as llvm

__all__ = ["cpu_features", "cpu_name", "machine"]


def cpu_name() -> str:
    """Return LLVM's name of the CPU."""
    return os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()


@cache
def cpu_features() -> str:
    """Return the features of the CPU, as LLVM takes them."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if chosen is not None:
        return chosen
    if cpu_name() == "generic":
        return ""
    features = llvm.get_host_cpu_features()
    # Virtual machines may report AVX for these, which do not have it.
    no_avx = cpu_name() in {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}
    if not int(os.environ.get("NUMBA_ENABLE_AVX") or not no_avx):
        features.update({name: False for name in features if name.startswith("avx")})
    return features.flatten()


@cache
def machine() -> Any:
    """Return LLVM's description of the CPU, by which object code is loaded."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    return target.create_target_machine(codemodel="jitdefault", jit=True)
