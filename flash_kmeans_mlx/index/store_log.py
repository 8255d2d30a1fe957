"""The file of changes beside the file of a store: records that are appended, each with checksums.

It begins with a line that names the store's file by its token; with another token, it belongs to a
file that was replaced, and does not count. A record is a head of 16 bytes (a mark, the length of
what follows, and the CRC-32 of these) and a safetensors file, as files/models.py writes it.

A record that is not complete ends the file: its writer died. Readers leave it out, and the next
writer cuts it off. Everything else that is wrong is damage.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..files import models
from ..files.atomic import replacing

__all__ = ["Log", "append", "has_grown", "read"]

TITLE = b"flash-kmeans-mlx changes 1 "
HEAD = struct.Struct("<4sQI")
MARK = b"FKMc"
WAIT = 0.05  # seconds in which a writer that lives writes something


class Log(NamedTuple):
    """The records of a file of changes.

    Attributes:
        records: Arrays and metadata of each.
        end: Bytes up to the end of the last complete record; 0 without a file for this token.
        is_torn: Whether an incomplete record follows.
    """

    records: list[tuple[dict[str, np.ndarray], dict[str, str]]]
    end: int
    is_torn: bool


def read(path: Path, token: str) -> Log:
    """Read the changes to the store's file of this token.

    Raises:
        OSError: The file can't be read.
        ValueError: It is damaged; the message says where.
    """
    size = -1
    while True:
        try:
            with path.open("rb") as file:
                log = _read(file, path, token)
                size_before, size = size, os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return Log([], 0, is_torn=False)
        # Another process may be writing the last record.
        if not log.is_torn or size == size_before:
            return log
        time.sleep(WAIT)


def _read(file: BinaryIO, path: Path, token: str) -> Log:
    if not _is_for(file, path, token):
        return Log([], 0, is_torn=False)
    records = []
    end = file.tell()
    while True:
        payload, is_torn = _next(file, path)
        if payload is None:
            return Log(records, end, is_torn)
        try:
            records.append(models.from_bytes(payload))
        except ValueError as error:
            raise _damage(path, end, str(error)) from None
        end = file.tell()


def append(path: Path, token: str, end: int, record: list[Any]) -> int:
    """Append a record, and return where it ends.

    Args:
        path: The file of changes.
        token: Of the store's file.
        end: Where the last complete record ends; 0 for a new file.
        record: Buffers that `models.to_buffers` returned.

    Raises:
        OSError: The file can't be written; it is as before then.
    """
    length = sum(memoryview(part).nbytes for part in record)
    start = MARK + length.to_bytes(8, "little")
    parts = [start, zlib.crc32(start).to_bytes(4, "little"), *record]
    if not end:
        title = _title(token)
        with replacing(path) as file:
            file.writelines([title, *parts])
        return len(title) + HEAD.size + length
    try:
        with path.open("r+b", buffering=0) as file:
            file.truncate(end)
            file.seek(end)
            try:
                for part in parts:
                    _write(file, part)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise
    return end + HEAD.size + length


def _write(file: FileIO, part: Any) -> None:
    """Write all bytes of a buffer."""
    left = memoryview(part)
    while left:
        left = left[file.write(left) :]


def has_grown(path: Path, token: str, end: int) -> bool:
    """Return whether the file of changes is another one than when its records ended at `end`."""
    try:
        with path.open("rb") as file:
            if not _is_for(file, path, token):
                return end > 0
            if os.fstat(file.fileno()).st_size < end:
                return True
            if not end:
                return True
            file.seek(end)
            return _next(file, path)[0] is not None
    except FileNotFoundError:
        return end > 0
    except ValueError:
        return True


def _title(token: str) -> bytes:
    text = TITLE + token.encode()
    return text + f" {zlib.crc32(text):08x}\n".encode()


def _is_for(file: BinaryIO, path: Path, token: str) -> bool:
    """Read the first line, and return whether it names this token."""
    length = len(_title(token))
    line = file.read(length)
    text = line[: -len(" 00000000\n")]
    if len(line) < length or line != text + f" {zlib.crc32(text):08x}\n".encode():
        raise _damage(path, 0, "its first line is none of this package's")
    return line == _title(token)


def _next(file: BinaryIO, path: Path) -> tuple[bytes | None, bool]:
    """Return the next record, None if there is no complete one; and whether there is a part of one.

    Raises:
        ValueError: What follows is no part of a record.
    """
    begin = file.tell()
    left = os.fstat(file.fileno()).st_size - begin
    head = file.read(HEAD.size)
    if not head:
        return None, False
    # Where a computer stopped, zeros may stand for what was not written.
    if not any(head) and not any(file.read()):
        return None, True
    if len(head) < HEAD.size:
        if head[: len(MARK)] == MARK[: len(head)]:
            return None, True
        raise _damage(path, begin, "no record begins there")
    mark, length, crc = HEAD.unpack(head)
    if mark != MARK or crc != zlib.crc32(head[:-4]):
        raise _damage(path, begin, "no record begins there")
    if HEAD.size + length > left:
        return None, True
    return file.read(length), False


def _damage(path: Path, begin: int, reason: str) -> ValueError:
    return ValueError(
        f"cannot load {os.fspath(path)!r}: it is damaged at byte {begin} ({reason}); copy the store"
        " again, or remove this file to go back to the last whole save"
    )
