"""The start of a journalled run: at its first row, at the rows that are left, or nowhere because it is complete."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.client.jobs import jobs_among
from fanout.engine import RowStatus
from fanout.errors import ConfigError, InputError
from fanout.files import START_FRESH
from fanout.io.journal.journal import Journal
from fanout.io.journal.state import JournalState, Spending
from fanout.io.readers.base import Source
from fanout.io.writers.base import Checkpoint, FileSink, Move
from fanout.results import ChunkResult, Statistics
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fanout.client.file_run import Sink
    from fanout.client.identity import Content
    from fanout.engine import Chunker
    from fanout.io.publication import Publication
    from fanout.results import Result

_KEY = "output.path"


def open_journal(
    path: Path,
    identity: Mapping[str, Any],
    content: Content | None,
    sink: FileSink,
    *,
    fresh: bool = False,
    carry: bool = False,
    only_failed: bool = False,
) -> Journal:
    """Open a journal, and with ``carry`` keep its answers to equal rows of another input.

    With ``only_failed``, the input may be one in which failed rows of a complete run have changed.

    Raises `ConfigError` as `Journal` does, or if the answers cannot be read or copied.
    """
    journal = Journal(path, identity, fresh=fresh, rows=content, carry=carry, only_failed=only_failed)
    try:
        _carry_over(sink, journal, content)
    except BaseException:
        journal.close()
        raise
    return journal


def complete(sink: Sink | FileSink, journal: Journal) -> Result | None:
    """Return the account of a run that has come to its end; None if rows are left to send.

    Finishes an interrupted publication. If the output of a complete run is gone, the run begins anew. If the output has
    other columns than ``sink`` would write, it is written again from its own answers.

    Raises `ConfigError` if the files cannot be put in place, or the output cannot have these columns.
    """
    publication = _finished_publication(journal)
    if publication is None:
        return None
    state = journal.state
    result = RowStatus(state.resolved, state.failures).result(state.n_rows or 0, Statistics())
    if isinstance(sink, FileSink):
        sink.set_published(publication)
        published = Checkpoint(state.schema, state.ok, layout=state.layout)
        if journal.retry is None and sink.is_outdated(published):
            _write_again(sink, journal, published, result)
    return result


def _finished_publication(journal: Journal) -> Publication | None:
    """Return the publication of a run that has come to its end, carried out; None if rows are left to send."""
    publication = journal.state.publication
    if publication is None:
        return None
    # The user has removed the output, most likely to have the run repeated.
    if journal.state.complete and not publication.is_in_place:
        journal.restart()
        return None
    if not journal.state.complete:
        try:
            journal.finish_publication()
        except OSError as error:
            remedy = f": put it back, or {START_FRESH}" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError(f"the output could not be finished: {error}{remedy}", key=_KEY) from None
    return publication


def _write_again(sink: FileSink, journal: Journal, published: Checkpoint, result: Result) -> None:
    """Write the output of a complete run again, with other columns. Until it is whole, the old one stays in place."""
    with _rebuilding(sink):
        moves = [Move(start, stop, start) for start, stop in published.ok]
        notes, _ = sink.rebuild(published, moves, published=True)
        try:
            sink.open(len(result.ok), published._replace(notes=notes))
            # Rows without an answer are in the output with their ids.
            sink.write(
                [
                    ChunkResult(start=one.start, stop=one.stop, outputs=None, failures=(one,), ids=one.ids)
                    for one in result.failures
                    if one.ids
                ]
            )
            journal.publish(len(result.ok), sink.finish(result, journal.replaced_files))
        finally:
            sink.close()


def reopen_failures(sink: FileSink, journal: Journal) -> None:
    """Turn a complete run into one in which only the failed rows are left to send.

    Until these have been sent, other processes see a complete run, with its output and its failures.

    Raises `ConfigError` if the run is not complete, or its output cannot be read or copied.
    """
    # A kill may have come between the last record and the renames.
    _finished_publication(journal)
    state = journal.state
    if not state.complete:
        raise ConfigError("the run has not come to its end: run the job without --only-failed first", key=_KEY)
    if journal.retry is not None:
        journal.resume_retry()
        return
    with _rebuilding(sink):
        notes: list[Any] = []
        # Without a schema no row has an answer, and there is nothing to copy.
        if state.schema is not None:
            moves = [Move(start, stop, start) for start, stop in state.ok]
            checkpoint = Checkpoint(state.schema, state.ok, journal.notes(), state.layout)
            notes, _ = sink.rebuild(checkpoint, moves, published=True)
        journal.begin_retry(notes)


def _carry_over(sink: FileSink, journal: Journal, content: Content | None) -> None:
    """Make a journal of another input that of this one, with the answers to rows that both have.

    The output of a complete run stays in place. Does nothing if the journal is not to be carried over.
    """
    identity = journal.carry_to
    if identity is None or content is None:
        return
    # A kill may have left the files under their temporary names.
    _finished_publication(journal)
    if journal.retry is not None:
        # Answers, jobs and spending of a process that was sending the failed rows again count as well.
        journal.resume_retry()
    state = journal.state
    # What an unfinished run has spent counts for its successor; a complete one has its account settled.
    spent = None if state.complete else state.charged
    if journal.carry_to is None or state.schema is None:
        jobs = jobs_among(content, state.jobs_under_way, RowSet(), journal.digest_method)
        journal.restart(identity, spent=spent, jobs=jobs)
        return
    sent = journal.sent()
    # Only rows with an answer and a digest can be compared.
    answered = RowSet(sent.known)
    for start, stop in sent.known:
        for a, b in state.ok.gaps(start, stop):
            answered.remove(a, b)
    matches = content.match(answered, sent)
    with _rebuilding(sink):
        checkpoint = Checkpoint(state.schema, state.ok, journal.notes(), state.layout)
        notes, files = sink.rebuild(checkpoint, matches.moves, published=state.complete)
        kept = RowSet((move.to, move.to + move.stop - move.start) for move in matches.moves)
        jobs = jobs_among(content, state.jobs_under_way, kept, journal.digest_method)
        new = JournalState(
            identity,
            kept,
            schema=state.schema,
            n_rows=len(matches.digests),
            spending=Spending(spent),
            jobs=jobs,
        )
        journal.replace_with(new, notes, matches.digests, files)


def withdraw(sink: FileSink, journal: Journal, suspect: RowSet) -> None:
    """Forget the answers to ``suspect`` rows, and the failures, so that all these are sent again. The sink is closed.

    A retry of failed rows is discarded as a whole: the run is complete again, as before.

    Raises `ConfigError` if the answers cannot be read or copied.
    """
    state = journal.state
    if state.complete_run is not None:
        journal.discard_retry()
        return
    # A failure may be the answer to another row, too.
    kept = RowSet(state.ok)
    for start, stop in suspect:
        kept.remove(start, stop)
    if state.schema is None or not kept:
        journal.restart(spent=state.charged)
        return
    sent = journal.sent()
    with _rebuilding(sink):
        moves = [Move(start, stop, start) for start, stop in kept]
        checkpoint = Checkpoint(state.schema, state.ok, journal.notes())
        notes, files = sink.rebuild(checkpoint, moves, published=False)
        new = JournalState(
            state.identity, kept, schema=state.schema, n_rows=state.n_rows, replaced=state.replaced,
            spending=Spending(state.charged),
        )  # fmt: skip
        journal.replace_with(new, notes, sent.digests if sent.known else None, files)


def require_same_rows(chunker: Chunker | None, content: Content | None, journal: Journal) -> None:
    """Raise `InputError` if rows that were sent have changed since. Blocks on I/O.

    The content decides: a file that was only touched, or replaced by one with the same rows, is the same input.
    Without a chunker, rows were sent elsewhere, and the fingerprints are compared.
    """
    if content is None:
        return
    changed = None if chunker is None else chunker.changed_file(strict=True)
    if changed is None and isinstance(content.rows, Source) and content.rows.files:
        # The file may have been replaced between the opening of the journal and that of the chunker.
        recorded = journal.state.identity.get("input")
        if recorded is not None and recorded != content.fingerprint():
            changed = content.rows.files[0]
    if changed is None:
        return
    # Only rows that were sent are compared: the others are read as they are now.
    comparison = journal.compare(content)
    if not comparison.is_same:
        remedy = "put it back, or send the rows that differ with fanout run --carry (carry=True)"
        raise InputError(f"{changed} was changed while it was read: {comparison.text}; {remedy}", key="input.path")


@contextmanager
def _rebuilding(sink: FileSink) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{sink.path} cannot be resumed: {error}", key=_KEY) from None
