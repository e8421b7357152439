"""The journal of one run, for the process that writes it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.errors import ConfigError
from fanout.files import START_FRESH, make_folder
from fanout.io.journal.comparison import Comparison, difference, same_but_for_times, unfinished_run
from fanout.io.journal.records import Damaged, RecordFile
from fanout.io.journal.state import (
    COMPLETE,
    DIGESTS_PER_RECORD,
    JournalState,
    LoadedJournal,
    RecordedJob,
    SentDigests,
    Spent,
    digest_pieces,
    digests_payload,
    end_payload,
    group_payload,
    head_payload,
    identity_payload,
    job_payload,
    load_journal,
    read_digests,
    read_sent,
    read_state,
    retry_payload,
    spending_payload,
    state_payloads,
    successor_payload,
)
from fanout.options import checks_options
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from fanout.files import Publication
    from fanout.io.journal.comparison import Rows
    from fanout.results import ChunkResult, Failure
    from fanout.types import Array, Schema

_KEY = "output.path"
_INPUT = "input"
_CORRECTED = "only rows that failed may change: put the others back, or send the rows that differ, too, with fanout run"


class Journal:
    """An append-only file of the rows that are done. It survives kills and crashes, and one process owns it at a time.

    Args:
        path: the journal's file; see `journal_path`.
        identity: JSON that identifies the run; rows that are done for one identity do not count for another.
        fresh: forget the rows that are done.
        rows: the input's rows, to compare with those that were sent if the input has another identity. If only times
            of change differ, and no row that is done, it is the same input.
        carry: accept another input, so that answers to equal rows can be carried over; see `carry_to`.
        only_failed: the failed rows of a complete run are to be sent again: accept another input in which at most these
            have changed.

    Attributes:
        state: the state of the run.
        resumed_rows: rows that were done when the journal was opened.
        retry: beside the state of a complete run: how far sending its failed rows again has come.
        carry_to: the identity of the run that takes over the answers of `state`, a run of another input.
        corrected_to: the identity of the input in which failed rows of `state` have changed.
        digests_of: returns the digests of some rows as they are committed, `DIGEST_BYTES` each.
        spent: returns the spending at the time of a record; None if it is not counted.

    Raises:
        ConfigError: another process owns it, it belongs to an unfinished run with another identity, it is damaged, or
            it cannot be written.
    """

    @checks_options
    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        fresh: bool = False,
        rows: Rows | None = None,
        carry: bool = False,
        only_failed: bool = False,
    ) -> None:
        self.path = path.resolve()
        self.state = JournalState(identity)
        self.resumed_rows = 0
        self.retry: JournalState | None = None
        self.carry_to: Mapping[str, Any] | None = None
        self.corrected_to: Mapping[str, Any] | None = None
        self.digests_of: Callable[[int, int], bytes] | None = None
        self.spent: Callable[[], Spent] | None = None
        # Answers are committed while a larger allowance is recorded.
        self._lock = threading.Lock()
        try:
            make_folder(self.path.parent)
            self._file = RecordFile(self.path)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            # As it will be read: a tuple becomes a list.
            self._open(orjson.loads(orjson.dumps(identity)), rows, fresh=fresh, carry=carry, only_failed=only_failed)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from None
        except BaseException:
            self.close()
            raise

    def restart(self, identity: Mapping[str, Any] | None = None, *, spent: Spent | None = None) -> None:
        """Forget all rows: begin a run at its first row, with another identity if one is given.

        ``spent`` is the spending that counts for the new run.
        The journal of a complete run stays on the disk until a row of the new run is done. Rows that are not published
        yet are forgotten there at once, before the sink writes over them.
        """
        old, is_unpublished = self.state, not self.state.complete and self._file.number > 0
        # The same identity means an input with the same number of rows, which `fanout status` shows.
        new = JournalState(old.identity, n_rows=old.n_rows) if identity is None else JournalState(identity)
        self.state = replace(new, replaced=old.files(self.path.parent), spent=spent)
        self.resumed_rows, self.carry_to = 0, None
        # The sink is about to overwrite the rows of an unfinished run, which must not count then.
        if is_unpublished:
            self._file.rewrite([head_payload(self.state)])
        else:
            # The rows that were sent again are overwritten too, but the complete run stays.
            if self.retry is not None:
                self._rewrite(old)
            self._file.number = 0
        self.retry = None

    def begin_retry(self, notes: Sequence[Any]) -> None:
        """Forget the failures of a complete run, so that their rows are sent again.

        ``notes`` are the sink's, of the other rows. Until the retry has ended, the run counts as complete.
        """
        identity = self.corrected_to or self.state.identity
        self._append(retry_payload(notes, identity))
        self.state = replace(self.state.retry(notes), identity=identity, notes=[])
        self.resumed_rows = len(self.state.resolved)

    def resume_retry(self) -> None:
        """Go on with sending the failed rows of a complete run again."""
        assert self.retry is not None
        if self.corrected_to is not None:
            self._append(identity_payload(self.corrected_to))
            self.retry.identity = self.corrected_to
        self.state, self.retry = replace(self.retry, spent=self.retry.charged, allowed=None), None
        self.resumed_rows = len(self.state.resolved)

    def discard_retry(self) -> None:
        """Return to the complete run whose failed rows were sent again. Raises `OSError`."""
        assert self.state.complete_run is not None
        complete_run = replace(self.state.complete_run, spent=self.state.charged)
        self._rewrite(complete_run)
        self.state = complete_run

    def replace_with(
        self, state: JournalState, notes: Sequence[Any], digests: Array | None, files: Publication
    ) -> None:
        """Become the journal of another run, some rows of which are done. Durable on return.

        Args:
            state: of the other run.
            notes: the sink's.
            digests: of its rows, of which only those that are done count; None if they are unknown.
            files: take their names in one step with this journal.

        Raises `OSError`.
        """
        folder = self.path.parent

        def publish_files() -> None:
            # From this record on, the step is finished by any process that opens the journal.
            self._append(successor_payload(files, folder))
            files.carry_out()

        known = []
        if digests is not None:
            known = [(a, b, digests[a:b].tobytes()) for a, b in digest_pieces(state.resolved)]
        payloads = state_payloads(state, notes, known, folder)
        self._file.rewrite(payloads, publish_files if files.moves else None)
        self.state, self.carry_to, self.retry = state, None, None
        self.resumed_rows = len(state.resolved)

    def commit(self, results: Sequence[ChunkResult], note: Any, schema: Schema | None) -> None:
        """Record that chunks are done; their data must be on the disk. Durable on return. An `OSError` is final."""
        rows = RowSet()
        failures: list[Failure] = []
        for chunk in results:
            rows.add(chunk.start, chunk.stop)
            for pending in chunk.pending:
                rows.remove(pending.start, pending.stop)
            failures += chunk.failures
        # The schema is recorded once, with the first answers.
        new_schema = schema if self.state.schema is None else None
        with self._lock:
            state, digests = self.state, self._digests_for(rows)
            # Taken with the record: the spending of these rows is in it.
            state.spent = state.spent if self.spent is None else self.spent()
            self._append(group_payload(rows, failures, note, new_schema, digests, state.spent, state.allowed))
        self.state.schema = self.state.schema or schema
        for start, stop in rows:
            self.state.resolved.add(start, stop)
        self.state.failures += failures

    def allow(self, allowed: tuple[float, float] | None) -> None:
        """Record the spending, and that it may grow to ``allowed`` (cost and tokens) before the next call.

        A process that is killed counts as having spent that. Durable on return. With None the process spends no more.
        """
        with self._lock:
            if self.spent is not None:
                self.state.spent, self.state.allowed = self.spent(), allowed
                self._append(spending_payload(self.state.spent, allowed))

    def record_job(self, start: int, stop: int, job: RecordedJob) -> None:
        """Record the job that an asynchronous API was given for some rows. Durable on return."""
        with self._lock:
            self._append(job_payload(start, stop, job))

    def notes(self) -> list[Any]:
        """Return the sink's notes, in order. Read from the file, because a long run has too many to keep."""
        state = read_state(self.path) if self._file.number else None
        if state is None:
            return []
        return (state.complete_run or state).notes if self.state.complete else state.notes

    def sent(self) -> SentDigests:
        """Return the digests of rows that were sent. Read from the file."""
        if not self._file.number:
            return SentDigests(np.zeros((0, 2), np.uint64), RowSet())
        return read_sent(self.path, self.state.resolved)

    def compare(self, rows: Rows) -> Comparison:
        """Compare the rows that are done with those of the input as it is now. Blocks on I/O."""
        return Comparison(self.state, self.sent(), rows)

    @property
    def replaced_files(self) -> list[Path]:
        """Files of earlier runs, of which the publication removes those that this run does not replace."""
        return [self.path.parent / name for name in self.state.replaced]

    def publish(self, n_rows: int, publication: Publication) -> None:
        """Record that all rows are done, and give the files their names. Durable on return; a kill delays it only."""
        self._append(end_payload(n_rows, publication, self.path.parent))
        self.state.n_rows, self.state.publication, self.state.complete = n_rows, publication, False
        self.finish_publication()

    def finish_publication(self) -> None:
        """Carry out the publication that was begun."""
        assert self.state.publication is not None
        self.state.publication.carry_out()
        # A kill before this record repeats the publication, which changes nothing then.
        self._append(COMPLETE)
        self.state.complete, self.state.complete_run = True, None

    def close(self) -> None:
        """Close the file; remove it if no row was done."""
        self._file.close()

    def __repr__(self) -> str:
        return f"<Journal {self.path.name} {len(self.state.resolved):,} rows done>"

    def _open(
        self, identity: Mapping[str, Any], rows: Rows | None, *, fresh: bool, carry: bool, only_failed: bool
    ) -> None:
        self.state = JournalState(identity)
        try:
            loaded = load_journal(self.path)
        except (Damaged, ValueError, KeyError, TypeError) as error:
            if not fresh:
                raise ConfigError(f"{self.path} is damaged: {error}; {START_FRESH}", key=_KEY) from None
            # The damaged records count as one of an unfinished run, which is replaced at once.
            loaded = LoadedJournal(JournalState(identity), 1, 0)
        if loaded is None:
            return
        old = loaded.state
        if old.successor is not None:
            # A kill has interrupted `replace_with` after its files were recorded: finish it.
            old.successor.carry_out()
            self._file.adopt_rewritten()
            self._open(identity, rows, fresh=fresh, carry=carry, only_failed=only_failed)
        elif fresh:
            self._file.number = loaded.number
            self.state = replace(old, identity=identity, n_rows=old.n_rows if old.identity == identity else None)
            self.restart()
        elif old.identity == identity:
            self._resume(loaded)
        else:
            self._open_other(loaded, identity, rows, carry=carry, only_failed=only_failed)

    def _open_other(
        self,
        loaded: LoadedJournal,
        identity: Mapping[str, Any],
        rows: Rows | None,
        *,
        carry: bool,
        only_failed: bool,
    ) -> None:
        """Open a journal with another identity."""
        old = loaded.state
        if not old.resolved and not old.is_retry and not old.complete:
            # Only an allowance was recorded, and no answer contradicts the new identity.
            self._resume(loaded)
            self.restart(identity, spent=old.charged)
            return
        other = difference(old.identity, identity)
        is_finished = old.complete or old.is_retry
        is_comparable = other == _INPUT and rows is not None
        is_touched = is_comparable and same_but_for_times(old.identity, identity)
        comparison = None
        # Comparing reads the whole input, so it is done only if the result can decide.
        if rows is not None and (is_touched or (is_comparable and not is_finished and not carry)):
            sent = read_sent(self.path, old.resolved)
            comparison = Comparison(old.complete_run or old, sent, rows)
        if is_touched and comparison is not None and comparison.is_same:
            self._resume(loaded)
            self._append(identity_payload(identity))
            self.state = replace(self.state, identity=identity)
        elif carry:
            if not is_comparable:
                reason = "these rows can be read only once"
                if other != _INPUT:
                    reason = f"it is of a run with another {other}"
                problem = f"answers of {self.path} cannot be carried over: {reason}"
                raise ConfigError(f"{problem}; {START_FRESH}", key=_KEY)
            self._resume(loaded)
            self.carry_to = identity
        elif only_failed and is_finished and is_comparable and rows is not None:
            self._open_corrected(loaded, identity, rows)
        elif is_finished:
            self._resume(loaded)
            self.restart(identity)
        else:
            raise unfinished_run(self.path, other, comparison)

    def _open_corrected(self, loaded: LoadedJournal, identity: Mapping[str, Any], rows: Rows) -> None:
        """Open the journal of a complete run for an input in which its failed rows have changed."""
        complete_run = loaded.state.complete_run or loaded.state
        sent = read_sent(self.path, complete_run.resolved)
        comparison = Comparison(complete_run, sent, rows, only_ok=True)
        if not comparison.is_same:
            problem = f"the failed rows of {self.path} cannot be sent alone, for the input has changed"
            raise ConfigError(f"{problem} ({comparison.text}); {_CORRECTED} --carry (carry=True)", key=_KEY)
        self._resume(loaded)
        self.corrected_to = identity
        # Rows that were sent again have changed once more: their new answers count no longer.
        if self.retry is not None and not Comparison(self.retry, sent, rows).is_same:
            self.state = replace(complete_run, spent=self.retry.charged, notes=[])
            self._rewrite(self.state)
            self.retry = None

    def _resume(self, loaded: LoadedJournal) -> None:
        self._file.resume(loaded.number, loaded.size)
        # The process that wrote it may have been killed before its own fsync, and these rows count from now on.
        if not loaded.state.complete:
            self._file.sync()
        # The notes are read again when they are needed.
        state = replace(loaded.state, notes=[])
        if state.is_retry and state.complete_run is not None:
            self.retry, state = state, replace(state.complete_run, identity=state.identity, notes=[])
        # The process that was allowed to spend more has ended, so that its allowance counts as spent.
        self.state = replace(state, spent=state.charged, allowed=None)
        self.resumed_rows = len(state.resolved)

    def _digests_for(self, rows: RowSet) -> bytes:
        """Return the digests for the record of some rows; too many of them get records of their own, before it."""
        if self.digests_of is None:
            return b""
        pieces = list(digest_pieces(rows))
        if len(rows) <= DIGESTS_PER_RECORD:
            return b"".join(self.digests_of(start, stop) for start, stop in pieces)
        for start, stop in pieces:
            self._append(digests_payload(start, stop, self.digests_of(start, stop)))
        return b""

    def _append(self, payload: bytes) -> None:
        # The first record replaces the journal of an earlier run in one step.
        if not self._file.number:
            self._file.rewrite([head_payload(self.state)])
        self._file.append(payload)

    def _rewrite(self, state: JournalState) -> None:
        """Replace the records by those of a complete run, with the digests that are there."""
        digests = read_digests(self.path)
        self._file.rewrite(state_payloads(state, [], digests, self.path.parent))

    def _unwritable(self, error: OSError) -> ConfigError:
        if isinstance(error, BlockingIOError):
            return ConfigError(f"another run is writing {self.path} at this moment", key=_KEY)
        return ConfigError(f"{self.path} cannot be written: {error.strerror or error}", key=_KEY)
