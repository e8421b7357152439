"""Records in a file: numbered, each with a checksum, so that a torn end differs from damage.

Only one record, or one after it, is ever on its way to the disk when a crash comes. So damage at the end may be as long
as these, and no whole record can follow it. Everything else is damage, and an error.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from io import SEEK_END
from struct import Struct
from typing import IO, TYPE_CHECKING
from zlib import crc32

from fanout.files import PRIVATE, open_locked, sync_folder, write_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MAGIC = b"\xf1fjr"

# Magic, number, length of the payload, checksum.
_HEADER = Struct("<4sIII")
_NUMBER_AND_LENGTH = Struct("<II")

# The record of a group takes some kilobytes. A torn one whose length cannot be read may be this long.
_LONGEST_TORN = 4 * 2**20


class Damaged(ValueError):  # noqa: N818 - callers turn it into an error that names the file
    """Records that are damaged otherwise than by a torn end."""


class RecordFile:
    """An append-only file of records, owned by one process at a time.

    Args:
        path: the file; it is created if it is missing.

    Attributes:
        number: number of the next record. 0: the next append replaces the whole file.

    Raises:
        BlockingIOError: another process owns it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self._size = 0
        self._failed = False
        self._fd = open_locked(path, PRIVATE)

    def resume(self, number: int, size: int) -> None:
        """Go on after the records that were read, and cut the torn end, which may be longer than the next record."""
        self.number, self._size = number, size
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Make the records durable that another process may have written without its own fsync."""
        os.fsync(self._fd)
        sync_folder(self.path.parent)

    def append(self, payload: bytes) -> None:
        """Append a record, durable on return. An `OSError` is final: later calls fail too."""
        # The state of the file is unknown after a failure, so nothing may follow.
        if self._failed:
            raise OSError(errno.EIO, "an earlier write to it has failed", str(self.path))
        try:
            size = write_at(self._fd, record(self.number, payload), self._size)
            os.fsync(self._fd)
        except OSError:
            self._failed = True
            # The page cache would show the record for as long as the machine is up, and the disk would not have it.
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size = size
        self.number += 1

    def rewrite(self, payloads: Iterable[bytes], before_rename: Callable[[], None] | None = None) -> None:
        """Replace all records in one step, durably: after a crash the file has the old ones or the new ones.

        ``before_rename`` is called once the new records are durable. It makes other changes of the same step, and
        first appends a record from which `adopt_rewritten` makes up for a crash in their midst.
        """
        fd, size, number = open_locked(self._new_path, PRIVATE), 0, 0
        try:
            os.ftruncate(fd, 0)
            for number, payload in enumerate(payloads, 1):
                size = write_at(fd, record(number - 1, payload), size)
            os.fsync(fd)
            if before_rename is not None:
                sync_folder(self.path.parent)
                before_rename()
            self._new_path.replace(self.path)
        except OSError:
            self._failed = True
            # With ``before_rename`` the old file may say already that the new one succeeds it.
            if before_rename is None:
                self._new_path.unlink(missing_ok=True)
            os.close(fd)
            raise
        # The lock passes to the new file before the old one is closed: no other process gets in between.
        os.close(self._fd)
        self._fd, self.number, self._size = fd, number, size
        sync_folder(self.path.parent)

    def adopt_rewritten(self) -> None:
        """Finish a `rewrite` that a crash has interrupted after ``before_rename``."""
        fd = open_locked(self._new_path, PRIVATE)
        self._new_path.replace(self.path)
        os.close(self._fd)
        self._fd = fd
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; remove it if it is empty."""
        if self._fd >= 0:
            if not os.fstat(self._fd).st_size:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    @property
    def _new_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")


def record(number: int, payload: bytes) -> bytes:
    """Return record ``number``, counted from 0."""
    return _HEADER.pack(MAGIC, number, len(payload), _checksum(number, payload)) + payload


class RecordReader:
    """Iterates over the payloads of a file, one in memory at a time, up to a torn end.

    Attributes:
        size: bytes up to the end of the last whole record.
        number: number of records that were read.

    Raises:
        Damaged: while iterating, after the records before the damage.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        end = self._file.seek(0, SEEK_END)
        while (payload := self._next(end)) is not None:
            self.size += _HEADER.size + len(payload)
            self.number += 1
            yield payload
        self._file.seek(self.size)
        # Another process may be writing: records that it has added since, behind one that was torn, show no damage.
        if rest := self._file.read(max(0, end - self.size)):
            _require_torn(rest, self.size, self.number)

    def _next(self, end: int) -> bytes | None:
        self._file.seek(self.size)
        header = self._file.read(_HEADER.size)
        # A damaged length may be larger than the file, and must not be read into memory.
        if len(header) < _HEADER.size or self.size + _HEADER.size + _HEADER.unpack(header)[2] > end:
            return None
        return _payload(header + self._file.read(_HEADER.unpack(header)[2]), 0, self.number)


def _payload(data: bytes, at: int, number: int | None) -> bytes | None:
    """Return the payload of the record at ``at``; None if it is not whole, or has another number."""
    if at + _HEADER.size > len(data):
        return None
    magic, stored, length, checksum = _HEADER.unpack_from(data, at)
    payload = data[at + _HEADER.size : at + _HEADER.size + length]
    is_whole = magic == MAGIC and len(payload) == length and checksum == _checksum(stored, payload)
    return payload if is_whole and number in (None, stored) else None


def _require_torn(data: bytes, at: int, number: int) -> None:
    """Raise `Damaged` if ``data``, the rest of a file from byte ``at``, is more than a crash can leave."""
    place = -1
    while (place := data.find(MAGIC, place + 1)) >= 0:
        if _payload(data, place, None) is not None:
            raise Damaged(f"record {number}, at byte {at:,}, is damaged, and whole ones lie behind it")
    magic, _, length, _ = _HEADER.unpack(data[: _HEADER.size].ljust(_HEADER.size, b"\0"))
    longest = max(_LONGEST_TORN, _HEADER.size + length if magic == MAGIC else 0)
    if len(data) > longest:
        raise Damaged(f"the last {len(data):,} bytes are damaged, which is more than a crash can leave")


def _checksum(number: int, payload: bytes) -> int:
    # The number and the length are covered too: a record in another place is damage.
    return crc32(payload, crc32(_NUMBER_AND_LENGTH.pack(number, len(payload))))
