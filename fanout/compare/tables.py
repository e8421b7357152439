"""An output of any format as rows in blocks: its answers by column, its ids, and which rows have an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import numpy as np
import orjson

from fanout.errors import ConfigError, InputError
from fanout.frames import ERROR, VALUE
from fanout.io.arrow import as_text
from fanout.io.readers.opening import open_columns, open_source
from fanout.paths import report_paths
from fanout.rows import count_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.io.arrow import Piece
    from fanout.types import Array

Column: TypeAlias = "Array | list[Any]"
"""Values of one column: an array of numbers, or a list in which None stands for a missing value."""

Columns: TypeAlias = "Mapping[str, Column]"

ID = "id"
_NPY = ".npy"


class Rows(NamedTuple):
    """Consecutive rows of an output.

    Attributes:
        columns: values by column.
        ids: as texts; None if rows are matched by their position.
        ok: the rows that have an answer; shape (rows,), bool.
    """

    columns: dict[str, Column]
    ids: list[str] | None
    ok: Array

    def part(self, rows: slice | Array) -> Rows:
        """Return the rows of a slice, or at some positions."""
        columns = {name: _part(column, rows) for name, column in self.columns.items()}
        return Rows(columns, None if self.ids is None else _part(self.ids, rows), self.ok[rows])


def _part(column: Any, rows: slice | Array) -> Any:
    if isinstance(column, list) and not isinstance(rows, slice):
        return [column[i] for i in rows.tolist()]
    return column[rows]


class Table:
    """One output.

    Args:
        path: the file. For several outputs in ``.npy`` files, the name that is common to all.

    Attributes:
        names: all columns.

    Raises:
        ConfigError: it cannot be read, or its suffix is not that of an output.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: Callable[[], Iterator[Columns]]
        self._mask: Path | None = None
        self.names: list[str] = []
        if path.suffix == _NPY:
            self._open_arrays()
        else:
            self._open_columns()

    def rows(self, columns: Mapping[str, str], id_column: str | None) -> Iterator[Rows]:
        """Yield all rows in order, in blocks of bounded size.

        ``columns`` are those to read: name in the rows -> column. Raises `InputError` for a damaged file.
        """
        # The mask is an array of its own, whose blocks have another length than those of the answers.
        masks = RowStream(iter(()) if self._mask is None else _blocks_of(self._mask, ERROR))
        for block in self._open():
            n_rows = count_rows(next(iter(block.values())))
            chosen = {named: block[name] for named, name in columns.items()}
            if self._mask is not None:
                ok = np.asarray(masks.take(n_rows)[ERROR], bool)
            elif ERROR in block:
                # CSV writes a missing reason as an empty text.
                ok = np.array([reason in (None, "") for reason in block[ERROR]], bool)
            # Bare JSON lines have no reasons: a row without an answer is null.
            elif self.names == [VALUE] and isinstance(block[VALUE], list):
                ok = np.array([value is not None for value in block[VALUE]], bool)
            else:
                ok = np.ones(n_rows, bool)
            ids = None if id_column is None else [as_text(one) or "" for one in _as_list(block[id_column])]
            yield Rows(chosen, ids, ok)

    def _open_arrays(self) -> None:
        """Find the array of a single output, or those of several."""
        mask = report_paths(self.path)[0]
        # A complete run in which every row has an answer writes no mask.
        self._mask = mask if mask.exists() else None
        if self.path.exists():
            files = {VALUE: self.path}
        else:
            beside = sorted(self.path.parent.glob(f"{_literal(self.path.name)}.*{_NPY}"))
            cut = slice(len(self.path.name) + 1, -len(_NPY))
            # Names of outputs are quoted as in a URL, as `fanout.paths` writes them.
            files = {unquote(one.name[cut]): one for one in beside if one != mask}
        if not files:
            raise ConfigError(f"{self.path} does not exist")
        self.names = list(files)
        self._open = lambda: in_step([RowStream(_blocks_of(file, name)) for name, file in files.items()])

    def _open_columns(self) -> None:
        columns = open_columns(self.path)[1]
        self.names = list(columns.names)
        self._open = lambda: ({name: _column(one) for name, one in block.items()} for block in columns.pieces())


class RowStream:
    """Columns that come in blocks of any size, to be taken in blocks of another."""

    def __init__(self, blocks: Iterable[Columns]) -> None:
        self._blocks = iter(blocks)
        self._rest: Columns = {}

    def available(self) -> int:
        """Return how many rows can be taken at once; 0 at the end."""
        while not self._rest or not count_rows(next(iter(self._rest.values()))):
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
        return count_rows(next(iter(self._rest.values())))

    def take(self, n_rows: int) -> dict[str, Column]:
        """Take ``n_rows`` rows. Raises `InputError` if there are fewer."""
        taken: list[dict[str, Column]] = []
        while n_rows:
            length = min(n_rows, self.available())
            if not length:
                raise InputError("the files of one output have different numbers of rows")
            taken.append({name: column[:length] for name, column in self._rest.items()})
            self._rest = {name: column[length:] for name, column in self._rest.items()}
            n_rows -= length
        return taken[0] if len(taken) == 1 else {name: _joined([one[name] for one in taken]) for name in taken[0]}


def in_step(streams: Sequence[RowStream]) -> Iterator[Columns]:
    """Yield the columns of several streams together. Raises `InputError` if one of them ends before the others."""
    while n_rows := max(stream.available() for stream in streams):
        columns: dict[str, Column] = {}
        for stream in streams:
            columns |= stream.take(n_rows)
        yield columns


def json_cell(value: Any) -> Any:
    """Return the value that a text stands for in a format without types: a list, a number or a bool; else the text."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _blocks_of(path: Path, name: str) -> Iterator[Columns]:
    """Yield the rows of an array as one column."""
    for block in open_source(path).blocks():
        yield {name: np.asarray(block.rows)}


def _column(piece: Piece) -> Column:
    if isinstance(piece, list | np.ndarray):
        return piece
    # A piece of Arrow, whose library is imported then.
    from fanout.io.readers.arrow import values

    column: Column = values(piece)
    return column


def _as_list(column: Column) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _joined(columns: Sequence[Column]) -> Column:
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


def _literal(name: str) -> str:
    """Return a pattern that matches ``name`` alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
