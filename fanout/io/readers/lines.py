"""Rows from lines: files, compressed with gzip or not, or stdin; and the format whose rows are the lines themselves."""

from __future__ import annotations

import gzip
import sys
import zlib
from contextlib import contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from fanout.errors import InputError
from fanout.io import fingerprint
from fanout.io.readers import base
from fanout.io.readers.base import Source
from fanout.io.readers.columns import ColumnOptions, require_unnamed
from fanout.io.readers.finding import GZIP
from fanout.io.remote.file import RemoteFile
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.io.remote.file import InputPath

# Spreadsheets and editors of Windows begin a text in UTF-8 with it.
_BOM = b"\xef\xbb\xbf"

# Lines are counted up to this many bytes, which takes some 10 ms; a larger file's number is extrapolated.
_COUNTED_BYTES = 64 * 2**20
# Less of remote files, since each range of them is a request.
_COUNTED_REMOTE_BYTES = 2**20


class InputFile:
    """A file, decompressed while it is read if its name ends in ``.gz``."""

    repeatable = True

    def __init__(self, path: InputPath) -> None:
        self.path = path
        self.name = str(path)
        self.is_compressed = path.suffix.lower() == GZIP

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file for reading. Raises `InputError` for errors that occur while it is read, too."""
        try:
            with self.path.open("rb") as stored:
                unpacked = gzip.GzipFile(fileobj=stored) if self.is_compressed else nullcontext(stored)
                with unpacked as file:
                    yield file  # type: ignore[misc] # a GzipFile has all methods of IO[bytes] that are used
        # gzip reports a file that is cut short as EOFError.
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            text = f"{self.path} cannot be unpacked, it is damaged or cut short: {error}"
            raise InputError(text, key="input.path") from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}", key="input.path") from None


class Stdin:
    """Standard input, which can be read once."""

    name = "stdin"
    repeatable = False
    _is_read = False

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open stdin for reading. Raises `InputError` the second time."""
        if self._is_read:
            raise InputError("stdin can be read only once; to read rows again, put them into a file", key="input.path")
        self._is_read = True
        # The bytes, since the text layer would decode them by the locale.
        yield sys.stdin.buffer


ByteInput: TypeAlias = InputFile | Stdin
"""Bytes that are read from their beginning on."""


class LineSource(Source):
    """Rows from the lines of one or several inputs.

    Args:
        inputs: read one after the other.
        selection: the options that decide which rows are made of the lines, for the fingerprint.
    """

    _format: str
    _quoted = False

    def __init__(self, inputs: Sequence[ByteInput], **selection: Any) -> None:
        self._inputs = inputs
        self._selection = selection
        self.repeatable = all(one.repeatable for one in inputs)
        self.files = tuple(one.path for one in inputs if isinstance(one, InputFile))

    def estimate_rows(self) -> int | None:
        return estimate_lines(self._inputs, quoted=self._quoted)

    def _line_blocks(self) -> Iterator[tuple[str, int, list[bytes]]]:
        """Yield the lines of all inputs as `line_blocks` does, with the name of their input."""
        for one in self._inputs:
            with one.open() as file:
                for first, lines in line_blocks(file):
                    yield one.name, first, lines

    def fingerprint(self) -> dict[str, Any] | None:
        # Stdin has no fingerprint, so neither has a source that reads it.
        if not self.repeatable:
            return None
        return {"format": self._format, "files": list(map(fingerprint.of_file, self.files)), **self._selection}


class TextSource(LineSource):
    r"""The lines of texts without their ends, which are ``\n`` or ``\r\n``.

    An empty line is a row like any other, so that row i is line i + 1 of the (first) text.

    Raises:
        InputError: columns were named, which lines do not have; while reading: a line is not UTF-8.
    """

    _format = "txt"

    def __init__(self, inputs: Sequence[ByteInput], columns: ColumnOptions) -> None:
        require_unnamed(columns, f"{inputs[0].name} is read as lines of text, which have no names")
        super().__init__(inputs)

    def blocks(self) -> Iterator[Block]:
        for name, first, lines in self._line_blocks():
            yield Block([decode_line(line.removesuffix(b"\r"), name, i) for i, line in enumerate(lines, first)])


def line_blocks(file: IO[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines of a file without their newlines, a block at a time, with the number of the first (from 1).

    A byte order mark at the beginning is dropped. Bytes after the last newline are a line too.
    """
    number = 1
    incomplete: list[bytes] = []
    at_start = True
    # read1 returns the bytes that are there: rows that a program writes to a pipe are sent as they come.
    while piece := file.read1(base.BLOCK_BYTES):  # type: ignore[attr-defined] # IO has no read1
        incomplete.append(piece)
        if b"\n" not in piece:
            continue
        *lines, rest = b"".join(incomplete).split(b"\n")
        # A long line comes in several pieces, which are joined once: repeated concatenation takes quadratic time.
        incomplete = [rest] if rest else []
        if at_start:
            lines[0] = lines[0].removeprefix(_BOM)
            at_start = False
        yield number, lines
        number += len(lines)
    last = b"".join(incomplete)
    if at_start:
        last = last.removeprefix(_BOM)
    if last:
        yield number, [last]


def decode_line(line: bytes, name: str, number: int) -> str:
    """Return a line as text. Raises `InputError` naming the input and the line's number if it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name}, line {number}: not UTF-8; convert the file first", key="input.path") from None


def estimate_lines(inputs: Sequence[ByteInput], *, quoted: bool = False) -> int | None:
    """Return the number of lines of plain files, extrapolated for large ones; None for other inputs.

    Line breaks inside quotes are not counted if values may be ``quoted``.
    """
    # The size of a compressed file does not show how many lines it has.
    paths = [one.path for one in inputs if isinstance(one, InputFile) and not one.is_compressed]
    if len(paths) < len(inputs):
        return None
    lines = n_read = 0
    most = _COUNTED_REMOTE_BYTES if any(isinstance(path, RemoteFile) for path in paths) else _COUNTED_BYTES
    try:
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            with path.open("rb") as file:
                in_quotes, last = False, b"\n"
                while n_read < most and (piece := file.read(base.BLOCK_BYTES)):
                    count, in_quotes = _count_newlines(piece, quoted=quoted, in_quotes=in_quotes)
                    lines, n_read, last = lines + count, n_read + len(piece), piece[-1:]
                # Bytes after the last newline are a line too.
                lines += last != b"\n"
    # The number is only for display; reading the rows raises the error with its text.
    except OSError:
        return None
    return lines if n_read >= size else round(lines * size / n_read)


def _count_newlines(piece: bytes, *, quoted: bool, in_quotes: bool) -> tuple[int, bool]:
    """Count the newlines of ``piece`` that are outside quotes; also return whether it ends inside them."""
    # A search for a quote is much quicker than a split, and most pieces have none.
    if not quoted or (not in_quotes and b'"' not in piece):
        return piece.count(b"\n"), False
    parts = piece.split(b'"')
    return sum(part.count(b"\n") for part in parts[in_quotes::2]), in_quotes ^ (len(parts) % 2 == 0)
