"""FlashKMeans: models in files, whole again anywhere, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import FITS, blobs

import flash_kmeans_mlx as fk
from flash_kmeans_mlx.files import models

X = blobs(2, 120, 6, 4).astype(np.float32)
NEW = blobs(2, 31, 6, 4, seed=1).astype(np.float32)


@pytest.mark.parametrize("metric", FITS)
@pytest.mark.parametrize("x", [X, X[0], mx.array(X)], ids=["batch", "single", "mlx"])
def test_save_and_load(x: Any, metric: str, tmp_path: Path) -> None:
    options = {
        "compiled": False,
        "max_mem_gb": 0.5,
        "init": "k-means||",
        "n_init": 2,
        "empty": "split",
    }
    model = fk.FlashKMeans(k=4, niter=9, tol=1e-3, seed=11, metric=metric, **options).fit(x)
    path = tmp_path / "model.safetensors"
    model.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for name in (path, str(path)):
        loaded = fk.FlashKMeans.load(name)
        np.testing.assert_array_equal(np.array(loaded.predict(x)), np.array(model.predict(x)))
        np.testing.assert_array_equal(np.array(loaded.transform(x)), np.array(model.transform(x)))
        np.testing.assert_array_equal(loaded.inertia_, model.inertia_)
        np.testing.assert_array_equal(loaded.score(x), model.score(x))
        kept = (
            "d",
            "k",
            "niter",
            "tol",
            "seed",
            "metric",
            "compiled",
            "max_mem_gb",
            "init",
            "n_init",
            "empty",
            "n_iter_",
        )
        for attribute in kept:
            assert getattr(loaded, attribute) == getattr(model, attribute)
    np.testing.assert_array_equal(np.array(loaded.fit(x).centroids), np.array(model.centroids))
    model.save(path)  # over an existing file


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float16"}, {"dtype": mx.bfloat16}, {"init": lambda x, k, _: x[..., :k, :]}],
)
def test_options_that_are_not_plain_values_survive_or_are_left_out(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = fk.FlashKMeans(k=4, **options).fit(X)
    model.save(tmp_path / "model")
    loaded = fk.FlashKMeans.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(NEW), model.predict(NEW))


def test_a_model_is_read_by_another_process(tmp_path: Path) -> None:
    model = fk.FlashKMeans(k=4, metric="cosine").fit(X[0])
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", NEW[0])
    code = (
        "import sys, numpy as np, flash_kmeans_mlx as fk\n"
        "model = fk.FlashKMeans.load(sys.argv[1] + '/model')\n"
        "print(model.predict(np.load(sys.argv[1] + '/x.npy')).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == model.predict(NEW[0]).tolist()


def damaged(path: Path, **changes: Any) -> Path:
    """Return the model of X with other metadata or arrays."""
    arrays = {
        "centroids": np.zeros((4, 6), np.float32),
        "inertia": np.zeros(1),
        "n_iter": np.array([3]),
    }
    metadata = {"class": "FlashKMeans", "parameters": json.dumps({"d": 6, "k": 4})}
    for key, value in changes.items():
        (metadata if isinstance(value, str) else arrays)[key.rstrip("_")] = value
    kept = {name: a for name, a in arrays.items() if a is not None}
    models.write(path, kept, metadata)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_": "IVFFlat"}, "holds a IVFFlat"),
        ({"centroids": None}, "centroids"),
        (
            {"centroids": np.zeros((4, 5), np.float32)},
            r"centroids of shape \(4, 5\) do not fit k=4, d=6",
        ),
        ({"centroids": np.zeros(24, np.float32)}, r"centroids of shape \(24,\) do not fit"),
        ({"centroids": np.full((4, 6), np.nan, np.float32)}, "centroids are not finite"),
        ({"n_iter": np.zeros(0, np.int64)}, "damaged"),
        ({"inertia": np.zeros(0)}, "damaged"),
        ({"parameters": "{"}, "damaged"),
        ({"parameters": "[]"}, "damaged"),
        ({"parameters": '{"d": 6, "k": 4, "metric": "l1"}'}, "metric='l1' must be one of"),
        ({"parameters": '{"d": 6, "k": 4, "later": 1}'}, "later"),
        ({"parameters": '{"d": 6, "k": -4}'}, "k=-4 must be >= 1"),
    ],
    ids=str,
)
def test_a_file_that_is_no_model_of_ours(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert fk.FlashKMeans.load(damaged(tmp_path / "whole")).predict(np.ones((2, 6))).tolist() == [
        0,
        0,
    ]
    with pytest.raises(ValueError, match=rf"^'.*model' .*{message}"):
        fk.FlashKMeans.load(damaged(tmp_path / "model", **changes))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError):
        fk.FlashKMeans.load(path)
    fk.FlashKMeans(k=4).fit(X).save(path)
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:7],
        whole[:60],
        whole[:-1],
        whole + b"\0",
        b"PK\3\4" + 100 * b"\0",
        b"\x93NUMPY" + 60 * b"\1",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^cannot load '.*model': "):
            fk.FlashKMeans.load(path)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    model = fk.FlashKMeans(k=4).fit(X)
    model.save(path)
    before = path.read_bytes()
    model.tol = object()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        model.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
