"""Where a journalled run begins: at its first row, in the middle, or nowhere because it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.engine import Ledger
from fanout.errors import ConfigError
from fanout.files import ANEW
from fanout.sinks import Earlier, FileSink, Move
from fanout.types import Statistics

if TYPE_CHECKING:
    from fanout.client.sinking import Sink
    from fanout.journal import Journal
    from fanout.types import Result


def complete(sink: Sink | FileSink, journal: Journal) -> Result | None:
    """The account of a run that has come to its end; None if rows are left to be sent.

    A publication that was broken off is carried out. If the output of a complete run is gone, the run begins anew.

    Raises `ConfigError` where the files cannot be put in place.
    """
    publication = journal.state.publication
    if publication is None:
        return None
    if journal.state.complete and not publication.whole:
        journal.begin()
        return None
    if not journal.state.complete:
        try:
            journal.finish()
        except OSError as error:
            remedy = f": put it back, or {ANEW}" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError(f"the output could not be finished: {error}{remedy}", key="output.path") from None
    if isinstance(sink, FileSink):
        sink.recall(publication)
    state = journal.state
    return Ledger(state.resolved, state.failures).result(state.n_rows or 0, Statistics())


def reopen_failures(sink: FileSink, journal: Journal) -> None:
    """Make a complete run one in which only the rows that have failed are left to be sent.

    Raises `ConfigError` if the run is not complete, or its output cannot be read or copied.
    """
    state = journal.state
    if not state.complete:
        raise ConfigError("the run has not come to its end: run the job without --only-failed first", key="output.path")
    try:
        notes: list[Any] = []
        if state.form is not None:
            moves = [Move(start, stop, start) for start, stop in state.ok]
            notes, _ = sink.adopt(Earlier(state.form, state.ok), moves, published=True)
        journal.begin_again(notes)
    except OSError as error:
        raise ConfigError(f"{sink.path} cannot be gone on with: {error}", key="output.path") from None
