"""Registers the marker of the tests that build kernels with sanitizers."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sanitizer: builds kernels with the sanitizers of g++")
