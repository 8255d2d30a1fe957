"""Ctrl-C: the fit ends within an iteration, leaves no threads, and the next one works."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import threading
import numpy as np
import flash_kmeans_mlx as fk
from threadpoolctl import threadpool_info

rng = np.random.default_rng(0)
x = {x}
fk.batch_kmeans_Euclid(x[..., :1000, :], 99, 2, init={init!r}, backend={backend!r})

def pools():
    return dict((i["filepath"], i["num_threads"]) for i in threadpool_info())

before = pools()

def init(x, n_clusters, rng):
    print("started", flush=True)
    return x[..., :n_clusters, :]

if {init!r} != "random":
    print("started", flush=True)
try:
    fk.batch_kmeans_Euclid(x, {k}, 10**6, init={init!r} if {init!r} != "random" else init, backend={backend!r})
    print("finished")
except KeyboardInterrupt:
    print("interrupted, threads:", threading.active_count(), pools().items() >= before.items())
r = fk.batch_kmeans_Euclid(x[..., :1000, :], 3, 2, backend={backend!r})
print("again:", bool(np.isfinite(r.inertia).all()))
"""
CASES = {
    "threads": {
        "x": "rng.random((200_000, 32), np.float32)",
        "k": 900,
        "init": "random",
        "backend": "cpu",
    },
    "seeding": {
        "x": "rng.random((200_000, 32), np.float32)",
        "k": 9000,
        "init": "k-means++",
        "backend": "cpu",
    },
    "batch-of-small": {
        "x": "np.broadcast_to(rng.random((9000, 8), np.float32), (400, 9000, 8))",
        "k": 130,
        "init": "random",
        "backend": "cpu",
    },
    "portable": {
        "x": "rng.random((200_000, 32), np.float32)",
        "k": 300,
        "init": "random",
        "backend": "portable",
    },
}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
@pytest.mark.parametrize("case", CASES)
def test_ctrl_c(case: str) -> None:
    script = SCRIPT.format(**CASES[case])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            # Kernels may have to be compiled.
            assert select.select([process.stdout], [], [], 120)[0], "did not start"
            assert process.stdout.readline() == "started\n"
            time.sleep(0.7)  # into the loop
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert re.fullmatch(r"interrupted, threads: 1 True\nagain: True\n", out), out + err
    assert time.monotonic() - sent < 5  # an iteration takes 0.3 s at most
    assert process.returncode == 0
