"""Where the bytes of lines come from: files, packed with gzip or not, or stdin."""

from __future__ import annotations

import gzip
import sys
import zlib
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io.readers import base, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GZIP = ".gz"
_COUNTED_BYTES = 64 * 2**20
"""Lines are counted up to here, and beyond it in proportion."""

_BOM = b"\xef\xbb\xbf"


class Origin(ABC):
    """Bytes that can be read from their beginning on."""

    name: str
    """What messages call it."""

    repeatable = True

    @abstractmethod
    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The bytes. Raises `InputError` for what shows as they are read."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""


@dataclass(frozen=True)
class File(Origin):
    """A file; unpacked as it is read where its name ends in ``.gz``."""

    path: Path

    @property
    def name(self) -> str:  # type: ignore[override] # told by the path
        """See `Origin.name`."""
        return str(self.path)

    @property
    def is_packed(self) -> bool:
        """True if gzip has packed it, as its name says."""
        return self.path.suffix.lower() == GZIP

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """See `Origin.opened`."""
        try:
            with gzip.open(self.path) if self.is_packed else self.path.open("rb") as file:
                yield file  # type: ignore[misc] # a GzipFile is a binary file in all but name
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            text = f"{self.path} cannot be unpacked, it is damaged or cut short: {error}"
            raise InputError(text, key="input.path") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}", key="input.path") from None

    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""
        return fingerprint.of_file(self.path)


class Stdin(Origin):
    """Standard input, which can be read once."""

    name = "stdin"
    repeatable = False

    def __init__(self) -> None:
        self._is_read = False

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """See `Origin.opened`."""
        if self._is_read:
            raise InputError("stdin can be read only once; to read rows again, put them into a file", key="input.path")
        self._is_read = True
        yield sys.stdin.buffer

    def fingerprint(self) -> None:
        """See `Source.fingerprint`."""
        return


def lines_about(origins: Sequence[Origin], *, quoted: bool = False) -> int | None:
    """The number of lines of plain files; of large ones about that, by their first part. None for others.

    Line breaks within quotes are counted for none where values may be ``quoted``.
    """
    paths = [origin.path for origin in origins if isinstance(origin, File) and not origin.is_packed]
    if len(paths) < len(origins):
        return None
    lines = read = 0
    try:
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            with path.open("rb") as file:
                inside, last = False, b"\n"
                while read < _COUNTED_BYTES and (piece := file.read(base.BLOCK_BYTES)):
                    count, inside = _line_ends(piece, inside=inside) if quoted else (piece.count(b"\n"), False)
                    lines, read, last = lines + count, read + len(piece), piece[-1:]
                lines += last != b"\n"
    except OSError:  # it will be said where the rows are read
        return None
    return lines if read >= size else round(lines * size / read)


def _line_ends(piece: bytes, *, inside: bool) -> tuple[int, bool]:
    """The line breaks of ``piece`` outside of quotes; whether it ends ``inside`` of some, as it began."""
    if not inside and b'"' not in piece:
        return piece.count(b"\n"), False
    quotes = piece.split(b'"')
    return sum(part.count(b"\n") for part in quotes[inside::2]), inside ^ (len(quotes) % 2 == 0)


def line_blocks(file: IO[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of a file without their newlines, some at a time, with the number of the first (from 1).

    A mark of the byte order at the beginning belongs to no line. What follows the last newline is a line if it is
    anything.
    """
    number = 1
    pieces: list[bytes] = []  # of a line that has not ended yet
    at_start = True
    # What is there is taken, not waited for until a block is full: rows that a program writes are sent as they come.
    while piece := file.read1(base.BLOCK_BYTES):  # type: ignore[attr-defined] # IO has no read1
        pieces.append(piece)
        if b"\n" not in piece:
            continue
        *lines, rest = b"".join(pieces).split(b"\n")
        pieces = [rest] if rest else []
        if at_start:
            lines[0] = lines[0].removeprefix(_BOM)
            at_start = False
        yield number, lines
        number += len(lines)
    last = b"".join(pieces)
    if at_start:
        last = last.removeprefix(_BOM)
    if last:
        yield number, [last]


def not_utf8(name: str, number: int) -> InputError:
    """The error for a line that is no text."""
    return InputError(f"{name}, line {number}: not UTF-8; convert the file first", key="input.path")
