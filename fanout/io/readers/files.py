"""Input files: the files that a path, a folder or a pattern names, and several files read as one source."""

from __future__ import annotations

import re
from abc import abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fanout.errors import InputError
from fanout.io import fingerprint
from fanout.io.kept import KEEP, KeptColumns
from fanout.io.readers.base import SeekableSource, slice_block
from fanout.options import nearest
from fanout.rows import count_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fanout.io.kept import Pieces
    from fanout.io.readers.columns import ColumnOptions, ColumnSelection
    from fanout.io.remote import InputPath
    from fanout.types import Block

GZIP = ".gz"

P = TypeVar("P", bound="InputPath")

# Spark and Hive leave such files beside the data: _SUCCESS, _metadata, .part-0.crc.
_HIDDEN = (".", "_")
_PATTERN = re.compile(r"[*?\[]")


class FileSource(SeekableSource):
    """A source of one file.

    Attributes:
        path: the file.
        schema: types and shapes of the rows, for comparison with other files and for messages.
    """

    path: InputPath
    schema: Any
    _format: str
    _selection: ColumnSelection | None = None

    @abstractmethod
    def __init__(self, path: InputPath, columns: ColumnOptions) -> None: ...

    @abstractmethod
    def kept_pieces(self, columns: ColumnOptions) -> tuple[dict[str, Any], Iterator[Pieces]]:
        """Return the type of each of ``columns``, and their pieces, which are read while they are iterated over."""

    def fingerprint(self) -> dict[str, Any]:
        selection = self._selection.as_json() if self._selection else {}
        return {"format": self._format, "file": fingerprint.of_file(self.path), **selection}


class ConcatenatedSource(SeekableSource):
    """The rows of one file after those of another.

    Raises:
        InputError: the files have different schemas.
    """

    def __init__(self, sources: Sequence[FileSource]) -> None:
        self._sources = sources
        self.files = tuple(source.path for source in sources)
        first = sources[0]
        for source in sources[1:]:
            if source.schema != first.schema:
                both = f"{source.path} holds {_listed(source.schema)}, but {first.path} holds {_listed(first.schema)}"
                raise InputError(f"{both}: files that are read as one must agree", key="input.path")
        self.uniform = all(source.uniform for source in sources)
        known = [source.n_rows for source in sources if source.n_rows is not None]
        self.n_rows = sum(known) if len(known) == len(sources) else None

    def blocks_from(self, row: int) -> Iterator[Block]:
        for source in self._sources:
            # Only reading the whole file shows how many of the rows before ``row`` it has.
            skipped = 0 if source.n_rows is None else min(row, source.n_rows)
            row -= skipped
            if skipped == source.n_rows:
                continue
            for block in source.blocks_from(skipped):
                n_rows = count_rows(block.rows)
                if row < n_rows:
                    yield slice_block(block, row, n_rows)
                row = max(0, row - n_rows)

    def keep(self, columns: ColumnOptions) -> KeptColumns:
        first = self._sources[0]
        types = first.kept_pieces(columns)[0]
        for source in self._sources[1:]:
            if (others := source.kept_pieces(columns)[0]) != types:
                both = f"{source.path} holds {_listed(others)}, but {first.path} holds {_listed(types)}"
                raise InputError(f"{both}: files whose columns are kept must agree", key=KEEP)

        def read() -> Iterator[Pieces]:
            for source in self._sources:
                yield from source.kept_pieces(columns)[1]

        has_types = not any(kind is None for kind in types.values())
        return KeptColumns(tuple(types), read, files=self.files, types=types if has_types else None)

    def fingerprint(self) -> dict[str, Any]:
        return {"files": [source.fingerprint() for source in self._sources]}


