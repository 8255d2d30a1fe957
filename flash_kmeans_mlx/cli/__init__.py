"""The command `flash-kmeans`: neighbours, fits and predictions of vectors in files, from the shell.

Exit codes: 0, done; 1, a file or a value is wrong, and a line on standard error says which; 2, a
wrong command line; 130, interrupted; 143, terminated. Results are written whole or not at all.
"""

from __future__ import annotations

import signal
import sys

from .commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; SIGTERM ends it as Ctrl-C does, without an incomplete file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    app()
