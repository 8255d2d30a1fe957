"""The parent's side of a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

_THREAD_VARIABLES = (
    "FLASH_KMEANS_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PATIENCE = 5.0


class WorkerError(RuntimeError):
    """A worker ended before it answered; the text is the last line it wrote."""


def environment(threads: int) -> dict[str, str]:
    """This process's environment with every thread pool set to the same size."""
    return os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))


class WorkerProcess:
    """One contestant's process, which runs a module of this package; a context manager that ends it."""

    def __init__(self, contestant: Any, threads: int, folder: Path, module: str = "worker") -> None:
        self.contestant = contestant
        self._log = (folder / f"{id(self)}.log").open("w+", errors="replace")
        kind = type(contestant)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"{__name__.rpartition('.')[0]}.{module}",
                kind.__module__,
                kind.__qualname__,
                json.dumps(asdict(contestant)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(threads),
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, **request: Any) -> None:
        """Sends a request without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error

    def receive(self) -> dict[str, Any]:
        """Waits for the next answer; the first one says that the contestant's library is imported.

        Raises:
            WorkerError: The process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        """Ends the process: by the end of its input, or by force if it is busy."""
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

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else f"ended with status {code}"
