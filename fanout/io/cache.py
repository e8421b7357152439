"""Proven answers by the key of their request, in an SQLite database.

Several processes may share the file, and any of them may be killed at any moment: SQLite's write-ahead log loses at
most the last answers then. A database without a path is the run's own; SQLite keeps it in memory as long as it is
small, then in a file without a name.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import orjson

from fanout.errors import ConfigError
from fanout.files import PRIVATE
from fanout.io.row_format import RowFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fanout.types import Array, Schema, Values

KEY_BYTES = 16

# "fano": SQLite keeps this number in the header, so that no database of another program is taken for a cache.
_APPLICATION_ID = 0x66616E6F
_VERSION = 2
_BUSY_SECONDS = 30.0
# Pages of the run's own database that stay in memory: about a million answers of a few numbers.
_MEMORY_KIB = 96 * 1024
_PAGE_BYTES = 8192
_TABLES = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, endpoint TEXT NOT NULL, codec TEXT NOT NULL,
    schema TEXT NOT NULL, UNIQUE (namespace, endpoint, codec, schema)
);
CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, answer BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, rest INTEGER NOT NULL, source INTEGER NOT NULL, at INTEGER NOT NULL,
    run INTEGER NOT NULL, checksum INTEGER NOT NULL, answer INTEGER NOT NULL
);
"""
_HALVES = Struct("<qq")
_LOOK_UP = (
    "SELECT wanted.key, rest, source, checksum, a.answer FROM json_each(?) wanted "
    "JOIN requests r ON r.id = wanted.value JOIN answers a ON a.id = r.answer WHERE at > ?"
)
_INTO = "INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)"
_FORGET_EARLIER = (
    "DELETE FROM answers WHERE id IN (SELECT answer FROM requests WHERE id IN (SELECT value FROM json_each(?)) "
    "AND answer < ?)"
)
_FORGET_UNUSED = "DELETE FROM answers WHERE id NOT IN (SELECT answer FROM requests)"


class Origin(NamedTuple):
    """The source of answers, for `CacheEntry`. It holds no secret."""

    namespace: str = ""
    endpoint: str = ""
    codec: str = ""


