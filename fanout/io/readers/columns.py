"""Columns of a table: the options that name them, and the selection from the names in a file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from fanout._lazy import pattern
from fanout.errors import InputError
from fanout.io.readers.rows import check_ids, rows_from_columns, vectors
from fanout.options import did_you_mean
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fanout.io.readers.rows import Column
    from fanout.types import Rows

_PATTERN = pattern(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOptions:
    """The columns that a user names, and the form of the rows that are made of them.

    Attributes:
        column: the one column whose values are the rows.
        columns: names or patterns (``f*``) of several columns.
        rename: column -> its name in the rows.
        vector: True if a row is the list of its columns' numbers instead of a mapping by name.
        id: the column of the rows' ids, or several whose values are an id together.
        needed: columns to read by name if neither ``column`` nor ``columns`` is given, where the input has columns.

    Raises:
        InputError: the options contradict each other.
    """

    column: str | None = None
    columns: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    vector: bool = False
    id: str | tuple[str, ...] | None = None
    needed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.column, str | None):
            raise InputError(f"column is one name, not {self.column!r}; give several in columns", key="input.column")
        if self.column is not None and self.columns is not None:
            raise InputError("column makes rows of bare values, columns of several: give one", key="input.columns")
        if self.columns is not None and not self.columns:
            raise InputError("columns is an empty list", key="input.columns")
        if self.id is not None and not self.id and not isinstance(self.id, str):
            raise InputError("id is an empty list: leave it out", key="input.id")
        if self.vector and self.columns is None:
            problem = "a vector is made of several columns: name them in columns, by patterns such as f*"
            raise InputError(problem, key="input.as")
        # A name that is nowhere used would hide a misunderstanding of the rows' form.
        if self.rename and (self.vector or self.column is not None):
            row = "a vector" if self.vector else "a row that is the value of one column"
            raise InputError(f"{row} has no names; leave rename out", key="input.rename")

    @property
    def ids(self) -> tuple[str, ...]:
        """The columns of the ids."""
        return () if self.id is None else (self.id,) if isinstance(self.id, str) else self.id

    def as_json(self) -> dict[str, Any]:
        columns = None if self.columns is None else list(self.columns)
        row = {"column": self.column, "columns": columns, "rename": dict(self.rename), "vector": self.vector}
        return {**row, "id": self.id if isinstance(self.id, str | None) else list(self.id)}


@dataclass(frozen=True, slots=True)
class ColumnSelection:
    """The columns to read, once the names in the file are known.

    Attributes:
        names: columns of the rows.
        options: the options that selected them.
    """

    names: tuple[str, ...]
    options: ColumnOptions

    @property
    def all(self) -> tuple[str, ...]:
        """The columns of the rows and of the ids, each once."""
        return tuple(dict.fromkeys([*self.names, *self.options.ids]))

    def block(self, columns: Mapping[str, Column], file: str, first_row: int) -> Block:
        """Return the rows and ids that some rows of all columns make.

        Raises:
            InputError: an id that is unusable, or a value that no vector can hold.
        """
        return Block(self.rows(columns, file, first_row), self.ids(columns, file, first_row))

    def ids(self, columns: Mapping[str, Column], file: str, first_row: int) -> list[Any] | None:
        """Return the rows' ids; a mapping by name if several columns make an id. None without ids."""
        if self.options.id is None:
            return None
        checked = {name: check_ids(columns[name], name, file, first_row) for name in self.options.ids}
        if isinstance(self.options.id, str):
            return checked[self.options.id]
        return [dict(zip(checked, values, strict=True)) for values in zip(*checked.values(), strict=True)]

    def rows(self, columns: Mapping[str, Column], file: str, first_row: int) -> Rows:
        """Return the rows without their ids."""
        selected = {name: columns[name] for name in self.names}
        if self.options.vector:
            return vectors(selected, file, first_row)
        renamed = {self.options.rename.get(name, name): column for name, column in selected.items()}
        return rows_from_columns(renamed, bare=self.options.columns is None)

    def as_json(self) -> dict[str, Any]:
        return {**self.options.as_json(), "columns": list(self.names)}


def require_unnamed(options: ColumnOptions, subject: str) -> None:
    """Raise `InputError` if columns are named in an input that has none; ``subject`` says so."""
    for key, value in (("column", options.column), ("columns", options.columns), ("id", options.id)):
        if value is not None:
            raise InputError(f"{subject}: leave {key} out", key=f"input.{key}")
    if options.rename:
        raise InputError(f"{subject}: leave rename out", key="input.rename")


