"""The report of a job's run: what is recorded of the job, and the page that is written beside its output."""

from __future__ import annotations

import json
import logging
import os
import platform
from bisect import bisect_left
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout._escape import shortened
from fanout._version import __version__
from fanout.errors import ConfigError
from fanout.files import PRIVATE, whole_file
from fanout.io.journal.state import JournalState
from fanout.job.exchange import abbreviated
from fanout.job.journal import read_journal
from fanout.job.problems import locate_errors
from fanout.paths import recording_path, run_report_path
from fanout.report import Example, RunRecorder, read_recording, report_page
from fanout.rows import count_rows, single_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.io.readers.base import Source
    from fanout.job.model import Job, Outline
    from fanout.job.report import AnsweredBy
    from fanout.results import Failure
    from fanout.settings import Limits

_log = logging.getLogger("fanout")

_FAILED_EXAMPLES = 10
_LONGEST_VALUE = 400
# Rows of a page are worth seconds of reading, not minutes.
_ROWS_READ = 200_000
# The libraries whose version changes how fast a run is, or what it can read.
_LIBRARIES = ("aiohttp", "numpy", "pyarrow", "uvloop")


def recorder_of(job: Job, input_name: str, codec: str, answers: AnsweredBy) -> RunRecorder | None:
    """Return the recorder of a run of ``job``; None if the job wants no report."""
    if not job.tables.report.write:
        return None
    facts = _facts(job, input_name, codec, answers)
    limit = job.tables.limits.most_in_flight
    return RunRecorder(recording_path(job.output_path), job.redactor.text, facts=facts, limit=limit)


def _facts(job: Job, input_name: str, codec: str, answers: AnsweredBy) -> dict[str, dict[str, str]]:
    """Return the job's settings, the versions and the machine: heading to name to text, without secrets."""
    tables = job.tables
    settings = {
        "job file": str(job.file),
        "input": input_name,
        "endpoint": {"endpoint": job.shown_endpoint, "mock": "a mock", "replay": "a recording"}[answers],
        "codec": codec,
        "output": job.shown_output,
        "rows in a request": f"{tables.chunks.rows:,} at most",
        "requests in flight": _concurrency(tables.limits),
        "rates": ", ".join(f"{name} {rate:g}" for name, rate in tables.limits.rates.items()) or "no limit",
        "attempts": f"{tables.retry.max_attempts} at most for a chunk",
        "attempt timeout": f"{tables.timeouts.attempt:g} s",
        "hedged requests": f"{tables.hedge.share:.0%} at most" if tables.hedge.share else "none",
    }
    # Two runs of one job can only be compared if the reader sees where each ran.
    machine = {
        "host": platform.node(),
        "system": platform.platform(),
        "processors": str(os.cpu_count()),
        "process": str(os.getpid()),
    }
    versions = {"fanout": __version__, "Python": platform.python_version(), **_library_versions()}
    facts = {"Job": settings, "Versions": versions, "Machine": machine}
    redacted: dict[str, dict[str, str]] = job.redactor.value(facts)
    return redacted


def write_report(job: Job | Outline, state: JournalState, failures: Sequence[Failure]) -> Path | None:
    """Write the report from the recording. Returns its path; None if it could not be written, or nothing was recorded.

    Blocks on I/O.
    """
    path = run_report_path(job.output_path)
    try:
        sessions = read_recording(recording_path(job.output_path))
        if not sessions:
            return None
        name = job.redactor.text(f"{job.file.name}: {job.output_path.name}")
        page = report_page(name, sessions, state, failures)
        # Not durable: `fanout report` makes the page again from the recording.
        with whole_file(path, mode=PRIVATE, durable=False) as file:
            # Surrogates stand for bytes of file names that are no text.
            file.append(page.encode("utf-8", "replace"))
    except OSError as error:
        _log.warning("the report cannot be written: %s", error)
        return None
    return path


def examples_of(job: Job, source: Source, answers: Mapping[int, Any], failures: Sequence[Failure]) -> list[Example]:
    """Return some rows of the input with their answers, or the reasons of their failure. Reads the input."""
    try:
        return list(_examples(job, source, answers, failures))
    except Exception as error:  # noqa: BLE001 - the input may have changed since, and the run is worth more
        _log.warning("the report cannot show rows of the input: %s", job.redactor.text(str(error)))
        return []


def _examples(job: Job, source: Source, answers: Mapping[int, Any], failures: Sequence[Failure]) -> Iterator[Example]:
    outcomes: dict[int, str] = {row: _shown(job, values) for row, values in answers.items()}
    # The first row of a range stands for all of it, which failed for one reason.
    outcomes |= {failure.start: failure.reason for failure in failures[:_FAILED_EXAMPLES]}
    if not source.repeatable:
        return
    wanted, position = sorted(outcomes), 0
    for block in source.blocks():
        n_rows = count_rows(block.rows)
        for row in wanted[bisect_left(wanted, position) : bisect_left(wanted, position + n_rows)]:
            place = row - position
            (value,) = single_rows(take_rows(block.rows, slice(place, place + 1)))
            yield Example(row, _shown(job, value), outcomes[row])
        position += n_rows
        # Failed rows may be far into an input that is slow to read.
        if not wanted or wanted[-1] < position or position > _ROWS_READ:
            break


def _shown(job: Job, value: Any) -> str:
    """Return a value as JSON, redacted, on one line and cut."""
    text = json.dumps(abbreviated(_plain(value)), ensure_ascii=False, default=str)
    # Cut twice: first for speed, then again because a redacted text has another length.
    return shortened(job.redactor.text(shortened(text, 2 * _LONGEST_VALUE)), _LONGEST_VALUE)


def _plain(value: Any) -> Any:
    """Return arrays and numpy's numbers as lists and Python's numbers; the only output without its empty name."""
    if isinstance(value, dict):
        return _plain(value[""]) if list(value) == [""] else {str(key): _plain(one) for key, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def recreate_report(job: Job | Outline) -> Path:
    """Write the report of a job's newest run again, from its recording and its journal.

    Raises:
        ConfigError: nothing was recorded, or a file cannot be read or written.
    """
    with locate_errors(job.file, redactor=job.redactor):
        state = read_journal(job)
        path = recording_path(job.output_path)
        try:
            sessions = read_recording(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", key="output.path") from None
        if not sessions:
            raise ConfigError(
                f"no run into {job.output_path} has been recorded: run the job first, with report.write = true",
                key="output.path",
            )
        # A run that stopped before any row was done has no journal.
        state = state or JournalState({})
        written = write_report(job, state, state.failures)
        if written is None:
            raise ConfigError(f"{run_report_path(job.output_path)} cannot be written", key="output.path")
        return written


def _concurrency(limits: Limits) -> str:
    if limits.concurrency == "auto":
        return "adapted to the endpoint (auto)"
    return f"{limits.concurrency:,} at most"


@cache
def _library_versions() -> dict[str, Any]:
    versions_by_name = {}
    for name in _LIBRARIES:
        try:
            versions_by_name[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions_by_name
