"""Rows of two outputs brought together: by their ids, or by their positions.

Ids are mostly in the same order on both sides, where a comparison needs the rows of one block only. Rows whose
counterpart is elsewhere wait in a temporary database on the disk, so that memory stays flat for any order.
"""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fanout.compare.tables import Rows
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.compare.tables import Column

_GROUP_ROWS = 4096

# Of the rows that wait, the k-th one of an id on one side belongs to the k-th one on the other.
_NUMBER = """
CREATE TABLE numbered (place INTEGER PRIMARY KEY, side INTEGER, id TEXT, nth INTEGER);
INSERT INTO numbered SELECT rowid, side, id, row_number() OVER (PARTITION BY side, id ORDER BY rowid) FROM waiting;
CREATE INDEX numbered_by_id ON numbered (side, id, nth);
"""
# SQLite keeps the order of tables in a cross join: rows come in the order of the first side, without a sort.
_MATCHED = """
SELECT a.id, a.ok, a.content, b.ok, b.content FROM waiting a
CROSS JOIN numbered x ON x.place = a.rowid
CROSS JOIN numbered y ON y.side = 1 AND y.id = x.id AND y.nth = x.nth
CROSS JOIN waiting b ON b.rowid = y.place
WHERE a.side = 0
"""
_ALONE = """
SELECT id FROM numbered x WHERE side = ? AND NOT EXISTS
(SELECT 1 FROM numbered y WHERE y.side = 1 - x.side AND y.id = x.id AND y.nth = x.nth) ORDER BY place
"""


class Pair(NamedTuple):
    """Rows of both sides that belong together, and their names: ids or numbers."""

    names: list[str]
    a: Rows
    b: Rows


class Unmatched:
    """Rows that only one side has: how many, and the first of them.

    Args:
        most: number of rows to remember.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0
        self.first: list[str] = []

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < self._most:
            self.first.append(name)


def match(a: Iterator[Rows], b: Iterator[Rows], only_a: Unmatched, only_b: Unmatched) -> Iterator[Pair]:
    """Yield the rows that both sides have, and count the others. Raises `ConfigError` if the disk is full."""
    try:
        with closing(_WaitingRows()) as waiting:
            yield from _matched(a, b, only_a, only_b, waiting)
    except sqlite3.Error as error:
        raise ConfigError(
            f"rows of the same ids are far from each other, and the temporary file for them cannot be used: {error}; "
            "SQLITE_TMPDIR names another folder"
        ) from None


def _matched(
    a: Iterator[Rows], b: Iterator[Rows], only_a: Unmatched, only_b: Unmatched, waiting: _WaitingRows
) -> Iterator[Pair]:
    row = 0
    for first, second in _in_step(a, b):
        n_rows = len((first or second).ok)  # type: ignore[union-attr]
        if first is not None and second is not None:
            yield from _same_places(first, second, row, waiting)
        elif first is not None:
            _leave(first, row, 0, waiting, only_a)
        elif second is not None:
            _leave(second, row, 1, waiting, only_b)
        row += n_rows
    yield from waiting.matched()
    # Only now: a row whose counterpart came late is no longer among those that are alone.
    for side, unmatched in ((0, only_a), (1, only_b)):
        for name in waiting.alone(side):
            unmatched.add(name)


def _in_step(a: Iterator[Rows], b: Iterator[Rows]) -> Iterator[tuple[Rows | None, Rows | None]]:
    """Yield blocks of the same positions; None for a side that has come to its end."""
    first, second = next(a, None), next(b, None)
    while first is not None or second is not None:
        if first is None or second is None:
            yield first, second
            first, second = next(a, None), next(b, None)
            continue
        n_rows = min(len(first.ok), len(second.ok))
        yield first.part(slice(0, n_rows)), second.part(slice(0, n_rows))
        first = first.part(slice(n_rows, None)) if n_rows < len(first.ok) else next(a, None)
        second = second.part(slice(n_rows, None)) if n_rows < len(second.ok) else next(b, None)


def _same_places(a: Rows, b: Rows, row: int, waiting: _WaitingRows) -> Iterator[Pair]:
    if a.ids is None or b.ids is None:
        yield Pair([str(row + i) for i in range(len(a.ok))], a, b)
        return
    if a.ids == b.ids:
        yield Pair(a.ids, a, b)
        return
    # Two runs of one input have nearly all ids at the same positions: only the others go through the temporary file.
    same = np.array([x == y for x, y in zip(a.ids, b.ids, strict=True)], bool)
    waiting.add(0, a.part(np.flatnonzero(~same)))
    waiting.add(1, b.part(np.flatnonzero(~same)))
    if same.any():
        first, second = a.part(np.flatnonzero(same)), b.part(np.flatnonzero(same))
        yield Pair(first.ids or [], first, second)


def _leave(rows: Rows, row: int, side: int, waiting: _WaitingRows, unmatched: Unmatched) -> None:
    """Keep rows at whose positions the other side has none."""
    if rows.ids is None:
        for i in range(len(rows.ok)):
            unmatched.add(str(row + i))
    else:
        waiting.add(side, rows)


class _WaitingRows:
    """Rows whose counterpart has not come, in a temporary file."""

    def __init__(self) -> None:
        # The empty name is a database of SQLite's own on the disk, which it removes.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE waiting (side INTEGER, id TEXT, ok INTEGER, content BLOB)")
        # In KiB: rows that meet far from each other would otherwise be read from the disk one by one.
        self._database.execute("PRAGMA cache_size = -32768")
        # One transaction for all rows: a commit for each block would write the file again and again.
        self._database.execute("BEGIN")
        self._names: list[str] = []

    def add(self, side: int, rows: Rows) -> None:
        # numpy's scalars take ten times as long to pickle.
        columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in rows.columns.values()]
        self._names = list(rows.columns)
        contents = map(pickle.dumps, map(list, zip(*columns, strict=True)))
        records = zip(repeat(side), rows.ids or (), rows.ok.tolist(), contents, strict=False)
        self._database.executemany("INSERT INTO waiting VALUES (?, ?, ?, ?)", records)

    def matched(self) -> Iterator[Pair]:
        """Yield the rows of both sides that have the same id."""
        self._database.executescript(_NUMBER)
        matches = self._database.execute(_MATCHED)
        while group := list(islice(matches, _GROUP_ROWS)):
            names, ok_a, contents_a, ok_b, contents_b = map(list, zip(*group, strict=True))
            yield Pair(names, self._rows(ok_a, contents_a), self._rows(ok_b, contents_b))

    def alone(self, side: int) -> Iterator[str]:
        """Yield the ids of the rows that only one side has. Called after `matched`."""
        for (name,) in self._database.execute(_ALONE, (side,)):
            yield name

    def close(self) -> None:
        self._database.close()

    def _rows(self, ok: list[int], contents: list[bytes]) -> Rows:
        values = [pickle.loads(content) for content in contents]  # noqa: S301 - this process has written them
        columns: dict[str, Column] = {name: [row[i] for row in values] for i, name in enumerate(self._names)}
        return Rows(columns, None, np.array(ok, bool))