def select_columns(
    names: Sequence[str],
    options: ColumnOptions,
    *,
    file: str,
    noun: str = "column",
    nested: Collection[str] = (),
) -> ColumnSelection:
    """Return the selection from a file that has the columns ``names``, and fields of them called ``nested``.

    Raises:
        InputError: a column does not exist or is ambiguous, or none was named and there are several.
    """
    known = [*names, *nested]

    def require(name: str, key: str) -> None:
        # A file may repeat a name, and the first column would be as likely to be wrong as the second.
        if known.count(name) > 1:
            raise InputError(f'{file} has {known.count(name)} {noun}s "{name}": rename all but one', key=key)
        if name not in known:
            raise InputError(f'{file} has no {noun} "{name}"; {suggestion(name, known, "it holds", names)}', key=key)

    options = _with_needed(options, known)
    for name in options.ids:
        require(name, "input.id")
    if options.columns is not None:
        selected = expand_patterns(options.columns, names, options.ids, file, noun)
        for name in selected:
            require(name, "input.columns")
        require_renamable(options.rename, selected, file)
        return ColumnSelection(selected, options)
    if options.rename:
        # Alone, a column makes rows of bare values, which have no names to change.
        problem = 'rename needs columns: name them, or take all with columns = ["*"]'
        raise InputError(problem, key="input.rename")
    if options.column is not None:
        require(options.column, "input.column")
        return ColumnSelection((options.column,), options)
    # The column of the ids is not an input, unless it is named as one.
    rest = [name for name in names if name not in options.ids]
    if len(rest) != 1:
        number = f"{len(rest)} {noun}s" + (" beside the ids" if set(options.ids) & set(names) else "")
        remedy = f"name the one to read ({_listed(rest)}), or several in columns"
        raise InputError(f"{file} holds {number}: {remedy}", key="input.column")
    return ColumnSelection((rest[0],), options)


def _with_needed(options: ColumnOptions, known: Collection[str]) -> ColumnOptions:
    """Return the options with the needed columns, if they name none."""
    if not options.needed or options.column is not None or options.columns is not None:
        return options
    # A dotted name may be a place inside the value of a column.
    wanted = dict.fromkeys(name if name in known else name.partition(".")[0] for name in options.needed)
    return replace(options, columns=tuple(wanted))


def expand_patterns(
    columns: Sequence[str], names: Sequence[str], ids: Sequence[str], file: str, noun: str = "column"
) -> tuple[str, ...]:
    """Return ``columns`` with each pattern replaced by the ``names`` that it matches, in their order, each once.

    A pattern passes over the columns of the ids. A text that is a name is no pattern.

    Raises:
        InputError: a pattern matches no name.
    """
    expanded: dict[str, None] = {}
    for column in columns:
        # A name may hold a bracket or a star itself.
        if column in names or not _PATTERN.search(column):
            expanded[column] = None
            continue
        matches = [name for name in names if fnmatchcase(name, column) and name not in ids]
        if not matches:
            problem = f'{file} has no {noun} that "{column}" matches; it holds {_listed(names)}'
            raise InputError(problem, key="input.columns")
        expanded.update(dict.fromkeys(matches))
    return tuple(expanded)


def require_renamable(rename: Mapping[str, str], selected: Sequence[str], file: str) -> None:
    """Raise `InputError` if a renamed column is not selected, or two columns would have one name."""
    for name in rename:
        if name not in selected:
            problem = f'"{name}" is not among the columns of the rows in {file}'
            raise InputError(f"{problem}; {suggestion(name, selected, 'they are')}", key="input.rename")
    # A name may also collide with one that is not renamed.
    labels = [rename.get(name, name) for name in selected]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f'two columns of {file} would be called "{label}"', key="input.rename")


def suggestion(name: str, known: Sequence[str], statement: str, listed: Sequence[str] | None = None) -> str:
    """Return the end of a message about an unknown name: the nearest known one, and ``statement`` with a list."""
    text = f"{statement} {_listed(known if listed is None else listed)}"
    hint = did_you_mean(name, known, 'did you mean "{}"? ')
    return f"{hint}{text[0].upper()}{text[1:]}" if hint else text


def _listed(names: Sequence[str], most: int = 30) -> str:
    text = ", ".join(f'"{name}"' for name in names[:most]) or "none"
    return text if len(names) <= most else f"{text}, and {len(names) - most} more"
