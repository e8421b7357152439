"""Where a journalled run begins: at its first row, in the middle, or nowhere because it is complete."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.engine import RowStatus
from fanout.errors import ConfigError
from fanout.files import START_FRESH
from fanout.io.journal import JournalState
from fanout.io.writers import Checkpoint, FileSink, Move
from fanout.rowset import RowSet
from fanout.types import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.client.content import Content
    from fanout.client.sinking import Sink
    from fanout.io.journal import Journal
    from fanout.types import Result


def complete(sink: Sink | FileSink, journal: Journal) -> Result | None:
    """The account of a run that has come to its end; None if rows are left to be sent.

    A publication that was broken off is carried out. If the output of a complete run is gone, the run begins anew.

    Raises `ConfigError` where the files cannot be put in place.
    """
    publication = journal.state.publication
    if publication is None:
        return None
    if journal.state.complete and not publication.is_in_place:
        journal.restart()
        return None
    if not journal.state.complete:
        try:
            journal.finish_publication()
        except OSError as error:
            remedy = f": put it back, or {START_FRESH}" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError(f"the output could not be finished: {error}{remedy}", key="output.path") from None
    if isinstance(sink, FileSink):
        sink.set_published(publication)
    state = journal.state
    return RowStatus(state.resolved, state.failures).result(state.n_rows or 0, Statistics())


def reopen_failures(sink: FileSink, journal: Journal) -> None:
    """Make a complete run one in which only the rows that have failed are left to be sent.

    Until these have been, the run stays complete to all others, with its output and its failures as they were.

    Raises `ConfigError` if the run is not complete, or its output cannot be read or copied.
    """
    complete(sink, journal)
    state = journal.state
    if not state.complete:
        raise ConfigError("the run has not come to its end: run the job without --only-failed first", key="output.path")
    if journal.retry is not None:
        journal.resume_retry()
        return
    with _adopting(sink):
        notes: list[Any] = []
        if state.schema is not None:
            moves = [Move(start, stop, start) for start, stop in state.ok]
            notes, _ = sink.rebuild(Checkpoint(state.schema, state.ok), moves, published=True)
        journal.begin_retry(notes)


def carry_over(sink: FileSink, journal: Journal, content: Content | None) -> None:
    """Make a journal of another input that of this one, with the answers to rows that both have.

    A run that is complete leaves its output in place. Does nothing where the journal is not to be carried over.

    Raises `ConfigError` if the answers that are there cannot be read or copied.
    """
    identity = journal.carry_to
    if identity is None or content is None:
        return
    complete(sink, journal)  # files that a kill has left under their temporary names
    state = journal.state
    if journal.carry_to is None or state.schema is None:
        journal.restart(identity)
        return
    sent, known = journal.sent()
    answered = RowSet(known)
    for start, stop in known:
        for a, b in state.ok.gaps(start, stop):
            answered.remove(a, b)
    found = content.found_in(answered, sent)
    with _adopting(sink):
        earlier = Checkpoint(state.schema, state.ok, journal.notes())
        notes, files = sink.rebuild(earlier, found.moves, published=state.complete)
        kept = RowSet((move.to, move.to + move.stop - move.start) for move in found.moves)
        new = JournalState(identity, kept, schema=state.schema, n_rows=len(found.digests))
        journal.replace_with(new, notes, found.digests, files)


def withdraw(sink: FileSink, journal: Journal, suspect: RowSet) -> None:
    """Forget the answers to ``suspect`` rows, and the failures: all these are to be sent again. The sink is closed.

    Where the failed rows of a complete run are sent again, that is begun from the start, as it was complete before.

    Raises `ConfigError` if the answers that are there cannot be read or copied.
    """
    state = journal.state
    if state.complete_run is not None:
        journal.discard_retry()
        return
    kept = RowSet(state.ok)
    for start, stop in suspect:
        kept.remove(start, stop)
    if state.schema is None or not kept:
        journal.restart()
        return
    digests, known = journal.sent()
    with _adopting(sink):
        moves = [Move(start, stop, start) for start, stop in kept]
        earlier = Checkpoint(state.schema, state.ok, journal.notes())
        notes, files = sink.rebuild(earlier, moves, published=False)
        new = JournalState(state.identity, kept, schema=state.schema, n_rows=state.n_rows, replaced=state.replaced)
        journal.replace_with(new, notes, digests if known else None, files)


@contextmanager
def _adopting(sink: FileSink) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{sink.path} cannot be gone on with: {error}", key="output.path") from None
