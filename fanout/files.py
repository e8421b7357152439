"""Files that hold what a run must not lose: owned by one process, written whole, given their names in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.types import Buffer

ANEW = "start anew, which sends all rows again, with fanout run --fresh (fresh=True)"
"""What to do where the files of an unfinished run cannot be gone on with."""

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV}


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, so that they are still there after a crash."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


PRIVATE = 0o600
"""Mode of files that quote servers and rows: for their owner alone."""


def open_locked(path: Path, mode: int = 0o666) -> int:
    """A descriptor of the file, made where it is missing, that no other process has until it is closed.

    ``mode`` is that of a new file, before the umask.

    Raises `BlockingIOError` when another process has it, and `OSError` when it cannot be opened.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            _lock(fd, path)
            # Between open and lock its last owner may have renamed it: then this is that owner's finished file.
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def write_at(fd: int, data: Buffer, offset: int) -> int:
    """Write all of ``data`` at ``offset``; returns where it ends."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    return offset


def read_at(fd: int, length: int, offset: int) -> bytes:
    """``length`` bytes from ``offset``, fewer at the end of the file."""
    parts = []
    while length and (part := os.pread(fd, length, offset)):
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def allocate(fd: int, start: int, stop: int) -> None:
    """Take room on the disk for the bytes from ``start`` to ``stop``, which become zeros. Raises `OSError` without."""
    try:
        os.posix_fallocate(fd, start, stop - start)
    except AttributeError:  # macOS has no such call
        os.ftruncate(fd, stop)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        os.ftruncate(fd, stop)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; without it a renamed file may be back under its old name after a crash."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Publication:
    """Files that are whole and durable, and the names that they are to have; done again, it changes nothing more."""

    moves: tuple[tuple[Path, Path], ...] = ()
    """From the temporary name to the final one, in this order."""

    removals: tuple[Path, ...] = ()
    """Files that have to go once the moves are made."""

    outdated: tuple[Path, ...] = ()
    """Files of an earlier run that have to go, in this order, before the first move.

    Several files cannot be replaced in one step. Without this a kill between two renames would leave the mask of one
    run beside the values of another; with it, the values are missing until the same command puts the new ones in place.
    """

    def carry_out(self) -> None:
        """Rename and remove. Raises `OSError`, `FileNotFoundError` where a file is under neither of its names."""
        waiting = {target: source for source, target in self.moves if source.exists()}
        for source, target in self.moves:
            if target not in waiting and not target.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        in_place = {target for _, target in self.moves} - waiting.keys()
        for path in self.outdated:
            if path not in in_place and path.exists():
                path.unlink()
                sync_folder(path.parent)
        values = set(self.outdated)
        for target, source in waiting.items():
            if target in values:  # all that belongs to the values is there before the first of them is
                self._sync_folders()
                values.clear()
            source.replace(target)
        for path in self.removals:
            path.unlink(missing_ok=True)
        self._sync_folders()

    def _sync_folders(self) -> None:
        for folder in {path.parent for _, path in self.moves} | {path.parent for path in self.removals}:
            sync_folder(folder)

    @property
    def whole(self) -> bool:
        """True if every file is under its final name."""
        return all(target.exists() for _, target in self.moves)

    def as_json(self, folder: Path) -> dict[str, list[list[str]] | list[str]]:
        """For a journal in ``folder``, which may be moved together with the files."""
        return {
            "moves": [[_relative(source, folder), _relative(target, folder)] for source, target in self.moves],
            "removals": [_relative(path, folder) for path in self.removals],
            "outdated": [_relative(path, folder) for path in self.outdated],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Sequence[Sequence[str]]], folder: Path) -> Publication:
        """What `as_json` gave, for a journal that is now in ``folder``."""
        moves = tuple((folder / source, folder / target) for source, target in told["moves"])
        removals, outdated = (tuple(folder / str(name) for name in told[key]) for key in ("removals", "outdated"))
        return cls(moves, removals, outdated)


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, "another run is writing it at this moment", str(path)) from None
    except OSError:  # this file system has no locks: two runs at once are then the user's to avoid
        return


def _is_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
