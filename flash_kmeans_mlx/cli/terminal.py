"""Output on a terminal: lines of text, errors in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer

from ..errors import BackendUnavailableError

__all__ = ["plain", "reported", "say"]

P = ParamSpec("P")
T = TypeVar("T")
ADVICE = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "nothing was written; free some space, or write to another disk",
    errno.EDQUOT: "nothing was written; free some space, or write to another disk",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
}


def plain(text: str) -> str:
    """Return the text in one line, with characters that can't be printed escaped."""
    return " ".join(text.splitlines()).encode(errors="backslashreplace").decode()


def say(text: str, err: bool = False) -> None:
    """Print a line."""
    typer.echo(plain(text), err=err)


def reported(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command report errors that a user can correct in one line on standard error."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            written = "go on with --resume" if kwargs.get("checkpoint") else "nothing was written"
            say(f"interrupted: {written}", err=True)
            raise typer.Exit(130) from None
        except MemoryError as error:
            cure = "lower --max-mem-gb" if kwargs.get("max_mem_gb") else "set --max-mem-gb"
            say(f"error: not enough memory ({error}): {cure}, or take fewer rows", err=True)
            raise typer.Exit(1) from None
        except (ValueError, OSError, BackendUnavailableError) as error:
            say(f"error: {_line(error)}", err=True)
            raise typer.Exit(1) from None

    return run


def _line(error: Exception) -> str:
    """Return an error in one line, with advice."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error).replace(" (labels_path)", "")
    advice = ADVICE.get(error.errno or 0)
    where = f"{os.fspath(error.filename)!r}: " if error.filename else ""
    reason = error.strerror[0].lower() + error.strerror[1:]
    return where + reason + (f"; {advice}" if advice else "")
