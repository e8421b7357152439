"""A disk whose power may fail at any moment (letter F of the fault matrix).

It records the operations of a program on the files of one folder, and builds the folders that a crash may leave:
synced data is there; of other data any part may be missing, in any order, and a write may be torn between
sectors; names that were given or taken since the last fsync of the folder may be or not be.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    import pytest


class Op(NamedTuple):
    """Something that was done, to a file (by number) or to a name."""

    what: str
    """create, rename, unlink, sync_folder; write, truncate, allocate, sync; mark."""

    file: int = -1
    name: str = ""
    target: str = ""
    offset: int = 0
    data: bytes = b""
    reported: Any = None


class Recorder:
    """Records every operation on files of ``folder`` while `watching`. Files that exist at first are on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.ops: list[Op] = []
        self.before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self._names = {name: number for number, name in enumerate(self.before)}
        self._count = len(self._names)
        self._fds: dict[int, int] = {}
        self._folder_fds: set[int] = set()

    def killed(self, at: int, folder: Path) -> Recorder:
        """One that goes on in ``folder``, with all that was done before a kill, but no more of it on the disk."""
        other = Recorder(folder)
        other.before, other.ops, other._count = self.before, self.ops[:at], self._count
        other._names = {name: number for number, name in enumerate(self.before)}
        for op in other.ops:
            if op.what in ("create", "rename", "unlink"):
                _change(other._names, op)
        return other

    def mark(self, reported: Any) -> None:
        """Note that something was promised at this moment."""
        self.ops.append(Op("mark", reported=reported))

    def watching(self, patch: pytest.MonkeyPatch) -> None:
        """Put itself between the program and the system calls."""
        for name in ("open", "close", "pwrite", "fsync", "ftruncate", "posix_fallocate", "replace", "unlink"):
            patch.setattr(os, name, self._wrapped(getattr(os, name), getattr(self, f"_{name}")))
        patch.setattr(shutil, "copyfile", self._wrapped(shutil.copyfile, self._copyfile))

    def _wrapped(self, call: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def wrapped(*args: Any, **extra: Any) -> Any:
            result = None if note == self._fsync else call(*args, **extra)  # this disk is a made-up one, and fast
            note(result, *args)
            return result

        return wrapped

    def _within(self, path: Any) -> str | None:
        whole = Path(os.fspath(path)) if not isinstance(path, int) else Path()
        return whole.name if whole.parent == self.folder else None

    def _open(self, fd: int, path: Any, flags: int, *_: Any) -> None:
        if (name := self._within(path)) is not None:
            if name not in self._names:
                self._names[name] = self._count
                self._count += 1
                self.ops.append(Op("create", self._names[name], name))
            self._fds[fd] = self._names[name]
        elif Path(os.fspath(path)) == self.folder:
            self._folder_fds.add(fd)

    def _close(self, _: None, fd: int) -> None:
        self._fds.pop(fd, None)
        self._folder_fds.discard(fd)

    def _pwrite(self, written: int, fd: int, data: Any, offset: int) -> None:
        if fd in self._fds:
            self.ops.append(Op("write", self._fds[fd], offset=offset, data=bytes(data[:written])))

    def _fsync(self, _: None, fd: int) -> None:
        if fd in self._folder_fds:
            self.ops.append(Op("sync_folder"))
        elif fd in self._fds:
            # As it is, and not as it was recorded: a library may have written to it by calls of its own.
            self.ops.append(Op("sync", self._fds[fd], data=Path(f"/proc/self/fd/{fd}").read_bytes()))

    def _ftruncate(self, _: None, fd: int, size: int) -> None:
        if fd in self._fds:
            self.ops.append(Op("truncate", self._fds[fd], offset=size))

    def _posix_fallocate(self, _: None, fd: int, offset: int, length: int) -> None:
        if fd in self._fds:
            self.ops.append(Op("allocate", self._fds[fd], offset=offset + length))

    def _replace(self, _: None, source: Any, target: Any) -> None:
        if (name := self._within(source)) is not None and (new := self._within(target)) is not None:
            self._names[new] = self._names.pop(name)
            self.ops.append(Op("rename", self._names[new], name, new))

    def _unlink(self, _: None, path: Any) -> None:
        if (name := self._within(path)) is not None:
            del self._names[name]
            self.ops.append(Op("unlink", name=name))

    def _copyfile(self, _: Any, source: Any, target: Any) -> None:
        number = self._names[Path(target).name]
        self.ops.append(Op("write", number, data=Path(target).read_bytes()))


@dataclass
class _File:
    durable: bytes = b""
    unsynced: list[Op] = field(default_factory=list)


class Power:
    """The state of the disk after the first ``at`` operations, and the states that a crash may leave of it."""

    def __init__(self, recorder: Recorder, at: int) -> None:
        self._files = {number: _File(data) for number, data in enumerate(recorder.before.values())}
        self._names = {name: number for number, name in enumerate(recorder.before)}
        self._unsynced: list[Op] = []
        self.marks: list[Any] = []
        for op in recorder.ops[:at]:
            self._do(op)

    def _do(self, op: Op) -> None:
        if op.what == "mark":
            self.marks.append(op.reported)
        elif op.what == "sync":
            self._files[op.file] = _File(op.data)
        elif op.what == "sync_folder":
            for change in self._unsynced:
                _change(self._names, change)
            self._unsynced = []
        elif op.what in ("create", "rename", "unlink"):
            self._files.setdefault(op.file, _File())
            self._unsynced.append(op)
        else:
            self._files[op.file].unsynced.append(op)

    def fails(self, dice: random.Random, *, data: float, names: float) -> dict[str, bytes]:
        """The files after a crash: an unsynced write is on the disk with one probability, a name with the other."""
        left = dict(self._names)
        for change in self._unsynced:
            if dice.random() < names:
                _change(left, change)
        contents = {number: _content(self._files[number], dice, data) for number in sorted(set(left.values()))}
        return {name: contents[number] for name, number in left.items()}


def _change(names: dict[str, int], op: Op) -> None:
    if op.what == "unlink":
        names.pop(op.name, None)
    elif op.what == "create":
        names[op.name] = op.file
    else:
        names.pop(op.name, None)
        names[op.target] = op.file


def _content(file: _File, dice: random.Random, likely: float) -> bytes:
    content = bytearray(file.durable)
    for op in file.unsynced:
        if op.what == "write":
            _write_torn(content, op, dice, likely)
        elif dice.random() < likely:
            if op.what == "truncate":
                del content[op.offset :]
            content.extend(bytes(max(0, op.offset - len(content))))
    return bytes(content)


def _write_torn(content: bytearray, op: Op, dice: random.Random, likely: float) -> None:
    """Each sector that the write touches is written or not."""
    sector = dice.choice([512, 4096, 2**30])
    at = op.offset
    while at < op.offset + len(op.data):
        end = min(op.offset + len(op.data), (at // sector + 1) * sector)
        if dice.random() < likely:
            content.extend(bytes(max(0, end - len(content))))
            content[at:end] = op.data[at - op.offset : end - op.offset]
        at = end
