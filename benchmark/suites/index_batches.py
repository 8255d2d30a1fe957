"""Queries a second by the size of a batch, from one query to all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..runner import Workers
from ..timing import median

SIZES = (1, 10, 100)  # all queries together are searched for anyway
NPROBES = (1, 8, 64)
CANDIDATES = (16, 64, 256)  # of graphs
SECONDS = 0.04  # of batches of one size


def chosen(factory: str, nprobes: Sequence[int]) -> list[int]:
    """Return those of the numbers of lists, or of candidates, whose batches are timed."""
    few = CANDIDATES if factory.startswith("HNSW") else (0, *NPROBES)
    return [nprobe for nprobe in nprobes if nprobe in few]


def measure(workers: Workers, rows: Sequence[Any], nprobes: Sequence[int], n_queries: int) -> None:
    """Fill ``row.batches`` for batches of fewer than all queries: by nprobe, then by size."""
    for nprobe in nprobes:
        for size in SIZES:
            for row in rows if size < n_queries else ():
                doing = f"batches of {size}" + (f", {nprobe}" if nprobe else "")
                options = {"nprobe": nprobe, "size": size, "seconds": SECONDS}
                answer = workers.ask(row, "batches", doing, **options)
                if answer:
                    spent = median(answer["seconds"])
                    row.batches.setdefault(nprobe, {})[size] = size / spent


def cells(ours: Any, theirs: Any, name: str) -> list[dict[str, str]]:
    """Return a line of a table for each size of a batch and each nprobe.

    Args:
        ours: Our row, or None if it has no figures.
        theirs: That of faiss, likewise.
        name: Of the column of nprobe.
    """
    known = [row.batches for row in (ours, theirs) if row]
    nprobes = list(dict.fromkeys(nprobe for batches in known for nprobe in batches))
    lines = []
    for nprobe in nprobes:
        for size in dict.fromkeys(size for b in known for size in b.get(nprobe, ())):
            rates = [
                row.batches.get(nprobe, {}).get(size) if row else None for row in (ours, theirs)
            ]
            mine, other = rates
            lines.append(
                {
                    name: str(nprobe or ""),
                    "queries in a batch": f"{size:,}",
                    "queries/s, ours": f"{mine:,.0f}" if mine else "",
                    "faiss": f"{other:,.0f}" if other else "",
                    "ours / faiss": f"{mine / other:.2f}" if mine and other else "",
                }
            )
    return lines
