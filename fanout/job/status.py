"""How far a job's run has come, from its journal alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.io.journal import read_state, same_but_for_times
from fanout.job.blame import blaming
from fanout.job.model import Outline
from fanout.job.run import client_of, read_input
from fanout.job.summary import SCHEMA_VERSION
from fanout.paths import journal_path

if TYPE_CHECKING:
    from fanout.io.journal import JournalState
    from fanout.job.model import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a journal tells of the newest run."""

    schema_version: int = SCHEMA_VERSION
    journal: str
    begun: bool
    """A row of the run is done."""

    complete: bool
    """The run has come to its end, and the output is in place."""

    rows: int | None
    """Rows of the whole input; None where they are not known before its end."""

    ok: int
    failed: int
    pending: int | None
    current: bool | None
    """The job's input, codec and URL are still those of the run; None where variables that they need are not set."""

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON has it."""
        return asdict(self)


def job_status(job: Job | Outline) -> Status:
    """Read the journal of a job, which may be running at this moment. Raises `ConfigError` if it cannot be believed."""
    path = journal_path(job.output_path)
    with blaming(job.file, redactor=job.redactor):
        try:
            state = read_state(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", key="output.path") from None
        except ValueError as error:
            raise ConfigError(f"{path} is damaged: {error}", key="output.path") from None
        if state is None:
            return Status(
                journal=str(path), begun=False, complete=False, rows=None, ok=0, failed=0, pending=None, current=True
            )
        if state.complete_run is not None and state.publication is None:
            state = state.complete_run
        return _status(job, str(path), state)


def _status(job: Job | Outline, path: str, state: JournalState) -> Status:
    done, failed = len(state.resolved), state.failed
    pending = None if state.n_rows is None else state.n_rows - done
    return Status(
        journal=path,
        begun=True,
        complete=state.complete,
        rows=state.n_rows,
        ok=done - failed,
        failed=failed,
        pending=pending,
        current=None if isinstance(job, Outline) else _is_of(job, state),
    )


def _is_of(job: Job, state: JournalState) -> bool:
    return same_but_for_times(state.identity, client_of(job).identity(read_input(job)))
