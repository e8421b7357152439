"""A file in the making: it is called ``NAME.partial`` until it is whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from zlib import crc32

from fanout.files import ANEW, allocate, open_locked, read_at, sync_folder, write_at
from fanout.paths import PARTIAL

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.types import Buffer


_PIECE_BYTES = 2**20


class Partial:
    """A file that is to replace ``final`` when it is whole, and never before.

    Args:
        final: the name it will have; a symbolic link is followed.
        suffix: added to the name until then.
        size: how much of what an earlier process has written is to be kept.
        mode: that of a new file, before the umask.

    Raises:
        BlockingIOError: another process is writing it.
        OSError: it cannot be made.
        FileNotFoundError: less than ``size`` is there.
    """

    def __init__(self, final: Path, suffix: str = PARTIAL, *, size: int = 0, mode: int = 0o666) -> None:
        self.final = final.resolve()
        self.path = self.final.with_name(self.final.name + suffix)
        self.size = size
        self._named = False
        if size and not self.path.exists():
            raise FileNotFoundError(f"{self.path} is missing: put it back, or {ANEW}")
        self._fd = open_locked(self.path, mode)
        there = os.fstat(self._fd).st_size
        if there < size:
            self._close()
            lost = f"{self.path} has {there:,} bytes, but {size:,} were written"
            raise FileNotFoundError(f"{lost}: put it back as it was, or {ANEW}")
        os.ftruncate(self._fd, size)

    def reserve(self, size: int) -> None:
        """Make the file at least ``size`` bytes long, with room for all of them. Raises `OSError` without."""
        if size <= self.size:
            return
        try:
            allocate(self._fd, self.size, size)
        except OSError:
            os.ftruncate(self._fd, self.size)  # gives back what could be had
            raise
        self.size = size

    def cut(self, size: int) -> None:
        """Make the file end at ``size``."""
        os.ftruncate(self._fd, size)
        self.size = size

    def write_at(self, data: Buffer, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        self.size = max(self.size, write_at(self._fd, data, offset))

    def append(self, data: Buffer) -> int:
        """Write all of ``data`` at the end; returns where it begins."""
        start = self.size
        self.write_at(data, start)
        return start

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""
        return read_at(self._fd, length, offset)

    def checksum(self, offset: int, length: int) -> int:
        """The CRC-32 of ``length`` bytes from ``offset``, fewer at the end of the file."""
        value, end = 0, offset + length
        while offset < end and (piece := self.read_at(offset, min(_PIECE_BYTES, end - offset))):
            value, offset = crc32(piece, value), offset + len(piece)
        return value

    def sync(self) -> None:
        """Return when the file, all that was written to it, is on the disk.

        An `OSError` is final: a second try would lie.
        """
        os.fsync(self._fd)
        if not self._named:  # its name is the folder's, and no fsync of the file makes that durable
            sync_folder(self.path.parent)
            self._named = True

    def discard(self) -> None:
        """Remove and close the file."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            self._close()

    def close(self) -> None:
        """Close the file if it is open; it is removed where nothing has been written to it."""
        if self._fd >= 0 and os.fstat(self._fd).st_size == 0:
            self.discard()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
