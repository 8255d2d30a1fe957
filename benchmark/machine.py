"""What the benchmark runs on: stated with every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_PACKAGES = (
    "flash-kmeans-mlx",
    "mlx",
    "numpy",
    "numba",
    "scipy",
    "scikit-learn",
    "faiss-cpu",
    "superkmeans",
    "pykdtree",
)


def usable_cpus() -> int:
    """CPUs this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
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


_BANDWIDTH = {  # GB/s of memory as Apple publishes them, of the largest configuration
    "Apple M1": 68,
    "Apple M1 Pro": 200,
    "Apple M1 Max": 400,
    "Apple M1 Ultra": 800,
    "Apple M2": 100,
    "Apple M2 Pro": 200,
    "Apple M2 Max": 400,
    "Apple M2 Ultra": 800,
    "Apple M3": 100,
    "Apple M3 Pro": 150,
    "Apple M3 Max": 400,
    "Apple M3 Ultra": 819,
    "Apple M4": 120,
    "Apple M4 Pro": 273,
    "Apple M4 Max": 546,
}


def bandwidth() -> int | None:
    """GB/s that the memory can do by its maker's word, None if unknown."""
    return _BANDWIDTH.get(cpu_model())


def load() -> float:
    """How busy the machine was in the last minute, 1 for every CPU busy; 0 where the system doesn't say."""
    return os.getloadavg()[0] / usable_cpus() if hasattr(os, "getloadavg") else 0.0


def slug() -> str:
    """The machine's name as a file name: processor and usable CPUs."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu_model()} {usable_cpus()} cores".lower()).strip("-")


def describe() -> dict[str, str | int]:
    """Processor, CPUs, system, Python."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that take part, of those installed."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
