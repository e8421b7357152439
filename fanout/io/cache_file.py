"""The SQLite file of a cache: created for its owner alone, and refused if it is of another program or version."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from fanout.errors import ConfigError
from fanout.files import PRIVATE

if TYPE_CHECKING:
    from pathlib import Path

# "fano": SQLite keeps this number in the header, so that no database of another program is taken for a cache.
_APPLICATION_ID = 0x66616E6F
_VERSION = 3
_BUSY_SECONDS = 30.0
# Pages of the run's own database that stay in memory: about a million answers of a few numbers.
_MEMORY_KIB = 96 * 1024
_PAGE_BYTES = 8192
_TABLES = """
CREATE TABLE IF NOT EXISTS sources (
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, endpoint TEXT NOT NULL, codec TEXT NOT NULL,
    schema TEXT NOT NULL, UNIQUE (namespace, endpoint, codec, schema)
);
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL, at INTEGER NOT NULL, run INTEGER NOT NULL,
    checksum INTEGER NOT NULL, keys BLOB NOT NULL, answers BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY, block INTEGER NOT NULL, row INTEGER NOT NULL);
"""


def open_database(path: Path | None, *, create: bool) -> sqlite3.Connection:
    """Open a cache; None stands for one of the run's own. Raises `ConfigError` if the file cannot be used as one."""
    try:
        database = _connect(path, create=create)
        try:
            _prepare(database, own=path is None)
        except BaseException:
            database.close()
            raise
        return database
    # SQLite quotes a damaged schema in its message, which Python then cannot decode.
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        # SQLite says only that it is "unable to open database file".
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "its schema is damaged"
        if isinstance(error, sqlite3.DatabaseError | ValueError) and not isinstance(error, sqlite3.OperationalError):
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
        if application == _APPLICATION_ID:
            raise ConfigError(
                "the file is a cache of another version of fanout: delete it to start with an empty one, or give the "
                "cache another path",
                key="path",
            )
        raise ConfigError("the file is a database of another program: give the cache another path", key="path")
    # Readers do not wait for a writer, and after a kill -9 the next process goes on with whole transactions.
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    if not tables:
        mark = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};"
        database.executescript(f"BEGIN IMMEDIATE; {_TABLES} {mark} COMMIT;")
