"""The suites of the benchmark, each of which answers one question."""

from . import disk, distributed, growth, index, kmeans, neighbours

_MODULES = (kmeans, neighbours, index, disk, distributed, growth)
SUITES = {module.SUITE.name: module.SUITE for module in _MODULES}
