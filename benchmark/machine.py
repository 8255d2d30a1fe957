"""The machine and the packages that the benchmark runs on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# fmt: off
_PACKAGES = (
    "flash-kmeans-mlx", "mlx", "numpy", "numba", "scipy",
    "scikit-learn", "faiss-cpu", "superkmeans", "pykdtree",
)
_CPUINFO = Path("/proc/cpuinfo")
# GB/s of memory as Apple publishes them, of the largest configuration.
_BANDWIDTH = {
    "Apple M1": 68, "Apple M1 Pro": 200, "Apple M1 Max": 400, "Apple M1 Ultra": 800,
    "Apple M2": 100, "Apple M2 Pro": 200, "Apple M2 Max": 400, "Apple M2 Ultra": 800,
    "Apple M3": 100, "Apple M3 Pro": 150, "Apple M3 Max": 400, "Apple M3 Ultra": 819,
    "Apple M4": 120, "Apple M4 Pro": 273, "Apple M4 Max": 546,
}
# fmt: on


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name; family and model too if a virtual machine hides which one."""
    if _CPUINFO.exists():
        found = dict(re.findall(r"^(.+?)\s*:[ \t]*(.+)$", _CPUINFO.read_text(), re.MULTILINE))
        name = found.get("model name", "").strip()
        if name and not re.search(r"\d", name) and "cpu family" in found:
            return f"{name}, family {found['cpu family']} model {found['model']}"
        if name:
            return name
    if sys.platform == "darwin":
        brand = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        if brand.stdout.strip():
            return brand.stdout.strip()
    return platform.processor() or platform.machine()


def bandwidth() -> int | None:
    """Return the memory's published bandwidth in GB/s, None if unknown."""
    return _BANDWIDTH.get(cpu_model())


def load() -> float:
    """Return how busy the CPUs were in the last minute, from 0 to 1 or more; 0 if unknown."""
    return os.getloadavg()[0] / usable_cpus() if hasattr(os, "getloadavg") else 0.0


def slug() -> str:
    """Return the machine's name for a file: processor and usable CPUs."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_model()} {usable_cpus()} cores".lower()).strip("-")


def describe() -> dict[str, str | int]:
    """Return the processor, the number of CPUs, the system and the Python version."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that take part."""
    installed: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
