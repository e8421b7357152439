"""The commands ``fanout cache stats`` and ``fanout cache prune``."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fanout.cli.output import print_error, print_json, print_text
from fanout.errors import ConfigError
from fanout.io.cache import AnswerCache
from fanout.toml_files import read_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.io.cache import CacheEntry


def stats_command(name: str, *, as_json: bool) -> int:
    """Print the contents of a cache by namespace, endpoint and codec. Returns the exit code."""
    try:
        with _opened(name) as cache:
            entries = cache.entries()
            assert cache.path is not None
            path, size = cache.path, cache.path.stat().st_size
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    answers = sum(entry.answers for entry in entries)
    if as_json:
        sources = [entry._asdict() for entry in entries]
        print_json({"path": str(path), "answers": answers, "file_bytes": size, "sources": sources})
    else:
        print_text("\n".join([f"{path}: {answers:,} answers, {size:,} bytes", *map(_described, entries)]))
    return 0


def prune_command(name: str, *, older_than: float | None, namespace: str | None, as_json: bool) -> int:
    """Delete answers from a cache. Returns the exit code."""
    try:
        with _opened(name) as cache:
            deleted = cache.prune(older_than=older_than, namespace=namespace)
            left = sum(entry.answers for entry in cache.entries())
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    if as_json:
        print_json({"deleted": deleted, "answers": left})
    else:
        print_text(f"{deleted:,} answers deleted, {left:,} left")
    return 0


@contextmanager
def _opened(name: str) -> Iterator[AnswerCache]:
    path = _cache_path(Path(name))
    with closing(AnswerCache(path, create=False)) as cache:
        try:
            yield cache
        except sqlite3.Error as error:
            raise ConfigError(f"{path}: {error}") from None


def _cache_path(file: Path) -> Path:
    """Return the cache that a job file names; any other file is the cache itself."""
    if file.suffix != ".toml":
        return file
    table = read_toml(file, "job file").get("cache")
    path = table.get("path") if isinstance(table, dict) else None
    if not isinstance(path, str):
        raise ConfigError(f"{file}: cache.path is missing: the job has no cache")
    # As a job resolves it, except that a variable of the environment stays as it is.
    return file.parent / Path(path).expanduser()


def _described(entry: CacheEntry) -> str:
    oldest, newest = (datetime.fromtimestamp(at).astimezone().isoformat(" ", "minutes") for at in entry[-2:])
    namespace = f"namespace {entry.namespace}, " if entry.namespace else ""
    counts = f"{entry.answers:,} answers, {entry.bytes:,} bytes, from {oldest} to {newest}"
    return f"  {namespace}{entry.codec} {entry.endpoint}: {counts}"
