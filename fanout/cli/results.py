"""The commands on what runs have left: ``fanout compare``, ``failures``, ``cache stats`` and ``cache prune``."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import shortened
from fanout.cli.output import joined, print_result
from fanout.cli.running import load_outline
from fanout.compare import compare_outputs
from fanout.errors import ConfigError
from fanout.files import read_toml
from fanout.io.cache import AnswerCache
from fanout.job import SCHEMA_VERSION, job_failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fanout.compare import ColumnComparison, Comparison
    from fanout.io.cache import CacheEntry
    from fanout.job import FailureReport
    from fanout.report import FailureGroup

_CHANGES_SHOWN = 5
# Two values stand on one line, and one of them may be a whole document.
_LONGEST_VALUE = 120
_GROUPS_SHOWN = 12


def compare_command(a: Path, b: Path, options: Mapping[str, Any], *, as_json: bool) -> int:
    """Print how two outputs differ. Returns the exit code: 1 if they do. ``options`` are `compare_outputs`'."""
    comparison = compare_outputs(a, b, **options)
    exit_code = 0 if comparison.agree else 1
    result = {"schema_version": SCHEMA_VERSION, **comparison.as_dict(), "exit_code": exit_code}
    print_result(result, joined(_comparison_lines(comparison)), as_json=as_json)
    return exit_code


def _comparison_lines(one: Comparison) -> Iterator[str]:
    share = "" if one.agreement is None else f" ({_percent(one.agreement)})"
    unanswered = f"; {one.unanswered:,} of them have no answer on either side" if one.unanswered else ""
    agreeing = one.rows - one.differing
    yield f"{one.rows:,} rows matched by {one.by}: {agreeing:,} agree, {one.differing:,} differ{share}{unanswered}"
    for side in (one.a, one.b):
        if (rows := side.rows).count:
            more = ", ..." if rows.count > len(rows.first) else ""
            yield f"only in {side.path}: {rows.count:,} rows: {', '.join(rows.first)}{more}"
        if side.answered:
            yield f"answered only in {side.path}: {side.answered:,} rows"
        if side.columns:
            yield f"only in {side.path}: columns {', '.join(side.columns)} (--columns names those to compare)"
    for column in one.columns:
        yield from _column_lines(column)
    for row in one.first:
        # There are no values to show for a side that has no answer.
        if row.answered != "both":
            yield f"row {row.row}: answered only in {(one.a if row.answered == 'a' else one.b).path}"
        for name, (x, y) in row.values.items():
            yield f"row {row.row}: {name}: {_value(x)} | {_value(y)}"
    # The user chose how many rows are named, so the others have to be counted.
    if (rest := one.differing - len(one.first)) > 0:
        yield f"and {rest:,} rows more that differ"
    tolerance = f"within rtol {one.tolerance.rtol:g} and atol {one.tolerance.atol:g}"
    yield f"the outputs {'agree' if one.agree else 'differ'} {tolerance}"


def _column_lines(column: ColumnComparison) -> Iterator[str]:
    largest = column.largest
    difference = "" if largest is None else f"; largest difference {largest.difference:.6g} in row {largest.row}"
    yield f"column {column.name}: {column.differing:,} of {column.rows:,} rows differ{difference}"
    # For a classifier the labels that changed say more than the numbers behind them.
    if column.label_changes:
        share = _percent(column.label_changes / column.labels)
        common = ", ".join(f"{a} -> {b}: {n:,}" for (a, b), n in column.changes.most_common(_CHANGES_SHOWN))
        more = ", ..." if len(column.changes) > _CHANGES_SHOWN else ""
        yield f"  {column.label_changes:,} of {column.labels:,} labels changed ({share}): {common}{more}"


def _percent(share: float) -> str:
    # 99.9996 % is not 100 %, which a reader would take for no difference.
    return f"{min(share, 0.9999) if share < 1 else share:.2%}"


def _value(value: Any) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)


def failures_command(file: str, settings: Sequence[str], *, reason: str, to: Path | None, as_json: bool) -> int:
    """Print the failed rows of a job's newest run by reason. Returns the exit code."""
    report = job_failures(load_outline(file, settings), reason=reason, to=to)
    print_result(report.as_dict(), joined(_failure_lines(report, file)), as_json=as_json)
    return 0


def _failure_lines(report: FailureReport, job: str) -> Iterator[str]:
    of = "" if report.rows is None else f" of {report.rows:,}"
    matching = "" if report.selected == report.failed else f", {report.selected:,} of them for such a reason"
    yield f"{report.failed:,}{of} rows failed{matching}" + ("" if report.complete else "; the run is not complete")
    for group in report.groups[:_GROUPS_SHOWN]:
        yield from _group_lines(group)
    if rest := report.groups[_GROUPS_SHOWN:]:
        yield f"{sum(group.n_rows for group in rest):,} rows for {len(rest)} other reasons"
    if report.file is not None:
        yield f"written:  {report.file}"
    if not report.failed:
        return
    if not report.complete:
        yield f"next:     fanout run {job} resumes the run; failed rows can be sent again when it is complete"
    else:
        place = "the input" if report.input is None else report.input
        yield f"next:     correct these rows in {place} if they are wrong, then: fanout run {job} --only-failed"


def _group_lines(group: FailureGroup) -> Iterator[str]:
    yield f"{group.n_rows:,} row{'s' * (group.n_rows != 1)}: {group.reason}"
    examples, ids = ", ".join(group.examples), ", ".join(orjson.dumps(one).decode() for one in group.ids)
    # Examples are ranges, so that their rows have to be counted.
    rows_more = ", ..." if sum(map(_length, group.examples)) < group.n_rows else ""
    ids_more = ", ..." if len(group.ids) < group.n_rows else ""
    yield f"  row{'s' * (group.n_rows != 1)} {examples}{rows_more}" + (f"; ids {ids}{ids_more}" if ids else "")


def _length(example: str) -> int:
    """Return the number of rows in ``3`` or ``3:7``."""
    start, _, stop = example.partition(":")
    return int(stop) - int(start) if stop else 1


def stats_command(name: str, *, as_json: bool) -> int:
    """Print the contents of a cache by namespace, endpoint and codec. Returns the exit code."""
    with _opened(name) as cache:
        entries = cache.entries()
        assert cache.path is not None
        path, size = cache.path, cache.path.stat().st_size
    answers, sources = sum(entry.answers for entry in entries), [entry._asdict() for entry in entries]
    print_result(
        {"path": str(path), "answers": answers, "file_bytes": size, "sources": sources},
        joined([f"{path}: {answers:,} answers, {size:,} bytes", *map(_described, entries)]),
        as_json=as_json,
    )
    return 0


def prune_command(name: str, *, older_than: float | None, namespace: str | None, as_json: bool) -> int:
    """Delete answers from a cache. Returns the exit code."""
    with _opened(name) as cache:
        deleted = cache.prune(older_than=older_than, namespace=namespace)
        left = sum(entry.answers for entry in cache.entries())
    text = f"{deleted:,} answers deleted, {left:,} left"
    print_result({"deleted": deleted, "answers": left}, text, as_json=as_json)
    return 0


@contextmanager
def _opened(name: str) -> Iterator[AnswerCache]:
    path = _cache_path(Path(name))
    # A misspelt name must not make an empty cache.
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
