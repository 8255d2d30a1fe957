"""Checkpoints: a fit that was stopped at any moment goes on to the same bits."""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import FITS, backends_but, every_metric

import flash_kmeans_mlx as fk

X = np.random.default_rng(0).standard_normal((3, 1500, 8), np.float32)


class StopError(Exception):
    """Raised by a callback."""


def stopped(call: Any, path: Path, n_iter: int) -> None:
    """Begin a fit with a checkpoint and stop it in an iteration."""

    def callback(iteration: Any) -> None:
        if iteration.n_iter == n_iter:
            raise StopError

    with pytest.raises(StopError):
        call(checkpoint=path, callback=callback)


def same(a: Any, b: Any) -> None:
    found, wanted = helpers.bits(a), helpers.bits(b)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("backend", backends_but())
@every_metric
def test_a_resumed_fit_has_the_same_bits(backend: str, metric: str, tmp_path: Path) -> None:
    start = np.where(np.arange(12)[:, None] % 3 == 1, 100 * X[0, :12], X[0, :12])
    for options in ({"tol": 0.1}, {"init_centroids": start}, {"n_init": 2, "init": "k-means++"}):

        def call(options: Any = options, **more: Any) -> Any:
            x = X[:, :400] if backend != "cpu" else X
            return FITS[metric](x, 12, 8, backend=backend, **options, **more)

        path = tmp_path / "checkpoint"
        path.unlink(missing_ok=True)
        wanted = call(callback=lambda _: None)
        for n_iter in (1, 2, 3):
            stopped(lambda **more: call(resume=True, **more), path, n_iter)
        same(call(checkpoint=path, resume=True), wanted)
        same(
            call(checkpoint=path, resume=True), wanted
        )  # it has ended: only labels are found again


def test_more_iterations(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for iterations in (0, 2, 7):
        result = fk.batch_kmeans_Euclid(X, 9, iterations, checkpoint=path, resume=True)
        same(result, fk.batch_kmeans_Euclid(X, 9, iterations))


def test_a_callback_ends_the_fit() -> None:
    seen = []

    def callback(iteration: Any) -> bool:
        seen.append(iteration)
        assert iteration.inertia > 0 and iteration.shift > 0
        assert iteration.sizes.shape == (3, 9) and (iteration.sizes.sum(1) == 1500).all()
        return iteration.n_iter == 3

    result = fk.batch_kmeans_Euclid(X, 9, callback=callback)
    assert result.n_iter == 3 and not np.any(result.converged) and len(seen) == 3
    same(result, fk.batch_kmeans_Euclid(X, 9, 3))
    assert seen[0].inertia > seen[1].inertia > seen[2].inertia > np.sum(result.inertia)


def test_verbose_calls_the_callback_too(capsys: pytest.CaptureFixture[str]) -> None:
    result = fk.batch_kmeans_Euclid(X, 9, verbose=True, callback=lambda i: i.n_iter == 2)
    assert result.n_iter == 2 and capsys.readouterr().out.count("iteration ") == 2


def test_another_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    fk.batch_kmeans_Euclid(X, 9, 2, checkpoint=path)
    others = {
        "n_clusters": lambda **o: fk.batch_kmeans_Euclid(X, 8, 2, **o),
        "metric": lambda **o: fk.batch_kmeans_Cosine(X, 9, 2, **o),
        "seed": lambda **o: fk.batch_kmeans_Euclid(X, 9, 2, seed=1, **o),
        "init": lambda **o: fk.batch_kmeans_Euclid(X, 9, 2, init_centroids=X[:, :9], **o),
        "sample_weight": lambda **o: fk.batch_kmeans_Euclid(
            X, 9, 2, sample_weight=X[0, :, 0] ** 2, **o
        ),
        "x": lambda **o: fk.batch_kmeans_Euclid(2 * X, 9, 2, **o),
        "shape": lambda **o: fk.batch_kmeans_Euclid(X[:2], 9, 2, **o),
    }
    for name, call in others.items():
        with pytest.raises(ValueError, match=f"it is of another fit, with {name}="):
            call(checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="resume=True needs the path of a checkpoint"):
        fk.batch_kmeans_Euclid(X, 9, 2, resume=True)
    fk.batch_kmeans_Euclid(X, 8, 2, checkpoint=path)  # a new one takes its place


def test_another_version_and_a_damaged_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    fk.batch_kmeans_Euclid(X, 9, 2, checkpoint=path)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda _: "99.0")
        with pytest.raises(ValueError, match="with version="):
            fk.batch_kmeans_Euclid(X, 9, 2, checkpoint=path, resume=True)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        fk.batch_kmeans_Euclid(X, 9, 2, checkpoint=path, resume=True)
    fk.FlashKMeans(k=3).fit(X).save(path)
    with pytest.raises(ValueError, match="it holds a FlashKMeans"):
        fk.batch_kmeans_Euclid(X, 9, 2, checkpoint=path, resume=True)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "checkpoint", tmp_path / "x.npy"
    np.save(x, X[0])
    fk.batch_kmeans_Euclid(x, 9, 2, checkpoint=path)
    np.save(x, X[1])
    with pytest.raises(ValueError, match="it is of another fit, with x="):
        fk.batch_kmeans_Euclid(x, 9, 2, checkpoint=path, resume=True)


def test_writes_can_be_rare(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    times = []

    def callback(_: Any) -> None:
        times.append(path.stat().st_mtime_ns)

    options: dict[str, Any] = {"checkpoint": path, "callback": callback}
    result = fk.batch_kmeans_Euclid(X, 9, 5, checkpoint_seconds=1000.0, **options)
    assert len(set(times)) == 1 and path.stat().st_mtime_ns > times[0], "at the begin and the end"
    same(fk.batch_kmeans_Euclid(X, 9, 5, checkpoint=path, resume=True), result)


SCRIPT = """
import sys, numpy as np, flash_kmeans_mlx as fk
path, x = sys.argv[1:]
x = np.load(x) if sys.argv[2].endswith("in-memory.npy") else x
fk.batch_kmeans_Euclid(x, 40, 30, checkpoint=path, resume=True, init="k-means++", n_init=2, backend="cpu")
"""


@pytest.mark.parametrize("name", ["in-memory.npy", "source.npy"])
def test_kill_at_any_moment(name: str, tmp_path: Path) -> None:
    path, x = tmp_path / "checkpoint", tmp_path / name
    rows = np.random.default_rng(0).standard_normal((20_000, 24), np.float32)
    np.save(x, rows)
    rng = np.random.default_rng(1)
    command = [sys.executable, "-c", SCRIPT, str(path), str(x)]
    for _ in range(4):
        process = subprocess.Popen(command)
        before = path.stat().st_mtime_ns if path.exists() else 0
        while (
            process.poll() is None and (path.stat().st_mtime_ns if path.exists() else 0) == before
        ):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    result = fk.batch_kmeans_Euclid(
        rows if name.startswith("in") else x,
        40,
        30,
        checkpoint=path,
        resume=True,
        init="k-means++",
        n_init=2,
        backend="cpu",
    )
    wanted = fk.batch_kmeans_Euclid(
        rows if name.startswith("in") else x, 40, 30, init="k-means++", n_init=2, backend="cpu"
    )
    same(result, wanted)
    left = [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"]
    fk.batch_kmeans_Euclid(rows[:99], 3, checkpoint=path)
    assert not any((tmp_path / p).exists() for p in left), "abandoned files are removed"
