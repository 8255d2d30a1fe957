"""The suites of the benchmark, each of which answers one question."""

from . import disk, distributed, growth, index, kmeans, neighbours, start

_MODULES = (kmeans, neighbours, index, disk, distributed, growth, start)
SUITES = {module.SUITE.name: module.SUITE for module in _MODULES}
