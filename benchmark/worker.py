"""A contestant's process: reads requests, one JSON object a line, and answers each with one line.

Started as ``python -m flash_kmeans_mlx.benchmark.worker MODULE CLASS OPTIONS``. Requests, by their ``op``:

- ``load``: ``x`` and ``start`` (paths of .npy files; ``queries`` says that the latter are such), ``iters``, ``metric``,
  ``dtype``, ``k``: what later runs work on.
- ``lloyd``, ``seeding``, ``fit``, ``knn``: ``repeats``, ``seed``, ``save`` (a path prefix): runs it, saves what the last
  repeat returned, and answers ``seconds``, one number a repeat.
- ``memory``: peak memory of one ``lloyd`` run beyond what the process held before it, in bytes.

The process ends with its input.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TextIO

import numpy as np

from .contestants import Array, Contestant, Outcome
from .memory import Peak

_SMALL = {"n": 4096, "k": 8}


@dataclass
class Problem:
    """What ``load`` was given."""

    x: Any
    start: Any
    points: Array
    iters: int
    metric: str
    dtype: str
    k: int


class Server:
    """Answers requests for one contestant."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.problem: Problem | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Does what one request says."""
        if request["op"] == "load":
            return self._load(request)
        if self.problem is None:
            raise ValueError(f"{request['op']!r} before 'load'")
        if request["op"] == "memory":
            return self._memory(self.problem)
        return self._run(self.problem, request)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        points, start = np.load(request["x"]), np.load(request["start"])
        x = self.contestant.convert(points, request["dtype"])
        if request.get("queries"):
            start = self.contestant.convert(start, request["dtype"])
        self.problem = Problem(
            x, start, points, request["iters"], request["metric"], request["dtype"], request["k"]
        )
        return {}

    def _run(self, problem: Problem, request: dict[str, Any]) -> dict[str, Any]:
        seconds: list[float] = []
        outcome = None
        for _ in range(request["repeats"]):
            del outcome
            begin = perf_counter()
            outcome = self._once(problem, request["op"], request["seed"], request.get("passes"))
            seconds.append(perf_counter() - begin)
        assert outcome is not None
        digest = hashlib.sha1(np.ascontiguousarray(outcome.centroids).data)
        np.save(request["save"] + "-centroids.npy", outcome.centroids)
        if outcome.labels is not None:
            digest.update(np.ascontiguousarray(outcome.labels).data)
            np.save(request["save"] + "-labels.npy", outcome.labels)
        return {
            "seconds": seconds,
            "digest": digest.hexdigest(),
            "labelled": outcome.labels is not None,
            "n_iter": int(outcome.n_iter),
            "passes": float(outcome.passes),
            "inertia": None if outcome.inertia is None else float(outcome.inertia),
            "backend": outcome.backend,
            "engine": outcome.engine,
        }

    def _once(self, problem: Problem, op: str, seed: int, iters: int | None = None) -> Outcome:
        if op == "lloyd":
            return self.contestant.lloyd(
                problem.x, problem.start, iters or problem.iters, problem.metric
            )
        if op == "knn":
            return self.contestant.knn(problem.x, problem.start, problem.k, problem.metric)
        run = {"seeding": self.contestant.seeding, "fit": self.contestant.fit}[op]
        return run(problem.x, problem.k, seed)

    def _memory(self, problem: Problem) -> dict[str, Any]:
        """A small run of the same type comes first: it loads code and starts threads, which no later run pays for."""
        n, k = min(_SMALL["n"], problem.points.shape[1]), min(_SMALL["k"], problem.k)
        few = self.contestant.convert(np.ascontiguousarray(problem.points[:1, :n]), problem.dtype)
        self.contestant.lloyd(few, problem.start[:1, :k], 2, problem.metric)
        peak = Peak()
        self.contestant.lloyd(problem.x, problem.start, problem.iters, problem.metric)
        return {"bytes": peak.beyond()}


def serve(server: Any, requests: TextIO, replies: TextIO) -> None:
    """Answers every line of ``requests`` on ``replies``."""
    for line in requests:
        replies.write(json.dumps(server.answer(json.loads(line))) + "\n")
        replies.flush()


def main(arguments: list[str], server: Callable[[Any], Any] = Server) -> None:
    """Prepares the contestant, says so in a first reply, and has a server of this kind answer."""
    module, name, options = arguments
    # Libraries print where they like: the replies keep the real standard output, all else goes to standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contestant = getattr(importlib.import_module(module), name)(**json.loads(options))
    contestant.prepare()
    replies.write("{}\n")
    replies.flush()
    serve(server(contestant), sys.stdin, replies)


if __name__ == "__main__":
    main(sys.argv[1:])
