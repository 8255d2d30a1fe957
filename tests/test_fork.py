"""Forked processes: what works there, and what says that it can't."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
import mlx.core as mx
import flash_kmeans_mlx as fk
from flash_kmeans_mlx import _fork
from flash_kmeans_mlx.index import EmbeddingStore, IndexFlat, IndexIVFFlat

rng = np.random.default_rng(0)
x = rng.standard_normal((20_000, 24)).astype(np.float32)  # a fit of 22 clusters takes several threads

def child(work):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)  # a child that waits for ever ends with this signal
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(code)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

WHILE_THREADS_WORK = """
from flash_kmeans_mlx.backends.cpu import blas

def bits(result):
    return np.array(result.labels).tobytes(), np.array(result.centroids).tobytes()

want = bits(fk.batch_kmeans_Euclid(x, 22, 3))
blas_threads = [library.num_threads for library in blas._libraries()]
index = IndexFlat(24)
index.add(x[:2000])
store = EmbeddingStore()
store.add(x[:500], metadata=[str(i) for i in range(500)])
inside, stop = threading.Barrier(4), threading.Event()

def fits():
    def init(points, n_clusters, rng):  # inside a fit
        inside.wait()
        stop.wait()
        return points[:n_clusters]
    with blas.single_threaded():
        fk.batch_kmeans_Euclid(x, 22, 3, init=init)

def holds(lock):
    lock.run(lambda: (inside.wait(), stop.wait()))

threads = [threading.Thread(target=fits)]
threads += [threading.Thread(target=holds, args=(one._lock,)) for one in (index, store._current)]
for thread in threads:
    thread.start()
inside.wait()

def work():
    assert [library.num_threads for library in blas._libraries()] == blas_threads
    assert bits(fk.batch_kmeans_Euclid(x, 22, 3)) == want
    index.add(x[2000:2010])
    assert index.search(x[2005:2006], 1)[1][0, 0] == 2005
    store.add(x[500:501])
    assert len(store.search(x[500:501], 1)[0]) == 1

codes = [ended(child(work)) for _ in range(3)]
stop.set()
for thread in threads:
    thread.join()
assert codes == [0, 0, 0], codes
work()  # the parent's locks are as they were
"""

WHILE_A_THREAD_COMPILES = """
from flash_kmeans_mlx.kernels.cpu import jit

@jit.njit
def successor(i):
    return i + 1

compiling = threading.Event()

def compiler():
    with jit._lock:
        compiling.set()
        time.sleep(0.5)

thread = threading.Thread(target=compiler)
thread.start()
compiling.wait()

def work():
    assert successor(1) == 2

assert ended(child(work)) == 0
thread.join()
work()
"""

AFTER_MLX = """
_fork.PATIENCE = 1
lazy, ready = mx.array(x[:50]), mx.array(x[:50])
model = fk.FlashKMeans(24, 3).fit(x[:50])
index = IndexFlat(24)

def refuses(call):
    try:
        call()
    except RuntimeError as error:
        assert 'get_context("spawn")' in str(error), error
    else:
        raise AssertionError("it did not refuse")

def on_mlx():
    fk.batch_kmeans_Euclid(ready, 3)
    fk.batch_kmeans_Euclid(x[:50], 3, backend="portable")

def on_numpy():
    model.predict(x)
    fk.knn(x[:5], x, 3)
    index.add(x)
    index.search(x[:3], 2)

def before():
    on_mlx()
    on_numpy()

if mx.default_device().type == mx.DeviceType.cpu and not mx.metal.is_available():
    assert ended(child(before)) == 0  # arrays are no obstacle, only what was computed
mx.eval(lazy + 1)

def after():
    on_numpy()
    refuses(lambda: fk.batch_kmeans_Euclid(ready, 3))
    begin = time.monotonic()
    refuses(lambda: fk.knn(x[:5], x, 3, backend="portable"))
    refuses(lambda: fk.assign(x[:5], ready))
    refuses(lambda: fk.batch_kmeans_Euclid(x[:50], 3, dtype="bfloat16"))
    assert time.monotonic() - begin < 0.5  # it is tried once
    on_numpy()

assert ended(child(after)) == 0
on_mlx()  # the parent goes on
"""


@pytest.mark.parametrize("code", [WHILE_THREADS_WORK, WHILE_A_THREAD_COMPILES, AFTER_MLX])
def test_a_forked_process(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
