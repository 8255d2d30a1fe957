"""MiniBatchKMeans on files, and predictions of both estimators: the bits are those of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import blobs
from memory import peak

from flash_kmeans_mlx.sklearn import KMeans, MiniBatchKMeans

X = blobs(1, 5000, 6, 7)[0].astype(np.float32)
WEIGHTS = np.random.default_rng(0).integers(0, 3, len(X))


class Chunks:
    """Chunks of an array, anew in every pass."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __iter__(self) -> Iterator[np.ndarray]:
        for lo in range(0, len(self.x), 700):
            yield self.x[lo : lo + 700]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with X in x.npy and in the folder parts."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    Path("parts").mkdir()
    for i, part in enumerate(np.split(X, [100, 3333])):
        np.save(f"parts/{i}.npy", part)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 200, "init_size": 500, "tol": 0.01},
        {"batch_size": 300, "compute_labels": False, "init": "random"},
        {"batch_size": 10_000},
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "source", ["x.npy", Path("parts"), Chunks(X)], ids=["file", "folder", "chunks"]
)
def test_a_fit(folder: Path, source: Any, weighted: bool, options: dict[str, Any]) -> None:
    weights = WEIGHTS if weighted else None
    wanted: Any = MiniBatchKMeans(7, random_state=3, **options).fit(X, sample_weight=weights)
    model: Any = MiniBatchKMeans(7, random_state=3, **options)
    assert model.fit(source, sample_weight=weights) is model
    np.testing.assert_array_equal(model.cluster_centers_, wanted.cluster_centers_)
    assert model.inertia_ == wanted.inertia_
    assert (model.n_steps_, model.n_features_in_) == (wanted.n_steps_, 6)
    assert model.get_params() == wanted.get_params()
    if options.get("compute_labels", True):
        np.testing.assert_array_equal(model.labels_, wanted.labels_)


@pytest.mark.parametrize("cls", [KMeans, MiniBatchKMeans])
def test_predictions(folder: Path, cls: Any) -> None:
    model = cls(7, random_state=0).fit(X)
    for source in ("x.npy", "parts", Chunks(X)):
        np.testing.assert_array_equal(model.predict(source), model.predict(X))
        assert model.score(source, sample_weight=WEIGHTS) == model.score(X, sample_weight=WEIGHTS)
    np.save("wide.npy", np.ones((9, 7)))
    with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 6 features"):
        model.predict("wide.npy")


def test_what_is_wrong(folder: Path) -> None:
    x = X.copy()
    x[4321, 2] = np.inf
    np.save("bad.npy", x)
    for call in (MiniBatchKMeans(7).fit, MiniBatchKMeans(7).fit(X).predict):
        with pytest.raises(ValueError, match=r"X must be finite, .* in '.*bad\.npy', row 4321 "):
            call("bad.npy")
    with pytest.raises(FileNotFoundError):
        MiniBatchKMeans(7).fit("none.npy")
    with pytest.raises(ValueError, match="n_clusters=6000"):
        MiniBatchKMeans(6000).fit("x.npy")
    with pytest.raises(TypeError, match="X is an iterator"):
        MiniBatchKMeans(7).fit(iter(Chunks(X)))


def test_memory(tmp_path: Path) -> None:
    """64 MB of rows are fitted in about 30 bytes a row."""
    x = np.random.default_rng(0).standard_normal((62_500, 256), np.float32)
    np.save(tmp_path / "x.npy", x)
    n, size = len(x), x.nbytes
    del x

    def fit() -> None:
        MiniBatchKMeans(5, random_state=0, max_iter=1).fit(str(tmp_path / "x.npy"))

    assert peak(fit) < 40 * n + (24 << 20) < size / 2
