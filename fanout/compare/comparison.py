"""`compare_outputs`: the rows and values in which two outputs differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.compare.matching import Unmatched, match
from fanout.compare.tables import ID, Table
from fanout.compare.values import ColumnComparison, Tolerance, plain
from fanout.errors import ConfigError
from fanout.frames import ERROR
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.compare.matching import Pair
    from fanout.types import Array

# The tolerances of numpy.allclose, which users know; but symmetric, since neither output is the reference.
RTOL = 1e-5
ATOL = 1e-8
SHOWN = 10


@dataclass(slots=True)
class DifferentRow:
    """A row in which the outputs differ.

    Attributes:
        row: its id, or its number.
        values: column -> both values; empty if only one side has an answer.
        answered: the sides that have an answer: ``"both"``, ``"a"`` or ``"b"``.
    """

    row: str
    values: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    answered: str = "both"


@dataclass(slots=True)
class Side:
    """One of two outputs: all that the other one lacks.

    Attributes:
        path: the output's path.
        rows: rows that it alone has.
        columns: columns that it alone has.
        answered: number of the rows of both sides that have an answer here alone.
    """

    path: str
    rows: Unmatched
    columns: list[str] = field(default_factory=list)
    answered: int = 0


@dataclass(slots=True)
class Comparison:
    """The outcome of a comparison of the outputs ``a`` and ``b``.

    Attributes:
        by: ``"id"`` or ``"position"``: how rows were matched.
        columns: the columns that were compared.
        rows: rows that both sides have.
        differing: those of them that differ: in a value, or in whether they have an answer.
        unanswered: rows without an answer on both sides, which agree.
        first: the first rows that differ.
    """

    a: Side
    b: Side
    by: str
    tolerance: Tolerance
    columns: list[ColumnComparison]
    rows: int = 0
    differing: int = 0
    unanswered: int = 0
    first: list[DifferentRow] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        """True if both outputs have the same rows, the same columns, and no value that differs."""
        return not (self.differing or any(side.rows.count or side.columns for side in (self.a, self.b)))

    @property
    def agreement(self) -> float | None:
        """Share of the rows of either side that agree, 0 to 1; None without any row."""
        # A row that one side lacks is a row that differs.
        total = self.rows + self.a.rows.count + self.b.rows.count
        return (self.rows - self.differing) / total if total else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "a": self.a.path,
            "b": self.b.path,
            "agree": self.agree,
            "agreement": self.agreement,
            "by": self.by,
            **self.tolerance._asdict(),
            "rows": self.rows,
            "differing": self.differing,
            "unanswered": self.unanswered,
            "answered_only_a": self.a.answered,
            "answered_only_b": self.b.answered,
            "only_a": self.a.rows.count,
            "only_b": self.b.rows.count,
            "first_only_a": self.a.rows.first,
            "first_only_b": self.b.rows.first,
            "columns_only_a": self.a.columns,
            "columns_only_b": self.b.columns,
            "columns": [_column_as_dict(column) for column in self.columns],
            "first_differing": [{"row": one.row, "answered": one.answered, "values": one.values} for one in self.first],
        }


def compare_outputs(
    a: Path | str,
    b: Path | str,
    *,
    rtol: float = RTOL,
    atol: float = ATOL,
    columns: Sequence[str] | None = None,
    id: str | None = None,  # noqa: A002 - the name that it has in a job file
    show: int = SHOWN,
) -> Comparison:
    """Compare two outputs of any formats (``.npy``, ``.npz``, ``.jsonl``, ``.csv``, ``.parquet``, ``.arrow``).

    Rows are matched by their ids if both outputs have a column of them, else by their positions. Rows that have no
    answer on either side agree; the column ``error``, or the mask beside a ``.npy`` file, shows which these are. Memory
    does not grow with the number of rows.

    Args:
        a: the first output. For several outputs in ``.npy`` files, the name that is common to all.
        b: the second output.
        rtol: relative tolerance of numbers, times the larger of the two. Integers have to be equal.
        atol: absolute tolerance of numbers.
        columns: the columns to compare, ``A=B`` where their names differ; if not given, all but ids and ``error``.
        id: the column of the ids; ``id`` if not given.
        show: number of differing rows to name.

    Raises:
        ConfigError: an output cannot be read, or there is no column to compare.
    """
    if not (rtol >= 0 and atol >= 0):
        raise ConfigError("rtol and atol must be 0 or greater", key="rtol")
    tables = Table(Path(a)), Table(Path(b))
    id_column = _id_column(tables, id)
    pairs, alone = _columns(tables, id_column, columns)
    named = {(one if one == other else f"{one}={other}"): (one, other) for one, other in pairs}
    comparison = Comparison(
        a=Side(str(a), Unmatched(show), alone[0]),
        b=Side(str(b), Unmatched(show), alone[1]),
        by="position" if id_column is None else "id",
        tolerance=Tolerance(rtol, atol),
        columns=[ColumnComparison(name) for name in named],
    )
    sides = [
        table.rows({name: pair[side] for name, pair in named.items()}, id_column) for side, table in enumerate(tables)
    ]
    # Pair by pair: both outputs may be larger than the memory.
    for pair in match(sides[0], sides[1], comparison.a.rows, comparison.b.rows):
        _add(comparison, pair, show)
    return comparison


def _id_column(tables: tuple[Table, Table], name: str | None) -> str | None:
    """Return the column of the ids; None if rows are matched by their positions."""
    if name is not None:
        for table in tables:
            _require(table, name, "id")
        return name
    # Ids match rows also after the input was sorted or filtered; positions do so only if it is the same.
    return ID if all(ID in table.names for table in tables) else None


def _columns(
    tables: tuple[Table, Table], id_column: str | None, chosen: Sequence[str] | None
) -> tuple[list[tuple[str, str]], tuple[list[str], list[str]]]:
    """Return the columns to compare, and those that only one side has."""
    if chosen is not None:
        if not chosen:
            raise ConfigError("no column is named: leave columns out to compare all", key="columns")
        pairs = []
        for text in chosen:
            # A name may have a sign of equality in it.
            one, sign, other = text.partition("=") if text not in tables[0].names else (text, "", "")
            pairs.append((one, other if sign else one))
        for pair in pairs:
            for name, table in zip(pair, tables, strict=True):
                _require(table, name, "columns")
        return pairs, ([], [])
    # Reasons of failures name times and endpoints, so that the column of errors would differ between any two runs.
    a, b = ([name for name in table.names if name not in (id_column, ID, ERROR)] for table in tables)
    common = [(name, name) for name in a if name in b]
    if not common:
        held = " and ".join(f"{table.path} has {_listed(table.names)}" for table in tables)
        raise ConfigError(f"no column is in both outputs: {held}; name a pair as A=B", key="columns")
    return common, ([name for name in a if name not in b], [name for name in b if name not in a])


def _require(table: Table, name: str, key: str) -> None:
    if name not in table.names:
        hint = did_you_mean(name, table.names)
        raise ConfigError(f"{table.path} has no column {name!r}{hint}; it has {_listed(table.names)}", key=key)


def _add(comparison: Comparison, pair: Pair, show: int) -> None:
    """Compare some rows that both sides have."""
    ok_a, ok_b = pair.a.ok, pair.b.ok
    # A row without an answer holds a fill value, which must not be compared.
    both = np.flatnonzero(ok_a & ok_b)
    comparison.rows += len(ok_a)
    comparison.unanswered += int((~ok_a & ~ok_b).sum())
    comparison.a.answered += int((ok_a & ~ok_b).sum())
    comparison.b.answered += int((ok_b & ~ok_a).sum())
    differs = ok_a != ok_b
    # Most blocks have all answers: their columns are compared without a copy.
    a, b, names = pair.a, pair.b, pair.names
    if len(both) < len(ok_a):
        a, b, names = a.part(both), b.part(both), [names[i] for i in both.tolist()]
    of_columns: dict[str, Array] = {}
    for column in comparison.columns if len(both) else ():
        differing = column.add(a.columns[column.name], b.columns[column.name], names, comparison.tolerance)
        of_columns[column.name] = np.zeros(len(ok_a), bool)
        of_columns[column.name][both] = differing
        differs = differs | of_columns[column.name]
    comparison.differing += int(differs.sum())
    for place in np.flatnonzero(differs)[: max(0, show - len(comparison.first))].tolist():
        comparison.first.append(_different_row(pair, place, of_columns))


def _different_row(pair: Pair, place: int, of_columns: Mapping[str, Array]) -> DifferentRow:
    if pair.a.ok[place] != pair.b.ok[place]:
        return DifferentRow(pair.names[place], answered="a" if pair.a.ok[place] else "b")
    values = {
        name: tuple(plain(side.columns[name][place]) for side in (pair.a, pair.b))
        for name, differs in of_columns.items()
        if differs[place]
    }
    return DifferentRow(pair.names[place], values)


def _column_as_dict(column: ColumnComparison) -> dict[str, Any]:
    return {
        "name": column.name,
        "rows": column.rows,
        "differing": column.differing,
        "largest": None if column.largest is None else column.largest._asdict(),
        "labels": column.labels,
        "label_changes": column.label_changes,
        "changes": [{"from": a, "to": b, "rows": n} for (a, b), n in column.changes.most_common()],
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:30])
