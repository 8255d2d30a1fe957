"""Fits on a Dask cluster of processes: the bits of one machine, whatever dies."""
# pyright: reportArgumentType=false

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import FITS, every_metric

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.distributed.on_dask import group_shards
from flash_kmeans_mlx.distributed.tasks import Job
from flash_kmeans_mlx.shards.source import open_source

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
cloudpickle = pytest.importorskip("cloudpickle")

# Functions of this module travel to workers, which can't import it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
CONFIG = {
    "distributed.scheduler.worker-ttl": "4s",
    "distributed.comm.timeouts.connect": "3s",
    "distributed.worker.daemon": True,
}
# Dask leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
X = np.random.default_rng(0).standard_normal((40_000, 24), np.float32)
K, ITERATIONS = 48, 8


@contextmanager
def cluster(**config: Any) -> Iterator[Any]:
    """Yield a client of a cluster of two processes."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        dask.config.set({**CONFIG, **config}),
        distributed.LocalCluster(**options, dashboard_address=":0") as local,
        distributed.Client(local) as client,
    ):
        pids = client.run(os.getpid)
        try:
            yield client
        finally:
            for pid in pids.values():  # those that were stopped too
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster() as found:
        yield found


@pytest.fixture(scope="module")
def wanted() -> Any:
    return fk.batch_kmeans_Euclid(X, K, ITERATIONS, backend="cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


def same(a: Any, b: Any) -> None:
    found, expected = helpers.bits(a), helpers.bits(b)
    assert [name for name in expected if found[name] != expected[name]] == []


def at(n_iter: int, action: Callable[[], Any]) -> Callable[[Any], None]:
    """Return a callback that does something after an iteration."""

    def callback(iteration: Any) -> None:
        if iteration.n_iter == n_iter:
            action()

    return callback


@every_metric
def test_the_same_bits(metric: str, client: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((9000, 20), np.float32) + np.float32(3)
    parts = np.split(x, [100, 5000])
    for i, part in enumerate(parts):
        np.save(tmp_path / f"{i}.npy", part)
    weights = rng.integers(0, 3, len(x)).astype(np.float32)
    far = np.where(np.arange(30)[:, None] % 2, 50 * x[:30], x[:30])
    for options in (
        {"init": "random", "n_init": 2},
        {"init": "k-means||", "sample_weight": weights},
        {"init": far, "empty": "farthest", "sample_weight": weights},
        {"init": far, "empty": "split"},
    ):
        local = FITS[metric](x, 30, 5, backend="cpu", **options)
        same(FITS[metric](tmp_path, 30, 5, client=client, **options), local)


def test_the_estimator(client: Any, path: Path, wanted: Any) -> None:
    model = fk.FlashKMeans(24, K, ITERATIONS, tol=0, init="random").fit(path, client=client)
    np.testing.assert_array_equal(model.labels_, wanted.labels)
    labels = path.with_name("labels.npy")
    fk.batch_kmeans_Euclid(path, K, ITERATIONS, client=client, labels_path=labels)
    np.testing.assert_array_equal(np.load(labels), wanted.labels)


def test_workers_keep_nothing_of_a_fit(client: Any, path: Path) -> None:
    def kept(dask_worker: Any) -> int:
        from flash_kmeans_mlx.distributed import tasks

        return sum(map(len, tasks._points.values()))

    fk.batch_kmeans_Euclid(path, K, 2, client=client)
    assert set(client.run(kept).values()) == {0}


def test_what_can_not_be_done(client: Any, path: Path) -> None:
    with pytest.raises(ValueError, match="client needs points in files"):
        fk.batch_kmeans_Euclid(X, K, client=client)
    bad = path.with_name("bad.npy")
    np.save(bad, np.where(np.arange(len(X))[:, None] == 33_333, np.nan, X))
    with pytest.raises(ValueError, match=r"on worker tcp.*NaN or Inf in '.*bad.npy', row 33333"):
        fk.batch_kmeans_Euclid(bad, K, client=client)
    with pytest.raises(ValueError, match=r"max_mem_gb=1e-09 must be >="):
        fk.batch_kmeans_Euclid(path, K, client=client, max_mem_gb=1e-9)


def test_a_file_that_one_worker_lacks(client: Any, path: Path) -> None:
    def lose(text: str) -> Any:
        from flash_kmeans_mlx.shards import parts

        kept = parts.open_array

        def missing(path: str, *rest: Any) -> Any:
            if path == text:
                raise FileNotFoundError(2, "No such file", path)
            return kept(path, *rest)

        parts.open_array = missing

    worker = min(client.scheduler_info()["workers"])
    client.run(lose, str(path), workers=[worker])
    with pytest.raises(OSError, match=rf"on worker {worker}: .*No such file.*x\.npy"):
        fk.batch_kmeans_Euclid(path, K, client=client)


def test_another_version_on_a_worker(client: Any, path: Path) -> None:
    def other(text: str | None) -> None:
        import importlib.metadata

        def version(_: str) -> str:
            if text:
                return text
            raise importlib.metadata.PackageNotFoundError

        kept = getattr(importlib.metadata, "kept", importlib.metadata.version)
        importlib.metadata.kept = kept  # pyright: ignore[reportAttributeAccessIssue]
        importlib.metadata.version = kept if text is None else version

    worker = min(client.scheduler_info()["workers"])
    try:
        client.run(other, "99.0", workers=[worker])
        with pytest.raises(RuntimeError, match=rf"worker {worker} has flash-kmeans-mlx 99.0"):
            fk.batch_kmeans_Euclid(path, K, client=client)
        client.run(other, "", workers=[worker])
        with pytest.raises(RuntimeError, match=rf"worker {worker} lacks flash-kmeans-mlx"):
            fk.batch_kmeans_Euclid(path, K, client=client)
    finally:
        client.run(other, None, workers=[worker])


@pytest.mark.parametrize("fault", ["one killed", "all killed", "one frozen"])
def test_workers_that_die(fault: str, path: Path, wanted: Any) -> None:
    with cluster() as own:
        pids = list(own.run(os.getpid).values())

        def harm() -> None:
            for pid in pids if fault == "all killed" else pids[:1]:
                os.kill(pid, signal.SIGSTOP if fault == "one frozen" else signal.SIGKILL)

        same(fk.batch_kmeans_Euclid(path, K, ITERATIONS, client=own, callback=at(3, harm)), wanted)


def test_a_worker_that_nobody_restarts(path: Path, wanted: Any) -> None:
    with cluster() as own:
        address = own.scheduler.address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
        process = subprocess.Popen([*command, "--nthreads", "1", "--no-dashboard"])
        own.wait_for_workers(3, timeout=30)
        harm = at(3, process.kill)
        same(fk.batch_kmeans_Euclid(path, K, ITERATIONS, client=own, callback=harm), wanted)
        process.wait()


def test_a_task_that_every_worker_dies_at(path: Path) -> None:
    def die(dask_worker: Any) -> None:
        from flash_kmeans_mlx.distributed import tasks

        tasks.step = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    with cluster(**{"distributed.scheduler.allowed-failures": 0}) as own:
        own.run(die)
        with pytest.raises(RuntimeError, match="died at it, probably for want of memory"):
            fk.batch_kmeans_Euclid(path, K, client=own)


def test_a_file_that_is_cut(client: Any, path: Path) -> None:
    harm = at(2, lambda: os.truncate(path, 1_000_000))
    with pytest.raises(ValueError, match=r"on worker tcp.*x\.npy': it (ended|is truncated)"):
        fk.batch_kmeans_Euclid(path, K, client=client, callback=harm)


CLIENT = """
import sys, flash_kmeans_mlx as fk
from distributed import Client
address, path, k, checkpoint = sys.argv[1:]
with Client(address) as client:
    fk.batch_kmeans_Euclid(path, int(k), 10**6, client=client, checkpoint=checkpoint,
        callback=lambda iteration: print(iteration.n_iter, flush=True))
