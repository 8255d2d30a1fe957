"""The suites of the benchmark, each of which answers one question."""

from __future__ import annotations

from typing import Any

from ..runner import Suite
from .disk import DiskSuite
from .growth import GrowthSuite
from .index import IndexSuite
from .kmeans import KMeansSuite
from .neighbours import NeighboursSuite

SUITES: dict[str, Suite[Any, Any]] = {
    suite.name: suite
    for suite in (KMeansSuite(), NeighboursSuite(), IndexSuite(), DiskSuite(), GrowthSuite())
}