@contextmanager
def reading(
    path: InputPath, kind: str, *, key: str = "input.path", plain: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Raise `InputError` for every error that occurs while ``path`` is read as ``kind``.

    ``plain`` are the exceptions whose text alone says enough; the name of any other one is added.
    """
    try:
        yield
    except InputError:
        raise
    # A damaged file makes numpy and pyarrow raise nearly anything: SyntaxError, SystemError, MemoryError.
    except Exception as error:  # noqa: BLE001
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}", key="input.path") from None
        reason = " ".join(str(error).split())
        # numpy's message quotes the bytes that it has found, which may be any.
        if "magic string" in reason:
            reason = "it does not begin as one does"
        if not isinstance(error, (*plain, OSError)):
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(f"{path} cannot be read as {kind}: {reason}", key=key) from None


def _listed(schema: Any) -> str:
    if not isinstance(schema, dict):
        return str(schema)
    return ", ".join(f'"{name}": {kind}' for name, kind in schema.items())


def find_files(
    path: Path,
    suffixes: Mapping[str, str],
    format: str | None,  # noqa: A002
    *,
    keep_empty: str = "",
) -> tuple[list[Path], str]:
    """Return the files that ``path`` names, in natural order, and their common format.

    Args:
        path: a file, a folder, or a pattern in which ``**`` stands for any number of folders.
        suffixes: suffix -> format.
        format: the format, if the suffix does not decide.
        keep_empty: a format whose empty files count.

    Raises:
        InputError: there are no files, or they have several formats, or an unknown one.
    """
    try:
        # From Python 3.14 on, `is_dir` and `exists` are False for a path that cannot be looked up.
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.stat()
        if path.is_dir():
            files = _in_folder(path)
        # An existing file comes before a pattern: its name may have a bracket in it.
        elif path.exists():
            _require_regular(path)
            return of_one_format([path], str(path), suffixes, format, keep_empty=keep_empty, named=True)
        elif _PATTERN.search(str(path)):
            files = _matching(path)
        else:
            raise InputError(f"there is no file {path.absolute()}{_nearest(path, suffixes)}", key="input.path")
        for file in files:
            _require_regular(file)
        return of_one_format(files, str(path.absolute()), suffixes, format, keep_empty=keep_empty)
    except OSError as error:  # for instance a name that is too long, or a folder that may not be entered
        raise InputError(f"{path} cannot be read: {error.strerror}", key="input.path") from None


def of_one_format(
    files: list[P],
    name: str,
    suffixes: Mapping[str, str],
    format: str | None,  # noqa: A002
    *,
    keep_empty: str,
    named: bool = False,
) -> tuple[list[P], str]:
    """Return files without the empty ones, and their common format; the parameters are those of `find_files`.

    With ``named``, the only file is the one that the user has named, and may be empty.

    Raises:
        InputError: all are empty, or they have several formats, or an unknown one.
        OSError: the size of one cannot be looked up.
    """
    # An empty part of a dataset is an empty file in some writers, and has no header to read.
    not_empty = files if named else [file for file in files if file.stat().st_size]
    if not not_empty:
        raise InputError(f"{name} has no file in it that is not empty", key="input.path")
    format = format or _common_format(name, not_empty, suffixes)  # noqa: A001
    return files if format == keep_empty else not_empty, format


def folder_of(path: Path) -> Path:
    """Return the folder that all files are in which ``path`` names: a file, a folder, or a pattern."""
    return path if path.is_dir() else path.parent if path.exists() else _beginning(path)[0]


def in_natural_order(paths: Iterable[P]) -> list[P]:
    """Return the paths sorted by the numbers in them: ``part-2`` before ``part-10``."""

    # Each run of digits is compared as a number; -1 puts texts before numbers at the same place.
    def key(part: str) -> list[tuple[int, str]]:
        return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"([0-9]+)", part)]

    return sorted(paths, key=lambda path: ([key(part) for part in path.parts], path.parts))


def _require_regular(path: Path) -> None:
    # Opening a pipe waits for its writer, and a device may have no end; both can be read only once.
    if not path.is_file():
        remedy = 'save the rows in one, or send them through stdin (path "-")'
        raise InputError(f"{path} is not a regular file: {remedy}", key="input.path")


def _in_folder(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(_HIDDEN)]
    if folders := sorted(entry.name for entry in entries if entry.is_dir()):
        listed = ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")
        remedy = f"name the files with a pattern, such as {folder / '**' / '*.parquet'}"
        raise InputError(f"{folder} holds folders too ({listed}): {remedy}", key="input.path")
    return in_natural_order(entries)


def _matching(pattern: Path) -> list[Path]:
    root, parts = _beginning(pattern)
    matches = [
        match
        for match in root.glob("/".join(parts))
        if match.is_file() and not any(part.startswith(_HIDDEN) for part in match.relative_to(root).parts)
    ]
    if not matches:
        raise InputError(f"no file matches {pattern.absolute()}", key="input.path")
    return in_natural_order(matches)


def _beginning(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder in which a pattern begins, and the rest of its parts."""
    root = Path(pattern.anchor)
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    # Folders that exist under their own name are no part of the pattern: one may have a bracket in its name.
    while (root / parts[0]).exists():
        root, parts = root / parts[0], parts[1:]
    return root, parts


def _suffix_of(path: InputPath) -> str:
    """Return the suffix that decides the format; ``.csv.gz`` for a file that gzip has compressed."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + GZIP if suffix == GZIP else suffix


def _format_of(path: InputPath, suffixes: Mapping[str, str]) -> str:
    suffix = _suffix_of(path)
    if suffix not in suffixes:
        problem = f"{suffix} is not the suffix of a known format" if suffix else "its name has no suffix"
        remedy = f"known are {', '.join(suffixes)}, or set format"
        raise InputError(f"{path.name}: {problem}; {remedy}", key="input.path")
    return suffixes[suffix]


def _common_format(name: str, files: Sequence[InputPath], suffixes: Mapping[str, str]) -> str:
    formats: dict[str, InputPath] = {}
    for file in files:
        formats.setdefault(suffixes.get(_suffix_of(file), "unknown"), file)
    if len(formats) == 1:
        return _format_of(files[0], suffixes)
    examples = ", ".join(f"{one} ({file.name})" for one, file in formats.items())
    remedy = f"choose one with a pattern, such as {files[0].with_name('*' + _suffix_of(files[0]))}"
    raise InputError(f"{name} holds files of several formats: {examples}; {remedy}", key="input.path")


def _nearest(path: Path, suffixes: Mapping[str, str]) -> str:
    """Return the end of a message about a missing file: the file beside it with the most similar name."""
    try:
        neighbours = [entry.name for entry in path.absolute().parent.iterdir() if _suffix_of(entry) in suffixes]
    except OSError:
        return ", nor its folder"
    near = nearest(path.name, neighbours)
    return f'; did you mean "{path.with_name(near)}"?' if near else ""
