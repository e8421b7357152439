"""Proven answers by the key of their request, in an SQLite database.

Several processes may share the file, and any of them may be killed at any moment: SQLite's write-ahead log loses at
most the last answers then. A database without a path is the run's own; SQLite keeps it in memory as long as it is
small, then in a file without a name.

Answers that come together are stored as one block, since each read of a single one would cost more than its bytes. A
request has the place of its answer, and the block has the keys of its answers, which a reader compares.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np
import orjson

from fanout.io.block_format import BlockFormat, joined
from fanout.io.cache_file import open_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.io.block_format import Entry
    from fanout.types import Array, Schema

KEY_BYTES = 16

# The two halves of a key. The first is the number of its row in the table of requests.
_HALVES = np.dtype(("<i8", 2))
# Larger blocks are read faster as a whole, and more slowly for a single answer.
_BLOCK_BYTES = 32 * 1024
_BLOCK_ROWS = 4096
# Blocks that are read together, most of which are no larger than `_BLOCK_BYTES`: memory stays bounded.
_BLOCKS_READ = 512
# One row for all places: each row that Python gets costs as much as the look-up itself.
_PLACES = (
    "SELECT group_concat(ifnull(CAST(block * ? + row AS INTEGER), -1)) "
    "FROM json_each(?) wanted LEFT JOIN requests r ON r.id = value"
)
_BLOCKS = (
    "SELECT id, source, at, checksum, keys, answers FROM blocks WHERE id IN (SELECT value FROM json_each(?)) AND at > ?"
)


class Origin(NamedTuple):
    """The source of answers, for `CacheEntry`. It holds no secret."""

    namespace: str = ""
    endpoint: str = ""
    codec: str = ""


class Found(NamedTuple):
    """Answers of one schema.

    Attributes:
        places: positions of their keys among those that were looked up, in ascending order.
        outputs: output name -> array of shape (len(places), ...).
    """

    schema: Schema
    places: list[int]
    outputs: dict[str, Array]


class CacheEntry(NamedTuple):
    """The answers of one source in a cache."""

    namespace: str
    endpoint: str
    codec: str
    answers: int
    bytes: int
    oldest: float
    """Seconds since the epoch, as ``newest``."""

    newest: float


class AnswerCache:
    """Answers of single rows, which its owner calls from one thread at a time. Every method may block on the disk.

    Args:
        path: the database, which is created with mode 0600; None: one of the run's own, deleted when it is closed.
        ttl: seconds for which an answer counts; None: for ever.
        create: False raises `ConfigError` if there is no file.
        now: seconds since the epoch; processes that share a file have no other clock in common.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        ttl: float | None = None,
        create: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._ttl = ttl
        self._now = now
        # If the answers of this client turn out to be those of other rows, they are deleted by this number.
        self._run = int.from_bytes(os.urandom(7), "little")
        self._formats: dict[int, BlockFormat] = {}
        self._sources: dict[tuple[Origin, str], int] = {}
        self._database = open_database(path, create=create)

    def get(self, keys: Sequence[bytes | None]) -> list[Found]:
        """Return the answers to the requests with these keys. Damaged and expired ones are left out.

        Raises `sqlite3.Error` if the file cannot be read.
        """
        halves = _halves([key for key in keys if key is not None])
        (text,) = self._database.execute(_PLACES, (_BLOCK_ROWS, orjson.dumps(halves[:, 0].tolist()))).fetchone()
        places = np.array(orjson.loads(f"[{text or ''}]"), np.int64)
        known = np.flatnonzero(places >= 0)
        numbers, firsts, blocks = np.unique(places[known] // _BLOCK_ROWS, return_index=True, return_inverse=True)
        rows = np.flatnonzero([key is not None for key in keys])[known]
        wanted = _Wanted(rows, halves[known], numbers, blocks, places[known] % _BLOCK_ROWS)
        # Blocks in the order of the rows: those of a run that was made before need no copy then.
        order = np.argsort(firsts)
        return [
            found
            for start in range(0, len(order), _BLOCKS_READ)
            for found in self._read(wanted, order[start : start + _BLOCKS_READ].tolist())
        ]

    def put(self, origin: Origin, entries: Sequence[Entry]) -> None:
        """Store answers: keys and output name -> array, row by row. Those with equal keys are replaced.

        Raises `sqlite3.Error` if the file cannot be written.
        """
        with self._transaction():
            (first,) = self._database.execute("SELECT ifnull(max(id), 0) + 1 FROM blocks").fetchone()
            now, number = int(self._now()), first
            places: dict[int, tuple[int, int]] = {}
            for layout, keys, outputs in joined(entries, _BLOCK_BYTES):
                source, halves, start = self._source(origin, layout), _halves(keys), 0
                for n_rows, answers in layout.pack(outputs, most_bytes=_BLOCK_BYTES, most_rows=_BLOCK_ROWS):
                    own = halves[start : start + n_rows]
                    self._insert_block(number, source, now, own.tobytes(), answers)
                    places |= zip(own[:, 0].tolist(), zip(repeat(number), range(n_rows)), strict=False)
                    number, start = number + 1, start + n_rows
            self._insert_requests(places, first)

    def _read(self, wanted: _Wanted, order: list[int]) -> Iterator[Found]:
        """Read the blocks with these positions in ``wanted.numbers``."""
        position = dict(zip(wanted.numbers[order].tolist(), order, strict=True))
        since = -1 if self._ttl is None else int(self._now() - self._ttl)
        by_source: dict[int, dict[int, tuple[bytes, bytes]]] = {}
        for number, source, at, checksum, keys, answers in self._database.execute(
            _BLOCKS, (orjson.dumps(list(position)), since)
        ):
            # Of another type only where the file is damaged.
            if type(keys) is type(answers) is bytes and checksum == _checksum(source, at, keys, answers):
                by_source.setdefault(source, {})[position[number]] = keys, answers
        for source, blocks in by_source.items():
            in_order = {block: blocks[block] for block in order if block in blocks}
            try:
                found = wanted.taken_from(in_order, self._format(source))
            except ValueError:
                continue  # the schema is gone, or not that of the answers
            if found.places:
                yield found

    def _insert_block(self, number: int, source: int, now: int, keys: bytes, answers: bytes) -> None:
        values = (number, source, now, self._run, _checksum(source, now, keys, answers), keys, answers)
        self._database.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _insert_requests(self, places: Mapping[int, tuple[int, int]], first: int) -> None:
        """Insert requests; blocks below ``first`` that lose their last one to them are deleted."""
        rows = [(number, *place) for number, place in sorted(places.items())]
        inserted = self._database.executemany("INSERT OR IGNORE INTO requests VALUES (?, ?, ?)", rows).rowcount
        if inserted == len(rows):
            return
        earlier = self._database.execute(
            "SELECT DISTINCT block FROM requests WHERE id IN (SELECT value FROM json_each(?)) AND block < ?",
            (orjson.dumps(list(places)), first),
        ).fetchall()
        self._database.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", rows)
        self._delete([number for (number,) in earlier if not self._is_used(number)])

    def _is_used(self, number: int) -> bool:
        """True if a request has its answer in this block."""
        row = self._database.execute("SELECT keys FROM blocks WHERE id = ?", (number,)).fetchone()
        numbers = [] if row is None else _halves([row[0]])[:, 0].tolist()
        (n_requests,) = self._database.execute(
            "SELECT count(*) FROM requests WHERE id IN (SELECT value FROM json_each(?)) AND block = ?",
            (orjson.dumps(numbers), number),
        ).fetchone()
        return bool(n_requests)

    def _delete(self, blocks: Sequence[int]) -> int:
        """Delete blocks with their requests, and return the number of these."""
        numbers = orjson.dumps(blocks)
        deleted = self._database.execute(
            "DELETE FROM requests WHERE block IN (SELECT value FROM json_each(?))", (numbers,)
        ).rowcount
        self._database.execute("DELETE FROM blocks WHERE id IN (SELECT value FROM json_each(?))", (numbers,))
        return deleted

    def forget_own(self) -> None:
        """Delete the answers that were stored through this object."""
        with self._transaction():
            blocks = self._database.execute("SELECT id FROM blocks WHERE run = ?", (self._run,))
            self._delete([number for (number,) in blocks])

    def entries(self) -> list[CacheEntry]:
        """Return the contents, by source."""
        rows = self._database.execute(
            "SELECT namespace, endpoint, codec, count(*), "
            "CAST(round(sum(1.0 * length(answers) / length(keys)) * ?) AS INTEGER), min(at), max(at) "
            "FROM requests JOIN blocks b ON b.id = block JOIN sources s ON s.id = source "
            "GROUP BY namespace, endpoint, codec ORDER BY namespace, endpoint, codec",
            (_HALVES.itemsize,),
        )
        return [CacheEntry(*row) for row in rows]

    def prune(self, *, older_than: float | None = None, namespace: str | None = None) -> int:
        """Delete answers older than some seconds, of one namespace or of all, and return their number.

        The file gets smaller, unless another process uses it at this moment.
        """
        before = self._now() + 1 if older_than is None else self._now() - older_than
        with self._transaction():
            blocks = self._database.execute(
                "SELECT b.id FROM blocks b JOIN sources s ON s.id = source "
                "WHERE at < ? AND namespace = ifnull(?, namespace)",
                (before, namespace),
            )
            deleted = self._delete([number for (number,) in blocks])
            self._database.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM blocks)")
        self._sources.clear()
        with suppress(sqlite3.OperationalError):
            self._database.execute("VACUUM")
        return deleted

    def close(self) -> None:
        """Close the database; one without a path is gone."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE waits for other writers at the start. Later, SQLite could only refuse.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # Numbers of sources that are rolled back may be given to others.
            self._sources.clear()
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _source(self, origin: Origin, layout: BlockFormat) -> int:
        """Return the number of a source; within a transaction."""
        known = (origin, layout.text)
        if known not in self._sources:
            values = (*origin, layout.text)
            self._database.execute(
                "INSERT OR IGNORE INTO sources (namespace, endpoint, codec, schema) VALUES (?, ?, ?, ?)", values
            )
            (self._sources[known],) = self._database.execute(
                "SELECT id FROM sources WHERE namespace = ? AND endpoint = ? AND codec = ? AND schema = ?", values
            ).fetchone()
        return self._sources[known]

    def _format(self, source: int) -> BlockFormat:
        """Return the format of a source. Raises `ValueError`."""
        # Another process may have pruned a source and given its number away, so the schema is read each time.
        (text,) = self._database.execute("SELECT schema FROM sources WHERE id = ?", (source,)).fetchone() or ("",)
        known = self._formats.get(source)
        if known is None or known.text != text:
            known = self._formats[source] = BlockFormat.parse(text)
        return known


class _Wanted(NamedTuple):
    """Rows whose request is in the table of requests, in their order."""

    rows: Array
    """Positions among the keys that were looked up."""
    keys: Array
    """Shape (rows, 2)."""
    numbers: Array
    """The numbers of the blocks that have their answers."""
    blocks: Array
    """Positions in ``numbers``."""
    places: Array
    """Positions in these blocks."""

    def taken_from(self, blocks: Mapping[int, tuple[bytes, bytes]], layout: BlockFormat) -> Found:
        """Take the answers that ``blocks`` have: position in ``numbers`` -> keys and answers. Raises `ValueError`."""
        counts = [len(keys) // _HALVES.itemsize for keys, _ in blocks.values()]
        # Position of each block of `numbers` in ``blocks``, and that of its first row among all of their rows.
        order, starts = np.full(len(self.numbers), -1), np.zeros(len(self.numbers), np.int64)
        order[list(blocks)], starts[list(blocks)] = np.arange(len(blocks)), np.cumsum([0, *counts[:-1]])
        # A wrong place, as of a block that another process has replaced meanwhile, is refuted by the keys.
        chosen = np.flatnonzero(self.places < np.array([*counts, 0])[order[self.blocks]])
        at = (starts[self.blocks] + self.places)[chosen]
        kept = _halves(keys for keys, _ in blocks.values())
        is_same = (kept[at] == self.keys[chosen]).all(axis=1)
        chosen, at = chosen[is_same], at[is_same]
        rows = None
        if len(at) != len(kept) or (np.diff(at) != 1).any():
            rows = zip(order[self.blocks[chosen]].tolist(), self.places[chosen].tolist(), strict=True)
        outputs = layout.unpack([(n, answers) for n, (_, answers) in zip(counts, blocks.values(), strict=True)], rows)
        return Found(layout.schema, self.rows[chosen].tolist(), outputs)


def _halves(keys: Iterable[bytes]) -> Array:
    """The halves of keys; shape (keys, 2)."""
    return np.frombuffer(b"".join(keys), _HALVES)


def _checksum(source: int, at: int, keys: bytes, answers: bytes) -> int:
    return crc32(answers, crc32(f"{source} {at} ".encode() + keys))
