"""The command ``fanout failures``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from fanout._escape import escaped
from fanout.cli.output import print_error, print_json, print_text
from fanout.cli.running import load_outline
from fanout.errors import ConfigError
from fanout.job import job_failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.job import FailureReport
    from fanout.report import FailureGroup

_GROUPS_SHOWN = 12


def failures_command(file: str, settings: Sequence[str], *, reason: str, to: Path | None, as_json: bool) -> int:
    """Print the failed rows of a job's newest run by reason. Returns the exit code."""
    try:
        report = job_failures(load_outline(file, settings), reason=reason, to=to)
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        print_text("\n".join(map(escaped, _lines(report, file))))
    return 0


def _lines(report: FailureReport, job: str) -> Iterator[str]:
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
    rows_more = ", ..." if sum(map(_length, group.examples)) < group.n_rows else ""
    ids_more = ", ..." if len(group.ids) < group.n_rows else ""
    yield f"  row{'s' * (group.n_rows != 1)} {examples}{rows_more}" + (f"; ids {ids}{ids_more}" if ids else "")


def _length(example: str) -> int:
    """Return the number of rows in ``3`` or ``3:7``."""
    start, _, stop = example.partition(":")
    return int(stop) - int(start) if stop else 1
