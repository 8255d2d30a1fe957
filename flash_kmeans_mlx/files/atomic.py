"""Files written whole or not at all, and what safetensors files are made of.

A safetensors file is a header length (8 bytes, little endian), a JSON header with dtype, shape and byte range of each
array, the data.
"""

import errno
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["METADATA", "json_object", "locked", "replacing", "safetensors_parts"]

METADATA = "__metadata__"
WAIT = 60.0  # seconds for another writer
_TEMPORARY = re.compile(r"\.flash-kmeans-[0-9a-f]{32}\.tmp")
DTYPES = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file to write, which becomes `path` when the block ends well; else `path` stays as it was.

    Temporary files in its folder whose writers died are removed.
    """
    target = Path(path).resolve()
    _remove_abandoned(target.parent)
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
    """Open a new file, locked: its writer lives as long as the lock is held."""
    while True:
        file = (folder / f".flash-kmeans-{uuid.uuid4().hex}.tmp").open("xb")
        # Another writer may have taken it for abandoned before it was locked.
        if _lock(file) is not False and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files that are locked by nobody."""
    for path in folder.glob(".flash-kmeans-*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError), path.open("r+b") as file:
                if _lock(file):
                    path.unlink()


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of the file `path`, made if need be, alone among all threads and processes.

    The system ends the lock of a process that dies. Where a file system has no locks, nobody waits.

    Raises:
        TimeoutError: Another one has held it for WAIT seconds.
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
    """Take the lock of an open file. False: another one has it; None: there are no locks here."""
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


def safetensors_parts(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> list[Any]:
    """What a safetensors file of these arrays (float32, float64, int64, uint32, uint8) consists of, one buffer after another.

    Raises:
        TypeError: An array has another dtype.
    """
    header: dict[str, Any] = {METADATA: metadata}
    data: list[Any] = []
    end = 0
    # Widest items first keeps every array aligned to its item size, which readers that map the file rely on.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise TypeError(
                f"arrays[{name!r}].dtype={array.dtype} must be float32, float64, int64, uint32 or uint8"
            )
        data.append(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *data]


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in a header.

    Raises:
        ValueError: It is none, or a name appears twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    if not text.startswith(b"{"):
        raise ValueError("no JSON object")
    try:
        return json.loads(text.decode(), object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(str(error)) from None
