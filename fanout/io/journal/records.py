"""Records as bytes: numbered, each with a checksum, so that a torn end is told from damage."""

from __future__ import annotations

from io import SEEK_END, BytesIO
from struct import Struct
from typing import IO, TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\xf1fjr"
_HEAD = Struct("<4sIII")  # magic, number, length of the payload, checksum
_NUMBERED = Struct("<II")
_LONGEST = 4 * 2**20
"""A group of chunks takes some kilobytes; a torn one whose own length cannot be read may be this long."""


class Damaged(ValueError):  # noqa: N818 - what it is about is known one floor up
    """Records that cannot be believed, and are no torn end of the last one."""


class Records(NamedTuple):
    """What is whole in a journal's bytes."""

    payloads: list[bytes]
    size: int
    """Bytes up to the end of the last whole record; what lies behind it is a torn end."""


def record(number: int, payload: bytes) -> bytes:
    """Record ``number``, counted from 0."""
    return _HEAD.pack(MAGIC, number, len(payload), _checksum(number, payload)) + payload


def records(data: bytes) -> Records:
    """The records in ``data``. A torn end, as a crash leaves it, is left out. Raises `Damaged` for anything else."""
    reader = Reader(BytesIO(data))
    return Records(list(reader), reader.size)


class Reader:
    """Reads the records of a file, one in memory at a time. A torn end, as a crash leaves it, is left out.

    Only one group of records is ever on its way to the disk, so damage at the end may not be longer than that, and
    nothing whole can lie behind it.

    Raises `Damaged` for anything else, as it comes to it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        """Bytes up to the end of the last whole record."""
        self.number = 0
        """Records that were read."""

    def __iter__(self) -> Iterator[bytes]:
        """The payloads."""
        end = self._file.seek(0, SEEK_END)
        while (payload := self._next(end)) is not None:
            self.size += _HEAD.size + len(payload)
            self.number += 1
            yield payload
        self._file.seek(self.size)
        if rest := self._file.read():
            _require_torn(rest, self.size, self.number)

    def _next(self, end: int) -> bytes | None:
        self._file.seek(self.size)
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size or self.size + _HEAD.size + _HEAD.unpack(head)[2] > end:
            return None
        return _payload(head + self._file.read(_HEAD.unpack(head)[2]), 0, self.number)


def _payload(data: bytes, at: int, number: int | None) -> bytes | None:
    """The payload of the record at ``at``; None if there is no whole one, or one of another number."""
    if at + _HEAD.size > len(data):
        return None
    magic, told, length, checksum = _HEAD.unpack_from(data, at)
    payload = data[at + _HEAD.size : at + _HEAD.size + length]
    whole = magic == MAGIC and len(payload) == length and checksum == _checksum(told, payload)
    return payload if whole and number in (None, told) else None


def _require_torn(data: bytes, at: int, number: int) -> None:
    """Raise `Damaged` if ``data``, the end of a journal from the byte ``at``, is more than a crash can leave."""
    for begin in _places(data, 0):
        if _payload(data, begin, None) is not None:
            raise Damaged(f"record {number}, at byte {at:,}, is damaged, and whole ones lie behind it")
    magic, _, length, _ = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    longest = max(_LONGEST, _HEAD.size + length if magic == MAGIC else 0)
    if len(data) > longest:
        raise Damaged(f"the last {len(data):,} bytes are damaged, which is more than a crash can leave")


def _places(data: bytes, at: int) -> Iterator[int]:
    while (at := data.find(MAGIC, at)) >= 0:
        yield at
        at += 1


def _checksum(number: int, payload: bytes) -> int:
    return crc32(payload, crc32(_NUMBERED.pack(number, len(payload))))