"""


def test_a_client_that_dies(client: Any, path: Path, wanted: Any) -> None:
    checkpoint = path.with_name("checkpoint")
    address = client.scheduler.address
    command = [sys.executable, "-c", CLIENT, address, str(path), str(K), str(checkpoint)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 3:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    saved = checkpoint.read_bytes()
    for where in ({"client": client}, {}):
        checkpoint.write_bytes(saved)
        again = fk.batch_kmeans_Euclid(
            path, K, ITERATIONS, checkpoint=checkpoint, resume=True, **where
        )
        same(again, wanted)


def test_a_scheduler_that_dies(path: Path) -> None:
    file = path.with_name("scheduler.json")
    module = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    scheduler = subprocess.Popen([*module, "--port", "0", "--scheduler-file", str(file)])
    module = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard", "--no-nanny"]
    workers = [subprocess.Popen([*module, "--scheduler-file", str(file)])]
    try:
        while not file.exists():
            time.sleep(0.05)
        with dask.config.set(CONFIG), distributed.Client(scheduler_file=str(file)) as own:
            own.wait_for_workers(1, timeout=30)
            with pytest.raises(ConnectionError, match="scheduler was lost; with a checkpoint"):
                fk.batch_kmeans_Euclid(path, K, client=own, callback=at(2, scheduler.kill))
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait()


def test_groups_of_shards(path: Path) -> None:
    """They are all shards, in order; large ones are tasks of their own."""

    rows = open_source(path)
    job = Job("", rows, 10, "euclidean", tuple(range(65)), None, np.float32(1), 0, None, True)
    for n_clusters, most in ((10, 8), (10_000_000, 64)):
        groups = group_shards(replace(job, n_clusters=n_clusters), 2)
        assert [s for group in groups for s in group] == list(range(64))
        assert len(groups) == most


def test_collections(client: Any, path: Path, wanted: Any) -> None:
    """Arrays and data frames in the memory of the cluster, in blocks that are no shards."""
    import dask.array
    import dask.dataframe

    array = dask.array.from_array(X, (7777, 24)).persist()
    same(fk.batch_kmeans_Euclid(array, K, ITERATIONS, client=client), wanted)
    weights = np.random.default_rng(0).random(len(X), np.float32)
    options = {"sample_weight": weights, "n_init": 2, "empty": "split"}
    local = fk.batch_kmeans_Cosine(X, K, 4, backend="cpu", **options)
    same(fk.batch_kmeans_Cosine(array, K, 4, client=client, **options), local)
    frame = dask.dataframe.from_dask_array(array[:5000])
    local = fk.batch_kmeans_Euclid(X[:5000], 9, backend="cpu")
    same(fk.batch_kmeans_Euclid(frame, 9, client=client), local)
    with pytest.raises(ValueError, match="a Dask collection needs client="):
        fk.batch_kmeans_Euclid(array, K)
    with pytest.raises(ValueError, match=r"3 blocks of columns: call x\.rechunk"):
        fk.batch_kmeans_Euclid(array.rechunk({1: 8}), K, client=client)


def test_a_collection_whose_worker_dies(path: Path, wanted: Any) -> None:
    """Its blocks are made again."""
    import dask.array

    with cluster() as own:
        pid = min(own.run(os.getpid).values())
        array = dask.array.from_array(X, (9999, 24)).persist()
        harm = at(3, lambda: os.kill(pid, signal.SIGKILL))
        found = fk.batch_kmeans_Euclid(array, K, ITERATIONS, client=own, callback=harm)
        same(found, wanted)


def test_predict_and_transform_are_lazy(client: Any) -> None:
    import dask.array

    array = dask.array.from_array(X, (7777, 24))
    model = fk.FlashKMeans(24, K, 3, backend="cpu").fit(X)
    labels, distances = model.predict(array), model.transform(array)
    assert labels.chunks == (array.chunks[0],) and distances.shape == (len(X), K)
    np.testing.assert_array_equal(labels.compute(), model.predict(X))
    np.testing.assert_array_equal(distances[:100].compute(), model.transform(X[:100]))
