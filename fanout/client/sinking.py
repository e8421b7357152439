"""Running rows into a sink: every finished chunk is written on a helper thread, off the workers' path."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from fanout.client.stream import window
from fanout.client.verdicts import raise_if_stopped
from fanout.engine import Ledger, Outbox, RunControl, Stop, feed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.client.session import Session
    from fanout.engine import Run
    from fanout.limits import Permits
    from fanout.types import Done, Result


class Sink(Protocol):
    """What takes finished chunks."""

    def write(self, done: Sequence[Done]) -> None:
        """Write some chunks, in any order. Called on a helper thread, one call at a time. May raise OSError."""


async def run_into(session: Session, rows: Any, sink: Sink, control: RunControl | None) -> Result:
    """Send ``rows``, write what comes to ``sink``. The result has no values. Raises `RunStopped`."""
    room, outbox, ledger = window(session.limits), Outbox(), Ledger()
    feed = feed_of(rows, session.chunk_rows, room)
    run = session.new_run(feed, outbox.put, control)
    writer = _Writer(run, outbox, sink, ledger, room)
    writing = asyncio.create_task(writer.write())
    try:
        await session.execute(run)
    finally:
        outbox.close()
        await _ended(writing)
    result = ledger.result(feed.rows_taken if feed.total is None else feed.total, run.statistics())
    raise_if_stopped(run.stopped or writer.failed, result)
    return result


class _Writer:
    """Writes what comes out of a run, and stops the run where that fails."""

    def __init__(self, run: Run, outbox: Outbox, sink: Sink, ledger: Ledger, room: Permits) -> None:
        self._run = run
        self._outbox = outbox
        self._sink = sink
        self._ledger = ledger
        self._room = room
        self.failed: Stop | None = None
        """Why something could not be written; the run may have ended before."""

    async def write(self) -> None:
        """Write until the outbox is closed and empty. What could not be written stays pending."""
        while group := await self._outbox.take_all():
            try:
                await asyncio.to_thread(self._sink.write, group)
            except OSError as error:  # what is in flight may still fit
                self._fail(str(error))
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
                _release(self._room, group)
                await _discard(self._outbox, self._room)
                raise
            else:
                for done in group:
                    self._ledger.add(done)
            _release(self._room, group)

    def _fail(self, why: str) -> None:
        self.failed = Stop("output", f"the output cannot be written: {why}")
        self._run.stop(self.failed)


async def _discard(outbox: Outbox, room: Permits) -> None:
    """Let the workers come to their end when nobody writes any more."""
    while group := await outbox.take_all():
        _release(room, group)


def _release(room: Permits, group: Sequence[Done]) -> None:
    for _ in group:
        room.release()


async def _ended(writing: asyncio.Task[None]) -> None:
    """Wait until all is written, even if the wait is cancelled: a write half done would be a lie in the ledger."""
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
