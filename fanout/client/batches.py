"""Sends the batches of `predict`: each by a first attempt without a run, and by a run where that does not suffice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fanout.client.outcome import answer_callers, settle_callers, settle_remaining_callers
from fanout.engine import Batcher, Until, as_rows
from fanout.engine.first_attempts import FirstAttempts, may_be_first
from fanout.errors import CallbackError

if TYPE_CHECKING:
    from fanout.client.options import ClientSettings
    from fanout.client.session import Session
    from fanout.engine import Batch
    from fanout.engine.first_attempts import Begun
    from fanout.results import ChunkResult
    from fanout.types import Rows
    from fanout.upstream.group import EndpointGroup

# Seconds for which the first row of a batch waits for others.
_LINGER = 0.002


class Batches:
    """Sends the batches of a session."""

    def __init__(self, session: Session, group: EndpointGroup, settings: ClientSettings) -> None:
        self._session = session
        self._group = group
        self._settings = settings
        tracing, chunks = settings.tracing, settings.chunks
        # A run alone is traced, and packs its rows.
        self._needs_runs = tracing is not None or chunks.max_bytes is not None or chunks.max_tokens is not None
        self.batcher = Batcher(
            self._send, max_rows=self._most_rows, limiter=lambda: group.limiter, linger=_LINGER,
            max_pending=settings.max_pending, longest_run=group.timeouts.run,
            trace=None if tracing is None else tracing.caller,
        )  # fmt: skip

    def _most_rows(self) -> int:
        chunk_rows = self._settings.chunks.rows
        return min(chunk_rows, self._session.prepared_codec.max_rows or chunk_rows)

    async def _send(self, batch: Batch) -> None:
        """Send a batch, and then others that wait, as long as the first attempt of each succeeds."""
        self.batcher.started(batch)
        begun = None
        if self._may_begin(batch):
            unsettled = await self._send_first(batch)
            if unsettled is None:
                return
            batch, begun = unsettled
        await self._run(batch, begun)

    async def _send_first(self, batch: Batch) -> tuple[Batch, Begun | None] | None:
        """Make first attempts. Returns the batch that needs a run, if one does, and its attempt, if one was made."""
        runs = self._session.runs
        # As before a run, with which they have this in common.
        if not runs.running:
            self._group.capacity.restore()
        codec = self._session.prepared_codec
        try:
            attempts = FirstAttempts(codec, self._group, self._settings.on_event, batch.call)
        except CallbackError:  # out of the codec's spec: the run meets it again, and stops for it
            return batch, None
        runs.begin(attempts)
        try:
            following: Batch | None = batch
            while following is not None:
                batch = following
                if not self._may_begin(batch) or self._session.prepared_codec is not codec:
                    return batch, None
                begun = await attempts.send(_rows_of(batch), self._until(batch), partial(answer_callers, batch))
                if begun is not None or (batch.open and attempts.stopped is None):
                    return batch, begun
                if not attempts.may_go_on:
                    if batch.open:
                        settle_remaining_callers(batch, attempts.stopped, attempts.statistics)
                    return None
                runs.move_counts(attempts)
                following = self.batcher.next_after(batch)
            return None
        finally:
            runs.end(attempts)
            attempts.close()

    async def _run(self, batch: Batch, begun: Begun | None) -> None:
        """Execute the run of a batch; each caller is settled as soon as its row has an outcome."""
        session, chunker = self._session, self._session.chunker(batch.rows)
        if begun is not None:
            chunker.get_nowait()  # its task has the rows

        def deliver(done: ChunkResult) -> None:
            settle_callers(batch, done, run.statistics)

        run = session.new_run(
            chunker, deliver, until=self._until(batch), isolate=batch.split, call=batch.call, callers=batch.traces,
            begun=begun,
        )  # fmt: skip
        await session.runs.execute(run)
        if batch.open:
            settle_remaining_callers(batch, run.stopped, run.statistics)
        # The next run is made before this one is freed: Python's garbage collector begins whenever there are some
        # hundred objects more than before, and would do so all the time if several runs were freed and made at once.
        self.batcher.settled(batch)
        run.release()

    def _may_begin(self, batch: Batch) -> bool:
        """True if the first attempt of a batch needs no run."""
        if self._needs_runs or batch.n_rows > self._most_rows():
            return False
        return may_be_first(self._session.prepared_codec, self._group)

    def _until(self, batch: Batch) -> Until | None:
        # The deadline counts from the moment when the first caller came, not from the start of its batch.
        limit = self._group.timeouts.run
        return None if limit is None else Until(batch.since + limit, limit, "timeouts.run")


def _rows_of(batch: Batch) -> Rows:
    rows = as_rows(batch.rows)
    assert rows is not None
    return rows
