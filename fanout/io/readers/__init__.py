"""Sources of rows: files in several formats with `open_source`, and tables in memory with `as_source`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from fanout.errors import InputError
from fanout.io.readers.arrow_files import ArrowFileSource, ParquetSource
from fanout.io.readers.base import BLOCK_BYTES, Source
from fanout.io.readers.csv import CsvSource
from fanout.io.readers.files import GZIP, ConcatenatedSource, FileSource, find_files
from fanout.io.readers.jsonl import JsonLinesSource
from fanout.io.readers.lines import ByteInput, InputFile, Stdin, TextSource
from fanout.io.readers.npy import NpySource, NpzSource
from fanout.io.readers.tables import as_source
from fanout.options import checks_options

__all__ = ["BLOCK_BYTES", "Source", "as_source", "open_source"]

_STDIN = "-"

_Column: TypeAlias = str | Sequence[str] | None


class _FileFormat(NamedTuple):
    """A format whose files are opened one by one: they have a header to compare, and can be read from any row."""

    suffixes: tuple[str, ...]
    open: Callable[[Path, _Column, str | None], FileSource]


class _LineFormat(NamedTuple):
    """A format of lines, which may be compressed, come from stdin, and go on from one file to the next."""

    suffixes: tuple[str, ...]
    open: Callable[[Sequence[ByteInput], _Column, str | None], Source]


# A new format is a module with a source, a line here, and its name in the job file's `input.format`.
_FILE_FORMATS = {
    "npy": _FileFormat((".npy",), NpySource),
    "npz": _FileFormat((".npz",), NpzSource),
    "parquet": _FileFormat((".parquet", ".pq"), ParquetSource),
    "arrow": _FileFormat((".arrow", ".feather", ".ipc"), ArrowFileSource),
}
_LINE_FORMATS = {
    "jsonl": _LineFormat((".jsonl", ".ndjson"), JsonLinesSource),
    "csv": _LineFormat((".csv",), CsvSource),
    "tsv": _LineFormat((".tsv",), partial(CsvSource, delimiter="\t")),
    "txt": _LineFormat((".txt",), TextSource),
}
_SUFFIXES = {suffix: name for name, one in _FILE_FORMATS.items() for suffix in one.suffixes}
_SUFFIXES |= {suffix: name for name, one in _LINE_FORMATS.items() for suffix in one.suffixes}
_SUFFIXES |= {suffix + GZIP: name for name, one in _LINE_FORMATS.items() for suffix in one.suffixes}


@checks_options
def open_source(
    path: Path | str,
    column: str | Sequence[str] | None = None,
    *,
    id: str | None = None,  # noqa: A002 - the name it has for users
    format: str | None = None,  # noqa: A002
) -> Source:
    """Open the rows of a file, of all files in a folder, of the files that a pattern matches, or of stdin.

    Args:
        path: a file, a folder, a pattern (``data/*.parquet``, ``**`` for any number of folders), or ``-`` for stdin.
            Several files have one format and are read in natural order (``part-2`` before ``part-10``). Hidden files,
            names that begin with ``_``, and empty files are passed over.
        column: name of the array, column or field to read (in JSON lines also a JSON pointer, in Parquet and Arrow a
            field of a struct with a dot), or a list of names for several inputs a row. It can be left out if the file
            holds exactly one, and for JSON lines, whose rows are then the whole values.
        id: name of the column with the rows' ids, texts or integers.
        format: ``npy``, ``npz``, ``parquet``, ``arrow``, ``jsonl``, ``csv``, ``tsv`` or ``txt``, instead of the suffix.

    Raises:
        InputError: the input or a column of it cannot be used; its ``key`` is ``"input.path"``, ``"input.column"``,
            ``"input.id"`` or ``"input.format"``.
    """
    known = [*_FILE_FORMATS, *_LINE_FORMATS]
    if format is not None and format not in known:
        raise InputError(f'format must be one of {", ".join(known)}, not "{format}"', key="input.format")
    if str(path) == _STDIN:
        return _open_stdin(column, id, format)
    files, format = find_files(Path(path), _SUFFIXES, format)  # noqa: A001
    # Each source opens its file to check the header, before a request is sent.
    try:
        if format in _LINE_FORMATS:
            return _LINE_FORMATS[format].open([InputFile(file) for file in files], column, id)
        sources = [_FILE_FORMATS[format].open(file, column, id) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", key="input.path") from None
    return ConcatenatedSource(sources)


def _open_stdin(column: _Column, id: str | None, format: str | None) -> Source:  # noqa: A002
    # The other formats have to be read from any place, which a pipe cannot.
    if format not in _LINE_FORMATS:
        problem = "has no suffix" if format is None else f"cannot be read as {format}"
        raise InputError(f"stdin {problem}: set format to {', '.join(_LINE_FORMATS)}", key="input.format")
    return _LINE_FORMATS[format].open([Stdin()], column, id)
