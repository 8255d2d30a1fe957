"""A contestant's process, which answers requests of the runner.

`process.WorkerProcess` starts it as ``python -m flash_kmeans_mlx.benchmark.worker WORK CONTESTANT
OPTIONS``: two classes as ``module:class``, and the contestant's fields as a JSON object. Requests
and answers are JSON objects, one a line. A request's ``op`` names a method of the work, and its
other entries are the arguments. The process ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any, TextIO

from .contestants import Contestant


class Work:
    """Base of what a worker process does for a suite: public methods answer requests."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant


def serve(work: Work, requests: TextIO, replies: TextIO) -> None:
    """Answer every line of ``requests`` on ``replies``."""
    for line in requests:
        request = json.loads(line)
        answer = getattr(work, request.pop("op"))(**request)
        text = json.dumps(answer or {}, default=lambda number: number.item())  # NumPy's numbers
        replies.write(text + "\n")
        replies.flush()


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def main(arguments: list[str]) -> None:
    """Import the contestant's library and answer requests."""
    work, contestant, options = arguments
    # Libraries may print. The replies keep the real standard output, all else goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    taking_part = _class(contestant)(**json.loads(options))
    taking_part.prepare()
    serve(_class(work)(taking_part), sys.stdin, replies)


if __name__ == "__main__":
    main(sys.argv[1:])
