"""scikit-learn's own tests of KMeans and MiniBatchKMeans, from the installed wheel, run on our classes."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import sklearn.cluster

from flash_kmeans_mlx import sklearn as ours

SUITE = "sklearn.cluster.tests.test_k_means"
pytestmark = pytest.mark.filterwarnings("default")  # it was written without -W error

PRIVATE = {}
NOT_RUN = {}


def load(name: str) -> ModuleType:
    """A fresh copy of a test module that imports our classes from `sklearn.cluster`."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for estimator in (ours.KMeans, ours.MiniBatchKMeans):
            patch.setattr(sklearn.cluster, estimator.__name__, estimator)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def global_random_seed() -> int:
    return 42


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request: pytest.FixtureRequest) -> type:
    return request.param


THEIRS = load(SUITE)
FOUND = {name: test for name, test in vars(THEIRS).items() if name.startswith("test_")}
globals().update({name: test for name, test in FOUND.items() if name not in PRIVATE | NOT_RUN})
