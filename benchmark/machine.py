"""What the benchmark runs on: stated with every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_PACKAGES = ("flash-kmeans-mlx", "mlx", "numpy", "numba", "scipy", "scikit-learn", "faiss-cpu", "superkmeans")


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
        brand = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        if brand.stdout.strip():
            return brand.stdout.strip()
    return platform.processor() or platform.machine()


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
