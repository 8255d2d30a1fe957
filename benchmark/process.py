"""The parent's side of a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contestants import Contestant

_THREAD_VARIABLES = (
    "FLASH_KMEANS_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PATIENCE = 5.0  # seconds until a process that is told to end is killed


class WorkerError(RuntimeError):
    """A worker ended before it answered. The text is the last line that it wrote."""


def environment(threads: int) -> dict[str, str]:
    """Return this process's environment with every thread pool set to the same size."""
    return os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))


class WorkerProcess:
    """The process of one contestant, a context manager that ends it.

    Args:
        work: A subclass of `worker.Work`, whose methods answer the requests.
        contestant: The contestant.
        threads: Size of its thread pools.
        folder: Folder for what it writes to standard error.
    """

    def __init__(self, work: type, contestant: Contestant, threads: int, folder: Path) -> None:
        self._log = (folder / f"{id(self)}.log").open("w+", errors="replace")
        classes = [f"{kind.__module__}:{kind.__qualname__}" for kind in (work, type(contestant))]
        module = f"{__name__.rpartition('.')[0]}.worker"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *classes, json.dumps(asdict(contestant))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(threads),
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: The process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_line()) from error
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_line())
        return json.loads(line)

    def close(self) -> None:
        """End the process: by the end of its input, or by force if it is busy."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            process.stdin = None
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._log.close()

    def _last_line(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else f"ended with status {code}"
