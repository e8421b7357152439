"""The report of a job's run: what is recorded of the job, and the page that is written beside its output."""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fanout._version import __version__
from fanout.errors import ConfigError
from fanout.files import PRIVATE, PartialFile
from fanout.io.journal import JournalState, read_state
from fanout.job.problems import locate_errors
from fanout.paths import journal_path, recording_path, run_report_path
from fanout.report import Account, RunRecorder, read_recording, report_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.job.model import Job, Outline
    from fanout.job.report import AnsweredBy
    from fanout.settings import Limits
    from fanout.types import Failure

_log = logging.getLogger("fanout")

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
        "output": str(job.output_path),
        "rows in a request": f"{tables.chunks.rows:,} at most",
        "requests in flight": _concurrency(tables.limits),
        "rates": ", ".join(f"{name} {rate:g}" for name, rate in tables.limits.rates.items()) or "no limit",
        "attempts": f"{tables.retry.max_attempts} at most for a chunk",
        "attempt timeout": f"{tables.timeouts.attempt:g} s",
        "hedged requests": f"{tables.hedge.share:.0%} at most" if tables.hedge.share else "none",
    }
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


def write_report(
    job: Job | Outline, state: JournalState, failures: Sequence[Failure], examples: Sequence[Sequence[str]] = ()
) -> Path | None:
    """Write the report from the recording. Returns its path; None if it could not be written, or nothing was recorded.

    Blocks on I/O.
    """
    path = run_report_path(job.output_path)
    try:
        sessions = read_recording(recording_path(job.output_path))
        if not sessions:
            return None
        account = _account(state, failures, examples)
        page = report_page(job.redactor.text(f"{job.file.name}: {job.output_path.name}"), sessions, account)
        file = PartialFile(path, mode=PRIVATE)
        try:
            # Surrogates stand for bytes of file names that are no text.
            file.append(page.encode("utf-8", "replace"))
            file.close()
            file.path.replace(file.final)
        except OSError:
            file.discard()
            raise
    except OSError as error:
        _log.warning("the report cannot be written: %s", error)
        return None
    return path


def recreate_report(job: Job | Outline) -> Path:
    """Write the report of a job's newest run again, from its recording and its journal.

    Raises:
        ConfigError: nothing was recorded, or a file cannot be read or written.
    """
    journal = journal_path(job.output_path)
    with locate_errors(job.file, redactor=job.redactor):
        try:
            state = read_state(journal)
        except OSError as error:
            raise ConfigError(f"{journal} cannot be read: {error.strerror}", key="output.path") from None
        except ValueError as error:
            raise ConfigError(f"{journal} is damaged: {error}", key="output.path") from None
        if not read_recording(recording_path(job.output_path)):
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


def _account(state: JournalState, failures: Sequence[Failure], examples: Sequence[Sequence[str]]) -> Account:
    n_failed = sum(failure.stop - failure.start for failure in failures)
    n_done = len(state.resolved)
    return Account(
        rows=state.n_rows,
        ok=n_done - n_failed,
        pending=None if state.n_rows is None else state.n_rows - n_done,
        complete=state.complete,
        failures=failures,
        examples=examples,
    )


def _concurrency(limits: Limits) -> str:
    if limits.concurrency == "auto":
        return "adapted to the endpoint (auto)"
    return f"{limits.concurrency:,} at most"


def _library_versions() -> dict[str, Any]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
