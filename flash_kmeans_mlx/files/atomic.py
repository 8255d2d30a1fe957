"""Files written whole or not at all, and locks."""

import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["locked", "remove_abandoned", "replacing"]

WAIT = 60.0  # seconds for another writer
_TEMPORARY = re.compile(r"\.flash-kmeans-[0-9a-f]{32}\.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write, which becomes `path` when the block ends without an error.

    Otherwise `path` stays as it was. Temporary files in its folder whose writers died are removed.
    """
    target = Path(path).resolve()
    remove_abandoned(target.parent)
    file = _temporary(target.parent)
    temporary = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)  # before the file is closed, which ends its lock
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk has no name
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(folder: Path) -> BinaryIO:
    """Open a new file and lock it; the lock ends with its writer."""
    while True:
        file = (folder / f".flash-kmeans-{os.urandom(16).hex()}.tmp").open("xb")
        # Another writer may have taken it for abandoned before it was locked.
        if _lock(file) is not False and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that nobody has locked."""
    for path in folder.glob(".flash-kmeans-*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), path.open("r+b") as file:
                if _lock(file):
                    path.unlink()


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock the file `path` against all other threads and processes during the block.

    The file is created if it is missing. The system ends the lock of a process that dies. Where a
    file system has no locks, nobody waits.

    Raises:
        TimeoutError: Another has had the lock for WAIT seconds.
        OSError: The file can't be opened.
    """
    with Path(path).open("ab") as file:
        end = time.monotonic() + WAIT
        while _lock(file) is False:
            if time.monotonic() > end:
                reason = (
                    f"another process has been writing for more than {WAIT:g} s; try again later"
                )
                raise TimeoutError(errno.ETIMEDOUT, reason, os.fspath(path))
            time.sleep(0.01)
        try:
            yield
        finally:
            _unlock(file)  # closing is not enough where a process was forked meanwhile


def _lock(file: BinaryIO) -> bool | None:
    """Try to lock an open file: False if another has the lock, None if there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _unlock(file: BinaryIO) -> None:
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
