"""scikit-learn's own tests of KMeans and MiniBatchKMeans, from the installed wheel, run on our classes."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest
import sklearn.cluster

from flash_kmeans_mlx import sklearn as ours

SUITE = "sklearn.cluster.tests.test_k_means"
pytestmark = pytest.mark.filterwarnings("default")  # it was written to run without -W error

# Tests that never call our classes: they would pass whatever those did.
NOT_OURS = {
    "test_relocate_empty_clusters": "the Cython function _relocate_empty_clusters_*; ours is tests/kmeans/test_lloyd.py",
    "test_minibatch_update_consistency": "the private functions _mini_batch_step and _labels_inertia",
    "test_minibatch_reassign": "the private functions _mini_batch_step and _labels_inertia",
    "test_euclidean_distance": "the Cython functions _euclidean_*_wrapper",
    "test_inertia": "the Cython functions _inertia_*",
    "test_is_same_clustering": "the Cython function _is_same_clustering",
    "test_sample_weight_init": "the private method _init_centroids; ours is test_seeds_follow_the_weights",
    "test_sample_weight_zero": "the private method _init_centroids; ours is test_seeds_follow_the_weights",
    "test_k_means_function": "the function k_means",
    "test_kmeans_plusplus_wrong_params": "the function kmeans_plusplus",
    "test_kmeans_plusplus_output": "the function kmeans_plusplus",
    "test_kmeans_plusplus_norms": "the function kmeans_plusplus",
    "test_kmeans_plusplus_dataorder": "the function kmeans_plusplus",
}


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
globals().update({name: test for name, test in FOUND.items() if name not in NOT_OURS})


def test_the_suite_runs_on_our_classes() -> None:
    assert THEIRS.KMeans is ours.KMeans and THEIRS.MiniBatchKMeans is ours.MiniBatchKMeans
    assert sklearn.cluster.KMeans is not ours.KMeans
    assert len(FOUND) - len(NOT_OURS) >= 45


def test_what_is_left_out_never_names_our_classes_but_for_private_methods() -> None:
    assert set(NOT_OURS) <= set(FOUND)
    used = {
        name
        for name in NOT_OURS
        if {"KMeans", "MiniBatchKMeans"} & set(FOUND[name].__code__.co_names)
    }
    assert used == {"test_sample_weight_init", "test_sample_weight_zero"}
