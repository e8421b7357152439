"""The journal of a job, beside its output: opened by a run, read by ``fanout status`` and ``fanout report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.client import content_of, open_journal, reopen_failures
from fanout.errors import ConfigError
from fanout.io.journal.format import read_state
from fanout.io.parts import PartsFolder, add_parts
from fanout.paths import journal_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.io.journal.journal import Journal
    from fanout.io.journal.state import JournalState, Spent
    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.job.model import Job, Outline


def read_journal(job: Job | Outline) -> JournalState | None:
    """Return the state of a job's newest run, which may be under way; None if no row is done.

    Raises `ConfigError` if the journal cannot be read, or is damaged.
    """
    path, folder = journal_path(job.output_path), PartsFolder(job.output_path)
    try:
        # The parts of a run on a cluster pass into its journal: read first, none of their rows is missed.
        manifest = folder.read_manifest()
        state = read_state(path)
        is_open = state is None or (state.publication is None and not state.is_retry)
        return add_parts(state, folder, manifest) if manifest is not None and is_open else state
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", key="output.path") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}", key="output.path") from None


def open_job_journal(
    job: Job, identity: dict[str, Any], source: Source, sink: FileSink, *, fresh: bool, carry: bool, only_failed: bool
) -> Journal:
    """Open the journal beside the job's output. Raises `ConfigError` if it belongs to another run. Blocks on I/O."""
    path = journal_path(job.output_path)
    journal = open_journal(path, identity, content_of(source), sink, fresh=fresh, carry=carry, only_failed=only_failed)
    # Rows from stdin cannot be compared with those of the earlier run.
    if journal.resumed_rows and not source.repeatable and not journal.state.complete:
        journal.close()
        raise ConfigError(
            f"{journal.path} belongs to an unfinished run, but rows from a stream cannot be compared with its rows: "
            "save them to a file to be able to resume, or discard the run with fanout run --fresh",
            key="input.path",
        )
    return journal


def require_own_output(job: Job, identity: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a mock or a replay would overwrite the output of another job."""
    path = journal_path(job.output_path)
    try:
        state = read_state(path)
    except (OSError, ValueError):  # opening the journal reports these
        return
    # A journal of a rehearsal has the key of its mock, and one of a paid run has not.
    if state is not None and not identity.keys() <= state.identity.keys():
        raise ConfigError(
            f"{job.output_path} is the output of another job, as {path.name} beside it says; a rehearsal or a replay "
            "would replace it: give the other job's output another name",
            key="output.path",
        )


def require_no_whole_run(job: Job, identity: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a run of some rows would replace the output of a complete run of all rows."""
    state = read_journal(job)
    if state is None or "rows" not in (identity.get("input") or ()):
        return
    if (state.complete or state.is_retry) and "rows" not in (state.identity.get("input") or ()):
        raise ConfigError(
            f"{job.output_path} has the answers to all rows, and a run of some rows would replace them: give these "
            "rows an output of their own, such as --set output.path=pilot"
            f"{job.output_path.suffix}, or discard the answers with --fresh",
            key="output.path",
        )


def require_no_parts(job: Job, fresh: bool) -> None:
    """Raise `ConfigError` if a killed run on a cluster has left rows that only another such run can collect.

    ``fresh`` discards them.
    """
    folder = PartsFolder(job.output_path)
    if fresh:
        try:
            folder.remove()
        except OSError as error:
            raise ConfigError(f"{folder.path} cannot be removed: {error.strerror}", key="output.path") from None
    elif folder.read_manifest() is not None:
        raise ConfigError(
            f"{folder.path} has rows of a run on several workers, which were paid for: go on with fanout run --on "
            "processes (or the engine that it ran on), or remove the folder",
            key="output.path",
        )


def reopen_failed_rows(sink: FileSink, journal: Journal) -> None:
    """Let the failed rows of a complete run be sent again. Raises `ConfigError` if there is no such run."""
    if not journal.resumed_rows:
        raise ConfigError(
            "there is no earlier run of this input, codec and path of the URL whose failed rows could be sent again: "
            "run the job without --only-failed first",
            key="output.path",
        )
    # A complete run without failures has nothing to send, and is reported as it is. Columns that its output keeps may
    # have changed in another input.
    if journal.state.failures or journal.corrected_to is not None:
        reopen_failures(sink, journal)


def output_identity(job: Job) -> dict[str, Any]:
    """Return the part of a run's identity that decides on the columns of its output."""
    return {"keep_usage": True} if job.tables.output.keep_usage else {}


def known_cost(spent: Spent | None, rows: int) -> float | None:
    """Return the cost that a journal with so many finished rows records; None if it is unknown."""
    if spent is None:
        return None if rows else 0.0
    return spent.cost if spent.is_known else None
