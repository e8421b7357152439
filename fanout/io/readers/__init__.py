"""Sources of rows: files in several formats with `open_source`, and tables in memory with `as_source`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fanout.errors import InputError
from fanout.io.readers.arrow_files import ArrowFileSource, ParquetSource
from fanout.io.readers.base import BLOCK_BYTES, Source
from fanout.io.readers.columns import ColumnOptions
from fanout.io.readers.csv import CsvSource
from fanout.io.readers.files import GZIP, ConcatenatedSource, FileSource, find_files
from fanout.io.readers.jsonl import JsonLinesSource
from fanout.io.readers.lines import ByteInput, InputFile, Stdin, TextSource
from fanout.io.readers.npy import NpySource, NpzSource
from fanout.io.readers.tables import as_source
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["BLOCK_BYTES", "Source", "as_source", "open_source"]

_STDIN = "-"


class _FileFormat(NamedTuple):
    """A format whose files are opened one by one: they have a header to compare, and can be read from any row."""

    suffixes: tuple[str, ...]
    open: Callable[[Path, ColumnOptions], FileSource]


class _LineFormat(NamedTuple):
    """A format of lines, which may be compressed, come from stdin, and go on from one file to the next."""

    suffixes: tuple[str, ...]
    open: Callable[[Sequence[ByteInput], ColumnOptions], Source]


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
    column: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    as_vector: bool = False,
    id: str | Sequence[str] | None = None,  # noqa: A002 - the name it has for users
    format: str | None = None,  # noqa: A002
    needed: Collection[str] = (),
) -> Source:
    """Open the rows of a file, of all files in a folder, of the files that a pattern matches, or of stdin.

    Args:
        path: a file, a folder, a pattern (``data/*.parquet``, ``**`` for any number of folders), or ``-`` for stdin.
            Several files have one format and are read in natural order (``part-2`` before ``part-10``). Hidden files,
            names that begin with ``_``, and empty files are passed over.
        column: name of the array, column or field whose values are the rows (in JSON lines also a JSON pointer, in
            Parquet and Arrow a field of a struct with a dot). It can be left out if the file holds exactly one, and for
            JSON lines, whose rows are then the whole values.
        columns: names, or patterns such as ``f*``, of several: a row maps their names to their values. A pattern
            matches in the order of the file and passes over the columns of ``id``.
        rename: column -> its name in such a row; in JSON lines without ``columns``, field -> its name in the object.
        as_vector: make a row a list of numbers, one for each of ``columns``.
        id: name of the column with the rows' ids, texts or integers; or names of several, whose values by name
            (``{"order": 7, "line": 2}``) are a row's id.
        needed: columns to read if neither ``column`` nor ``columns`` is given and the file has columns, as those that a
            codec takes (`Codec.columns`). In JSON lines a row stays the whole value.
        format: ``npy``, ``npz``, ``parquet``, ``arrow``, ``jsonl``, ``csv``, ``tsv`` or ``txt``, instead of the suffix.

    Raises:
        InputError: the input or a column of it cannot be used; its ``key`` is that of the job file, for instance
            ``"input.path"`` or ``"input.columns"``.
    """
    known = [*_FILE_FORMATS, *_LINE_FORMATS]
    if format is not None and format not in known:
        raise InputError(f'format must be one of {", ".join(known)}, not "{format}"', key="input.format")
    options = ColumnOptions(
        column=column,
        columns=None if columns is None else tuple(dict.fromkeys(columns)),
        rename=rename or {},
        vector=as_vector,
        id=id if isinstance(id, str | None) else tuple(dict.fromkeys(id)),
        needed=tuple(sorted(needed)),
    )
    if str(path) == _STDIN:
        return _open_stdin(options, format)
    files, format = find_files(Path(path), _SUFFIXES, format)  # noqa: A001
    # Each source opens its file to check the header, before a request is sent.
    try:
        if format in _LINE_FORMATS:
            return _LINE_FORMATS[format].open([InputFile(file) for file in files], options)
        sources = [_FILE_FORMATS[format].open(file, options) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}", key="input.path") from None
    return ConcatenatedSource(sources)


def _open_stdin(options: ColumnOptions, format: str | None) -> Source:  # noqa: A002
    # The other formats have to be read from any place, which a pipe cannot.
    if format not in _LINE_FORMATS:
        problem = "has no suffix" if format is None else f"cannot be read as {format}"
        raise InputError(f"stdin {problem}: set format to {', '.join(_LINE_FORMATS)}", key="input.format")
    return _LINE_FORMATS[format].open([Stdin()], options)
