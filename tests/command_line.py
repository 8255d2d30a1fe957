"""The command line, run in the process of the tests."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from typer.main import get_command

from flash_kmeans_mlx.cli import app

COMMAND = get_command(app)  # built once: that takes longer than most of the commands


class Result(NamedTuple):
    """What a command left: its exit code, and all that it printed on both streams."""

    exit_code: int
    output: str


def call(*arguments: str) -> Result:
    """Run a command; an exception other than SystemExit is an error of the test."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            COMMAND.main([str(a) for a in arguments], prog_name="flash-kmeans")
            code = 0
        except SystemExit as done:
            code = done.code or 0
    assert isinstance(code, int), code
    printed.seek(0)
    return Result(code, printed.read())
