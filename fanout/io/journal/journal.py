"""The journal of one run, for the process that writes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.io.journal.comparison import Comparison, SentDigests, read_sent
from fanout.io.journal.format import (
    DIGESTS_PER_RECORD,
    digest_pieces,
    group,
    read_state,
    spending_as_json,
    state_payloads,
)
from fanout.io.journal.opening import OpenedJournal
from fanout.io.journal.state import JournalState, RecordedJob, Spending
from fanout.options import checks_options
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.client.identity import Content
    from fanout.io.publication import Publication
    from fanout.results import ChunkResult, Failure
    from fanout.types import Array, Schema


@checks_options
class Journal(OpenedJournal):
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
        digest_method: name of the method of the rows' digests; see `row_digests`.
        digests_of: returns the digests of some rows as they are committed, `DIGEST_BYTES` each.
        spent: returns the spending at the time of a record; None if it is not counted.

    Raises:
        ConfigError: another process owns it, it belongs to an unfinished run with another identity, it is damaged, or
            it cannot be written.
    """

    def begin_retry(self, notes: Sequence[Any]) -> None:
        """Forget the failures of a complete run, so that their rows are sent again.

        ``notes`` are the sink's, of the other rows. Until the retry has ended, the run counts as complete.
        """
        identity = self.corrected_to or self.state.identity
        self._append(retry=list(notes), identity=identity)
        self.state = replace(self.state.retry(notes), identity=identity, notes=[])
        self.resumed_rows = len(self.state.resolved)

    def resume_retry(self) -> None:
        """Go on with sending the failed rows of a complete run again."""
        assert self.retry is not None
        if self.corrected_to is not None:
            self._append(identity=self.corrected_to)
            self.retry.identity = self.corrected_to
        self.state, self.retry = replace(self.retry, spending=Spending(self.retry.charged)), None
        self.resumed_rows = len(self.state.resolved)

    def discard_retry(self) -> None:
        """Return to the complete run whose failed rows were sent again. Raises `OSError`."""
        assert self.state.complete_run is not None
        complete_run = replace(self.state.complete_run, spending=Spending(self.state.charged))
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
            self._append(successor=files.as_json(folder))
            files.carry_out()

        known = []
        if digests is not None:
            known = [(a, b, digests[a:b].tobytes()) for a, b in digest_pieces(state.resolved)]
        payloads = state_payloads(state, notes, self.digest_method, known, folder)
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
            if self.spent is not None:
                state.spending = state.spending._replace(spent=self.spent())
            self._append(digests, **group(rows, failures, note, new_schema), **spending_as_json(state.spending))
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
                self.state.spending = Spending(self.spent(), allowed)
                self._append(**spending_as_json(self.state.spending))

    def record_job(self, start: int, stop: int, job: RecordedJob) -> None:
        """Record the job that an asynchronous API was given for some rows. Durable on return."""
        with self._lock:
            self._append(job=[start, stop, *job])

    def notes(self) -> list[Any]:
        """Return the sink's notes, in order. Read from the file, because a long run has too many to keep."""
        state = read_state(self.path) if self._file.number else None
        if state is None:
            return []
        return (state.complete_run or state).notes if self.state.complete else state.notes

    def sent(self) -> SentDigests:
        """Return the digests of rows that were sent. Read from the file."""
        if not self._file.number:
            return SentDigests(np.zeros((0, 2), np.uint64), RowSet(), self.digest_method)
        return read_sent(self.path, self.state.resolved)

    def compare(self, rows: Content) -> Comparison:
        """Compare the rows that are done with those of the input as it is now. Blocks on I/O."""
        return Comparison(self.state, self.sent(), rows)

    @property
    def replaced_files(self) -> list[Path]:
        """Files of earlier runs, of which the publication removes those that this run does not replace."""
        return [self.path.parent / name for name in self.state.replaced]

    def publish(self, n_rows: int, publication: Publication) -> None:
        """Record that all rows are done, and give the files their names. Durable on return; a kill delays it only."""
        self._append(n_rows=n_rows, publication=publication.as_json(self.path.parent))
        self.state.n_rows, self.state.publication, self.state.complete = n_rows, publication, False
        self.finish_publication()

    def finish_publication(self) -> None:
        """Carry out the publication that was begun."""
        assert self.state.publication is not None
        self.state.publication.carry_out()
        # A kill before this record repeats the publication, which changes nothing then.
        self._append(complete=True)
        self.state.complete, self.state.complete_run = True, None

    def _digests_for(self, rows: RowSet) -> bytes:
        """Return the digests for the record of some rows; too many of them get records of their own, before it."""
        if self.digests_of is None:
            return b""
        pieces = list(digest_pieces(rows))
        if len(rows) <= DIGESTS_PER_RECORD:
            return b"".join(self.digests_of(start, stop) for start, stop in pieces)
        for start, stop in pieces:
            self._append(self.digests_of(start, stop), digests=[[start, stop]])
        return b""
