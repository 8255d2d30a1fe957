"""The suites of the benchmark, each of which answers one question."""

from . import disk, growth, index, kmeans, neighbours

SUITES = {module.SUITE.name: module.SUITE for module in (kmeans, neighbours, index, disk, growth)}