class Found(NamedTuple):
    """Answers of one schema.

    Attributes:
        places: positions of their keys among those that were looked up.
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
        self._formats: dict[int, RowFormat | None] = {}
        self._sources: dict[tuple[Origin, str], int] = {}
        with _usable(path):
            self._database = _connect(path, create=create)
            try:
                _prepare(self._database, own=path is None)
            except BaseException:
                self._database.close()
                raise

    def get(self, keys: Sequence[bytes | None]) -> list[Found]:
        """Return the answers to the requests with these keys. Damaged and expired ones are left out.

        Raises `sqlite3.Error` if the file cannot be read.
        """
        halves = [(place, _HALVES.unpack(key)) for place, key in enumerate(keys) if key is not None]
        if not halves:
            return []
        since = -1 if self._ttl is None else int(self._now() - self._ttl)
        numbers = orjson.dumps([number for _, (number, _) in halves])
        by_source: dict[int, list[tuple[int, bytes]]] = {}
        for index, rest, source, checksum, answer in self._database.execute(_LOOK_UP, (numbers, since)).fetchall():
            place, (_, other_half) = halves[index]
            # The other half of the key and the checksum refute a wrong number and a damaged page.
            if rest == other_half and checksum == crc32(answer, (rest ^ source) & 0xFFFFFFFF):
                by_source.setdefault(source, []).append((place, answer))
        return [found for item in by_source.items() if (found := self._unpacked(*item)) is not None]

    def put(self, origin: Origin, entries: Sequence[tuple[Sequence[bytes], Values]]) -> None:
        """Store answers: keys and output name -> array, row by row. Those with equal keys are replaced.

        Raises `sqlite3.Error` if the file cannot be written.
        """
        with self._transaction():
            (first,) = self._database.execute("SELECT ifnull(max(id), 0) + 1 FROM answers").fetchone()
            rows: list[tuple[int, ...]] = []
            for keys, outputs in entries:
                layout = RowFormat({name: (array.dtype, array.shape[1:]) for name, array in outputs.items()})
                # Keys are random: answers in their order would each move others.
                answers = list(enumerate(layout.pack(outputs), first + len(rows)))
                self._database.executemany("INSERT INTO answers VALUES (?, ?)", answers)
                rows += self._requests(keys, answers, self._source(origin, layout))
            self._insert(sorted(rows), first)

    def _requests(
        self, keys: Sequence[bytes], answers: Sequence[tuple[int, bytes]], source: int
    ) -> Iterator[tuple[int, ...]]:
        """Yield the rows of the table of requests, in the order of its columns."""
        now, run = int(self._now()), self._run
        for (number, rest), (answer, data) in zip(map(_HALVES.unpack, keys), answers, strict=True):
            yield number, rest, source, now, run, crc32(data, (rest ^ source) & 0xFFFFFFFF), answer

    def _insert(self, rows: Sequence[tuple[int, ...]], first: int) -> None:
        """Insert requests; an answer below ``first`` to one of them is an earlier one, and deleted."""
        inserted = self._database.executemany(f"INSERT OR IGNORE {_INTO}", rows).rowcount
        if inserted < len(rows):
            self._database.execute(_FORGET_EARLIER, (orjson.dumps([row[0] for row in rows]), first))
            self._database.executemany(f"INSERT OR REPLACE {_INTO}", rows)

    def forget_own(self) -> None:
        """Delete the answers that were stored through this object."""
        with self._transaction():
            self._database.execute("DELETE FROM requests WHERE run = ?", (self._run,))
            self._database.execute(_FORGET_UNUSED)

    def entries(self) -> list[CacheEntry]:
        """Return the contents, by source."""
        rows = self._database.execute(
            "SELECT namespace, endpoint, codec, count(*), sum(length(a.answer)), min(at), max(at) FROM requests r "
            "JOIN answers a ON a.id = r.answer JOIN sources s ON s.id = source "
            "GROUP BY namespace, endpoint, codec ORDER BY namespace, endpoint, codec"
        )
        return [CacheEntry(*row) for row in rows]

    def prune(self, *, older_than: float | None = None, namespace: str | None = None) -> int:
        """Delete answers older than some seconds, of one namespace or of all, and return their number.

        The file gets smaller, unless another process uses it at this moment.
        """
        before = self._now() + 1 if older_than is None else self._now() - older_than
        with self._transaction():
            deleted = self._database.execute(
                "DELETE FROM requests WHERE at < :before AND source IN "
                "(SELECT id FROM sources WHERE :namespace IS NULL OR namespace = :namespace)",
                {"before": before, "namespace": namespace},
            ).rowcount
            self._database.execute(_FORGET_UNUSED)
            self._database.execute("DELETE FROM sources WHERE id NOT IN (SELECT source FROM requests)")
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

    def _source(self, origin: Origin, layout: RowFormat) -> int:
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

    def _unpacked(self, source: int, rows: Sequence[tuple[int, bytes]]) -> Found | None:
        """The answers in ``rows`` (place, answer); None if they are not what their schema says."""
        try:
            layout = self._format(source)
            if layout is None:
                return None
            outputs = layout.unpack([answer for _, answer in rows])
        except ValueError:
            return None
        return Found(layout.schema, [place for place, _ in rows], outputs)

    def _format(self, source: int) -> RowFormat | None:
        # Another process may have pruned a source and given its number away, so the schema is read each time.
        row = self._database.execute("SELECT schema FROM sources WHERE id = ?", (source,)).fetchone()
        if row is None:
            return None
        known = self._formats.get(source)
        if known is None or known.text != row[0]:
            known = self._formats[source] = RowFormat.parse(row[0])
        return known


def remove(path: Path) -> None:
    """Delete a cache with the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextmanager
def _usable(path: Path | None) -> Iterator[None]:
    """Raise `ConfigError` in place of errors of SQLite and of the file system."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        # SQLite says only that it is "unable to open database file".
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            reason = f"{reason}; give another path or, if it was a cache, delete it to start with an empty one"
        raise ConfigError(
            f"{path or 'the store of duplicates'} cannot be used as a cache: {reason}", key="path"
        ) from None


def _connect(path: Path | None, *, create: bool) -> sqlite3.Connection:
    if path is not None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        # SQLite would create the file for everyone to read; those beside it get its mode.
        os.close(os.open(path, flags, PRIVATE))
    return sqlite3.connect(
        "" if path is None else path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _prepare(database: sqlite3.Connection, *, own: bool) -> None:
    """Make the tables. Raises `ConfigError` for a database of another program or version."""
    database.execute(f"PRAGMA page_size={_PAGE_BYTES}")  # of a database that is empty yet
    if own:
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF", f"cache_size=-{_MEMORY_KIB}"):
            database.execute(f"PRAGMA {pragma}")
        database.executescript(_TABLES)
        return
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and (application, version) != (_APPLICATION_ID, _VERSION):
        whose = "another version of fanout" if application == _APPLICATION_ID else "another program"
        raise ConfigError(f"the file is a database of {whose}: give the cache another path", key="path")
    # Readers do not wait for a writer, and after a kill -9 the next process goes on with whole transactions.
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    if not tables:
        mark = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};"
        database.executescript(f"BEGIN IMMEDIATE; {_TABLES} {mark} COMMIT;")
