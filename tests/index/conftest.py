"""Fixtures of the tests of indexes."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def faiss_on_one_thread() -> Iterator[None]:
    """Where tests share the CPUs, faiss's threads spend most of their time waiting for one another."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)
