"""Where rows come from: files, one format a module, with `open_source`; tables in memory, with `as_source`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from fanout.errors import InputError
from fanout.io.readers.base import BLOCK_BYTES, Source
from fanout.io.readers.concatenated import Concatenated, FileSource
from fanout.io.readers.csv import CsvSource
from fanout.io.readers.files import found
from fanout.io.readers.ipc import ArrowFileSource
from fanout.io.readers.jsonl import JsonLinesSource
from fanout.io.readers.npy import NpySource
from fanout.io.readers.npz import NpzSource
from fanout.io.readers.objects import as_source
from fanout.io.readers.origins import File, Stdin
from fanout.io.readers.parquet import ParquetSource
from fanout.io.readers.txt import TextSource
from fanout.options import naming_options

__all__ = ["BLOCK_BYTES", "Source", "as_source", "open_source"]

_STDIN = "-"

_Column: TypeAlias = str | Sequence[str] | None
_OpenFile: TypeAlias = Callable[[Path, _Column, str | None], FileSource]
_OpenLines: TypeAlias = Callable[[Sequence[File | Stdin], _Column, str | None], Source]

_FILES: dict[str, _OpenFile] = {
    "npy": NpySource,
    "npz": NpzSource,
    "parquet": ParquetSource,
    "arrow": ArrowFileSource,
}
_LINES: dict[str, _OpenLines] = {
    "jsonl": JsonLinesSource,
    "csv": CsvSource,
    "tsv": partial(CsvSource, delimiter="\t"),
    "txt": TextSource,
}
_SUFFIXES = {
    ".npy": "npy",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".csv.gz": "csv",
    ".tsv.gz": "tsv",
    ".txt.gz": "txt",
}


@naming_options("open_source")
def open_source(
    path: Path | str,
    column: str | Sequence[str] | None = None,
    *,
    id: str | None = None,  # noqa: A002 - the name it has for users
    format: str | None = None,  # noqa: A002
) -> Source:
    """The rows of a file, of all files in a folder, of those that a pattern matches, or of stdin.

    Args:
        path: a file, a folder, a pattern (``data/*.parquet``, ``**`` for any number of folders), or ``-`` for stdin.
            Several files are of one format, and are read in natural order (``part-2`` before ``part-10``). Hidden
            files, those that begin with ``_``, and empty ones are passed over.
        column: name of the array, column or field to read (in JSON lines also a JSON pointer, in Parquet and Arrow a
            field of a struct with a dot), or a list of names for several inputs a row. Not needed where the file holds
            exactly one, nor for JSON lines, whose rows are then the whole values.
        id: name of the column whose texts or integers are the rows' ids.
        format: ``npy``, ``npz``, ``parquet``, ``arrow``, ``jsonl``, ``csv``, ``tsv`` or ``txt``, if not by the suffix.

    Raises:
        InputError: the input or a column of it cannot be used; its ``key`` is ``"input.path"``, ``"input.column"``,
            ``"input.id"`` or ``"input.format"``.
    """
    if format is not None and format not in {*_FILES, *_LINES}:
        raise InputError(f'format must be one of {", ".join([*_FILES, *_LINES])}, not "{format}"', key="input.format")
    if str(path) == _STDIN:
        return _of_stdin(column, id, format)
    files, format = found(Path(path), _SUFFIXES, format)  # noqa: A001
    try:
        if format in _LINES:
            return _LINES[format]([File(file) for file in files], column, id)
        sources = [_FILES[format](file, column, id) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", key="input.path") from None
    return Concatenated(sources)


def _of_stdin(column: _Column, id: str | None, format: str | None) -> Source:  # noqa: A002
    if format not in _LINES:
        given = "has no suffix to tell its format" if format is None else f"cannot be read as {format}"
        raise InputError(f"stdin {given}: set format to {', '.join(_LINES)}", key="input.format")
    return _LINES[format]([Stdin()], column, id)
