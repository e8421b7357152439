"""A file in the making: it is called ``NAME.partial`` until it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.types import Buffer

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}


class Partial:
    """A new file that replaces ``final`` when it is published, and never before.

    Args:
        final: the name it will have; a symbolic link is followed.
        suffix: added to the name until then.

    Raises:
        BlockingIOError: another process is writing it.
        OSError: it cannot be made.
    """

    def __init__(self, final: Path, suffix: str = ".partial") -> None:
        self.final = final.resolve()
        self.path = self.final.with_name(self.final.name + suffix)
        self.size = 0
        self._fd = _open_locked(self.path)
        os.ftruncate(self._fd, 0)

    def reserve(self, size: int) -> None:
        """Make the file ``size`` zeros long, with room for all of them on the disk. Raises `OSError` without."""
        try:
            _allocate(self._fd, size)
        except OSError:
            os.ftruncate(self._fd, 0)  # gives back what could be had
            raise
        self.size = size

    def write_at(self, data: Buffer, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written
        self.size = max(self.size, offset)

    def append(self, data: Buffer) -> int:
        """Write all of ``data`` at the end; returns where it begins."""
        start = self.size
        self.write_at(data, start)
        return start

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""
        return os.pread(self._fd, length, offset)

    def publish(self) -> Path:
        """Put the file in the place of ``final``, once it is on the disk, and close it."""
        os.fsync(self._fd)
        # Replaced before it is closed: closing gives up the lock.
        self.path.replace(self.final)
        self._close()
        return self.final

    def discard(self) -> None:
        """Remove and close the file."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            self._close()

    def close(self) -> None:
        """Close the file if it is open; it is removed where nothing has been written to it."""
        if self.size == 0:
            self.discard()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(fd)
            # Between open and lock its last owner may have published it: then this is that owner's finished file.
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # this file system has no locks: two runs at once are then the user's to avoid
        return


def _is_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except AttributeError:  # macOS has no such call
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        os.ftruncate(fd, size)
