"""An output of any format as rows in blocks: its answers by column, its ids, and which rows have an answer."""

from __future__ import annotations

from glob import escape
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import numpy as np
import orjson

from fanout.arrow import as_text
from fanout.errors import ConfigError, InputError
from fanout.frames import ERROR, VALUE
from fanout.io.readers.opening import open_columns, open_source
from fanout.paths import report_paths
from fanout.rows import count_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.arrow import Piece
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
        self._open: Callable[[], Iterator[tuple[Columns, Array | None]]]
        self.names: list[str] = []
        if path.suffix == _NPY:
            self._open_arrays()
        else:
            self._open_columns()

    def rows(self, columns: Mapping[str, str], id_column: str | None) -> Iterator[Rows]:
        """Yield all rows in order, in blocks of bounded size.

        ``columns`` are those to read: name in the rows -> column. Raises `InputError` for a damaged file.
        """
        for block, mask in self._open():
            chosen = {named: block[name] for named, name in columns.items()}
            ids = None if id_column is None else [as_text(one) or "" for one in _as_list(block[id_column])]
            yield Rows(chosen, ids, self._answered(block) if mask is None else mask)

    def _answered(self, block: Columns) -> Array:
        """Return the mask of rows that have an answer."""
        if ERROR in block:
            # CSV writes a missing reason as an empty text.
            return np.array([reason in (None, "") for reason in block[ERROR]], bool)
        # Bare JSON lines have no reasons: a row without an answer is null.
        if self.names == [VALUE] and isinstance(block[VALUE], list):
            return np.array([value is not None for value in block[VALUE]], bool)
        return np.ones(count_rows(next(iter(block.values()))), bool)

    def _open_arrays(self) -> None:
        """Find the array of a single output, or those of several."""
        mask = report_paths(self.path)[0]
        if self.path.exists():
            files = {VALUE: self.path}
        else:
            beside = sorted(self.path.parent.glob(f"{escape(self.path.name)}.*{_NPY}"))
            cut = slice(len(self.path.name) + 1, -len(_NPY))
            # Names of outputs are quoted as in a URL, as `fanout.paths` writes them.
            files = {unquote(one.name[cut]): one for one in beside if one != mask}
        if not files:
            raise ConfigError(f"{self.path} does not exist")
        self.names = list(files)

        def read() -> Iterator[tuple[Columns, Array | None]]:
            # A complete run in which every row has an answer writes no mask.
            for arrays in _in_step([*files.values(), *([mask] if mask.exists() else [])]):
                mask_of = arrays[len(files)].astype(bool) if len(arrays) > len(files) else None
                yield dict(zip(files, arrays, strict=False)), mask_of

        self._open = read

    def _open_columns(self) -> None:
        columns = open_columns(self.path)[1]
        self.names = list(columns.names)
        self._open = lambda: (({name: _column(one) for name, one in block.items()}, None) for block in columns.pieces())


def _in_step(files: Sequence[Path]) -> Iterator[list[Array]]:
    """Yield the rows of several arrays side by side, in blocks of bounded size. Raises `InputError`."""
    sources = [open_source(file) for file in files]
    if len({source.n_rows for source in sources}) > 1:
        raise InputError("the files of one output have different numbers of rows")
    # Rows of the arrays differ in size: all have as many in a block as the one with the largest rows.
    step = min((count_rows(block.rows) for source in sources for block in islice(source.blocks(), 1)), default=1)
    for start in range(0, sources[0].n_rows or 0, step):
        parts = [source.sliced(slice(start, start + step)) for source in sources]
        yield [np.concatenate([np.asarray(block.rows) for block in part.blocks()]) for part in parts]


def json_cell(value: Any) -> Any:
    """Return the value that a text stands for in a format without types: a list, a number or a bool; else the text."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _column(piece: Piece) -> Column:
    if isinstance(piece, list | np.ndarray):
        return piece
    # A piece of Arrow, whose library is imported then.
    from fanout.io.readers.arrow import values

    column: Column = values(piece)
    return column


def _as_list(column: Column) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column
