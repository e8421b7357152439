"""Files that must survive a crash: owned by one process, written whole, given their names in one step.

`read_toml` reads those that people write: job files and presets.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any
from zlib import crc32

from xxhash import xxh3_64

from fanout.errors import ConfigError
from fanout.options import nearest
from fanout.paths import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fanout.types import Buffer

START_FRESH = "start anew, which sends all rows again, with fanout run --fresh (fresh=True)"
"""Remedy for an unfinished run whose files cannot be resumed."""

PRIVATE = 0o600
"""Mode of files that quote servers and rows: for their owner alone."""

# Errors of a file system that has no fallocate.
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}
_PIECE_BYTES = 2**20

# A checksum with this bit is of XXH3; a CRC-32 is smaller.
_XXH3 = 1 << 62


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # A new folder's name is an entry of its parent, and may be gone after a crash.
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; without it a crash may undo a rename."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_locked(path: Path, mode: int = 0o666) -> int:
    """Open or create a file that no other process owns, and return its descriptor, which holds the lock.

    ``mode`` is that of a new file, before the umask.

    Raises:
        BlockingIOError: another process owns the file.
        OSError: it cannot be opened.
    """
    while True:
        # A link under a temporary name could point at any file of the user.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            _lock(fd, path)
            # Between open and lock its last owner may have renamed it, and it is now that owner's finished file.
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another run is writing it at this moment", str(path)) from None
    # Some network file systems have no locks. Two runs at once are then the user's to avoid.
    except OSError:
        return


def _is_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False


def open_at_once(path: Path) -> io.FileIO:
    """Open a file to read its bytes, without a buffer. A pipe is empty, where others wait for its writer."""
    return io.FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def write_at(fd: int, data: Buffer, offset: int) -> int:
    """Write all of ``data`` at ``offset``; return the offset of its end."""
    view = memoryview(data).cast("B")
    # A single call may write less, for instance 2 GiB at most on Linux.
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    return offset


def read_at(fd: int, length: int, offset: int) -> bytes:
    """Read ``length`` bytes from ``offset``, fewer at the end of the file."""
    parts = []
    while length and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def pieces_at(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """Yield ``length`` bytes from ``offset`` in pieces, fewer at the end of the file."""
    end = offset + length
    while offset < end and (piece := read_at(fd, min(_PIECE_BYTES, end - offset), offset)):
        yield piece
        offset += len(piece)


def checksum(pieces: Iterable[bytes], like: int = _XXH3) -> int:
    """Return the checksum of some bytes, an int64: XXH3, or CRC-32 if ``like`` is one.

    Earlier releases noted CRC-32, which takes ten times as long.
    """
    if like < _XXH3:
        value = 0
        for piece in pieces:
            value = crc32(piece, value)
        return value
    hashed = xxh3_64()
    for piece in pieces:
        hashed.update(piece)
    return hashed.intdigest() >> 2 | _XXH3


def allocate(fd: int, start: int, stop: int) -> None:
    """Reserve disk space for the bytes from ``start`` to ``stop``, which become zeros. Raises `OSError` without."""
    try:
        os.posix_fallocate(fd, start, stop - start)
    except AttributeError:  # macOS has no such call
        os.ftruncate(fd, stop)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        os.ftruncate(fd, stop)


class PartialFile:
    """A file called ``NAME.partial`` that takes the name ``final`` once it is whole, and never before.

    Args:
        final: the final name; a symbolic link is followed.
        suffix: added to the name until then.
        size: number of bytes of an earlier process to keep.
        mode: that of a new file, before the umask.

    Attributes:
        path: the temporary name.
        size: bytes of the file.

    Raises:
        BlockingIOError: another process is writing it.
        FileNotFoundError: fewer than ``size`` bytes exist.
        OSError: it cannot be created.
    """

    def __init__(self, final: Path, suffix: str = PARTIAL, *, size: int = 0, mode: int = 0o666) -> None:
        try:
            self.final = final.resolve()
        except RuntimeError:  # a link that leads to itself, before Python 3.13
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(final)) from None
        self.path = self.final.with_name(self.final.name + suffix)
        self.size = size
        self._name_is_durable = False
        if size and not self.path.exists():
            raise FileNotFoundError(f"{self.path} is missing: put it back, or {START_FRESH}")
        self._fd = open_locked(self.path, mode)
        existing = os.fstat(self._fd).st_size
        if existing < size:
            self._close()
            problem = f"{self.path} has {existing:,} bytes, but {size:,} were written"
            raise FileNotFoundError(f"{problem}: put it back as it was, or {START_FRESH}")
        # Bytes beyond the last commit may be half written.
        os.ftruncate(self._fd, size)

    def reserve(self, size: int) -> None:
        """Make the file at least ``size`` bytes long, with disk space for all of them. Raises `OSError` without."""
        if size <= self.size:
            return
        try:
            allocate(self._fd, self.size, size)
        except OSError:
            # A full disk has given a part of the space: return it.
            os.ftruncate(self._fd, self.size)
            raise
        self.size = size

    def truncate(self, size: int) -> None:
        """Make the file end at ``size``."""
        os.ftruncate(self._fd, size)
        self.size = size

    def write_at(self, data: Buffer, offset: int) -> None:
        self.size = max(self.size, write_at(self._fd, data, offset))

    def append(self, data: Buffer) -> int:
        """Write all of ``data`` at the end; return its offset."""
        start = self.size
        self.write_at(data, start)
        return start

    def read_at(self, offset: int, length: int) -> bytes:
        return read_at(self._fd, length, offset)

    def pieces_at(self, offset: int, length: int) -> Iterator[bytes]:
        return pieces_at(self._fd, offset, length)

    def sync(self) -> None:
        """Return when all that was written is on the disk.

        An `OSError` is final: the kernel may drop the unwritten pages, so that a second fsync would succeed falsely.
        """
        os.fsync(self._fd)
        # The file's name is an entry of the folder, which fsync of the file does not write.
        if not self._name_is_durable:
            sync_folder(self.path.parent)
            self._name_is_durable = True

    def discard(self) -> None:
        """Remove and close the file."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            self._close()

    def close(self) -> None:
        """Close the file; remove it if it is empty."""
        if self._fd >= 0 and os.fstat(self._fd).st_size == 0:
            self.discard()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int = 0o666, durable: bool = True) -> Iterator[PartialFile]:
    """Write a file while entered, which takes its name at the end and replaces one of that name in one step.

    After an error there is no trace of it. ``mode`` is that of the file, before the umask. Without ``durable``, a crash
    may leave an earlier file or a part of this one.

    Raises:
        BlockingIOError: another process is writing it.
        OSError: it cannot be written.
    """
    file = PartialFile(path, mode=mode)
    try:
        yield file
        if durable:
            file.sync()
        # Still open, and so still locked: another process must not begin to write under the temporary name.
        file.path.replace(file.final)
    except BaseException:
        file.discard()
        raise
    file.close()
    if durable:
        sync_folder(file.final.parent)


def read_toml(file: Path, kind: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises `ConfigError` that names the file, and the line at fault or a file with a similar name. ``kind`` is the noun
    for a missing file: "job file".
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {kind} {file}{_nearest(file)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL)
        reason, line = place.groups() if place else (str(error), None)
        raise ConfigError(f"{file}: {f'line {line}' if line else 'last line'}: not valid TOML: {reason}") from None


def _nearest(file: Path) -> str:
    near = nearest(file.name, [path.name for path in file.absolute().parent.glob("*.toml")])
    return f'; did you mean "{file.with_name(near)}"?' if near else ""
