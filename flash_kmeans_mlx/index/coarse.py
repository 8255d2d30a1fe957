"""The centroids of lists, and which are near to vectors: found exactly, or by a graph.

A graph (HNSW) finds the lists of a few vectors among tens of thousands.
"""

from __future__ import annotations

import re

import numpy as np

from ..kmeans.assign import assign
from ..kmeans.fit import fit
from ..metrics import METRICS
from .centroids import Centroids
from .graph import Graph

__all__ = ["empty_graph", "graph_of", "list_of", "lists_near", "trained"]

# From so many vectors on, exact search is as fast, as it reads the centroids once for all of them.
# Measured for 65,536 lists, d=64, in microseconds of one CPU for each vector, exactly and by a
# graph of 32 links: 1 vector 19,700 and 200; 16 vectors 1,400 and 150; 1,000 vectors 46 and 150.
MANY = 64
EF_CONSTRUCTION = 100
EF = 64  # candidates that are kept, at least: 99.99% of the nearest are found
PER_LIST = 2  # candidates for each list that is wanted, at least


def empty_graph(d: int, metric: str, description: str | None) -> Graph | None:
    """Return the graph that a description asks for, without rows; None for None.

    Args:
        d: Dimensions of the centroids.
        metric: "euclidean", "cosine" or "dot".
        description: None, or like "HNSW32" for 32 links.

    Raises:
        ValueError: The description has another form.
        ImportError: It needs voyager, which is not installed.
    """
    if description is None:
        return None
    match = re.fullmatch(r"HNSW(\d+)", description) if isinstance(description, str) else None
    if match is None:
        raise ValueError(f"coarse_quantizer={description!r} must be None or like 'HNSW32'")
    return Graph(d, metric, int(match[1]), EF_CONSTRUCTION)


def trained(
    points: np.ndarray,
    nlist: int,
    metric: str,
    niter: int,
    seed: int,
    backend: str | None,
    verbose: bool,
) -> np.ndarray:
    """Return centroids (nlist, D) float32 of points (N, D), by k-means."""
    found = fit(
        METRICS[metric],
        points,
        nlist,
        niter,
        verbose=verbose,
        seed=seed,
        backend=backend,
        stage="lists",
    )
    return np.array(found.centroids)


def graph_of(
    centroids: np.ndarray, metric: str, description: str | None, state: np.ndarray | None = None
) -> Graph | None:
    """Return the graph of centroids (K, D) float32, as `empty_graph` describes it.

    With a state, it is the graph of that state; ValueError if it is damaged.
    """
    graph = empty_graph(centroids.shape[1], metric, description)
    if graph is not None and state is not None:
        graph.restore(state, centroids)
        if len(graph) != len(centroids):
            raise ValueError(f"graph of {len(graph)} centroids must have {len(centroids)}")
    elif graph is not None:
        graph.add(centroids)
    return graph


def list_of(
    rows: np.ndarray,
    centroids: np.ndarray | None,
    metric: str,
    graph: Graph | None,
    backend: str | None,
) -> np.ndarray:
    """Return the lists (N,) that rows (N, D) belong to: those of their nearest centroids."""
    found = _along(graph, rows, 1)
    if found is not None:
        return found[:, 0]
    return np.asarray(assign(rows, centroids, metric, backend=backend))


def lists_near(
    queries: np.ndarray, centroids: Centroids, n: int, graph: Graph | None, backend: str
) -> np.ndarray:
    """Return the lists (Q, n) int64 whose centroids are nearest to queries (Q, D), in order."""
    found = _along(graph, queries, n)
    return centroids.nearest(queries, n, backend) if found is None else found


def _along(graph: Graph | None, rows: np.ndarray, n: int) -> np.ndarray | None:
    """Return the n nearest centroids (N, n) int64 of rows (N, D); None to search exactly."""
    if graph is None or len(rows) >= MANY or 4 * n > len(graph):
        return None
    return graph.search(rows, n, max(EF, PER_LIST * n))
