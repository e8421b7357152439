"""Open a file of rows, in any of the formats."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanout.addresses import Storage
from fanout.errors import InputError
from fanout.frames import VALUE
from fanout.io.kept import KEEP, KeptColumns
from fanout.io.readers.arrow_files import ArrowFileSource, ParquetSource
from fanout.io.readers.base import ConcatenatedSource, FileSource
from fanout.io.readers.columns import ColumnOptions
from fanout.io.readers.csv import CsvSource
from fanout.io.readers.file_contents import FileCellsSource, FileOptions, FileReader, FolderSource, remote_contents
from fanout.io.readers.finding import FILES, LINE_FORMATS, find, folder_of
from fanout.io.readers.jsonl import JsonLinesSource
from fanout.io.readers.lines import ByteInput, InputFile, Stdin, TextSource
from fanout.io.readers.npy import NpySource, NpzSource
from fanout.io.remote.file import RemoteFile, shown_path
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from fanout.io.kept import Pieces
    from fanout.io.readers.base import Source
    from fanout.io.remote.file import InputPath

_STDIN = "-"

# A new format is a module with a source, a line here, its suffix in `finding`, and its name in the job file's
# `input.format`. The files of the first are opened one by one: they have a header to compare, and can be read from any
# row.
_FILE_FORMATS: dict[str, Callable[[InputPath, ColumnOptions], FileSource]] = {
    "npy": NpySource,
    "npz": NpzSource,
    "parquet": ParquetSource,
    "arrow": ArrowFileSource,
}
_LINE_FORMATS: dict[str, Callable[[Sequence[ByteInput], ColumnOptions], Source]] = {
    "jsonl": JsonLinesSource,
    "csv": CsvSource,
    "tsv": partial(CsvSource, delimiter="\t"),
    "txt": TextSource,
}


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
    files: str | Sequence[str] | None = None,
    files_root: Path | str | None = None,
    fetch_hosts: Sequence[str] = (),
    fetch_timeout: float = 30.0,
    file_max_bytes: int = 32 * 2**20,
    keep: Sequence[str] | str | None = None,
    storage: Storage | None = None,
) -> Source:
    """Open the rows of a file, of all files in a folder, of the files that a pattern matches, or of stdin.

    A URL stands for a remote file. It is read by ranges as rows are needed, all of one version: if the file changes
    meanwhile, reading raises `InputError`.

    Args:
        path: a file, a folder, a pattern (``data/*.parquet``, ``**`` for any number of folders), or ``-`` for stdin; or
            the URL of an object, a folder or a pattern (``s3://bucket/data/*.parquet``, ``gs://``, ``az://``; these
            need the extra ``cloud``), or of a file of a web server (``https://``).
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
        format: ``npy``, ``npz``, ``parquet``, ``arrow``, ``jsonl``, ``csv``, ``tsv`` or ``txt``, instead of the suffix;
            or ``files``, as for images, audio and PDF: each file is a row, whose columns are ``file`` (its bytes) and
            ``name`` (its path below the folder, also the id). Without ``column`` and ``columns`` a row is the bytes.
        files: name of the column, or of several, with paths or URLs of files: rows have their bytes. A row whose file
            cannot be read fails alone.
        files_root: folder in which these paths begin, and below which the files have to be once links are resolved; the
            working folder if not given. For the format ``files``, the folder of the input.
        fetch_hosts: hosts from which URLs are fetched (``images.example.com``, ``*.example.com``, ``10.0.0.7:8080``).
            Other URLs of public hosts are passed on to the model as texts.
        fetch_timeout: seconds for one URL.
        file_max_bytes: largest file.
        keep: columns, names or patterns, that the output of `Client.run` has beside the answers; ``"*"`` for all but
            those of ``id``. They are read once more when the output is put together.
        storage: access to remote files, where the environment does not give it.

    Raises:
        InputError: the input or a column of it cannot be used; its ``key`` is that of the job file, for instance
            ``"input.path"`` or ``"input.columns"``.
    """
    known = [*_FILE_FORMATS, *LINE_FORMATS, FILES]
    if format is not None and format not in known:
        raise InputError(f'format must be one of {", ".join(known)}, not "{format}"', key="input.format")
    options = ColumnOptions(
        column=column,
        columns=None if columns is None else tuple(dict.fromkeys(columns)),
        rename=rename or {},
        vector=as_vector,
        id=id if isinstance(id, str | None) else tuple(dict.fromkeys(id)),
        # Sorted, so that the fingerprint of the input does not depend on the order in a set.
        needed=tuple(sorted(needed)),
    )
    file_options = FileOptions(
        columns=_names_of(files),
        root=None if files_root is None else Path(files_root),
        fetch_hosts=tuple(fetch_hosts),
        fetch_timeout=fetch_timeout,
        max_bytes=file_max_bytes,
    )
    if str(path) == _STDIN:
        source = _open_stdin(options, format)
    else:
        source = _open(path, options, format, file_options, storage or Storage())
    # Before the cells become files: an output keeps the names of files, not their bytes.
    kept = None if keep is None else _kept(source, keep, options)
    if file_options.columns:
        source = FileCellsSource(source, file_options)
    source.kept = kept
    return source


def open_columns(
    path: Path | str,
    column: str | None = None,
    *,
    format: str | None = None,  # noqa: A002
    storage: Storage | None = None,
) -> tuple[Source, KeptColumns]:
    """Open an input, and all of its columns by their names; the parameters are those of `open_source`.

    One without names has its rows, or those of ``column``, in a column called `VALUE`. Raises `InputError`.
    """
    try:
        source = open_source(path, columns=["*"], format=format, keep="*", storage=storage)
        assert source.kept is not None
        return source, source.kept
    except InputError:
        source = open_source(path, column, format=format, storage=storage)

        def read() -> Iterator[Pieces]:
            for block in source.blocks():
                yield {VALUE: block.rows if isinstance(block.rows, np.ndarray) else list(block.rows)}

        return source, KeptColumns((VALUE,), read, files=source.files)


def _names_of(files: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if files is None else (files,) if isinstance(files, str) else tuple(dict.fromkeys(files))


def _open(
    path: Path | str,
    options: ColumnOptions,
    format: str | None,  # noqa: A002
    file_options: FileOptions,
    storage: Storage,
) -> Source:
    files, format = find(path, format, storage)  # noqa: A001
    if format == FILES:
        return _open_folder(path, files, options, file_options)
    # Each source opens its file to check the header, before a request is sent.
    try:
        if format in LINE_FORMATS:
            return _LINE_FORMATS[format]([InputFile(file) for file in files], options)
        return ConcatenatedSource([_FILE_FORMATS[format](file, options) for file in files])
    except OSError as error:
        raise InputError(f"{shown_path(path)} cannot be read: {error.strerror or error}", key="input.path") from None


def _open_folder(
    path: Path | str, files: Sequence[InputPath], options: ColumnOptions, file_options: FileOptions
) -> Source:
    if file_options.columns:
        raise InputError("the rows are files themselves: leave files out", key="input.files")
    if remote := {file.below: file for file in files if isinstance(file, RemoteFile)}:
        read = partial(remote_contents, remote, file_options.max_bytes)
        return FolderSource(remote, shown_path(path), read, options)
    folder = folder_of(Path(path))
    local = {file.relative_to(folder).as_posix(): file for file in files if isinstance(file, Path)}
    reader = FileReader(folder, file_options.root or folder, None, file_options.max_bytes)
    return FolderSource(local, str(folder), reader.read, options)


def _kept(source: Source, keep: Sequence[str] | str, options: ColumnOptions) -> KeptColumns:
    columns = (keep,) if isinstance(keep, str) else tuple(dict.fromkeys(keep))
    if not columns:
        raise InputError("keep is an empty list: leave it out", key=KEEP)
    if not source.repeatable:
        problem = "stdin can be read only once, so its columns cannot be kept: save the rows to a file"
        raise InputError(problem, key=KEEP)
    try:
        return source.keep(ColumnOptions(columns=columns, id=options.id))
    except InputError as error:
        # The columns are named by another key here than in the messages about those of the rows.
        raise InputError(str(error), key=KEEP) from None


def _open_stdin(options: ColumnOptions, format: str | None) -> Source:  # noqa: A002
    # The other formats have to be read from any place, which a pipe cannot.
    if format not in LINE_FORMATS:
        problem = "has no suffix" if format is None else f"cannot be read as {format}"
        raise InputError(f"stdin {problem}: set format to {', '.join(LINE_FORMATS)}", key="input.format")
    return _LINE_FORMATS[format]([Stdin()], options)
