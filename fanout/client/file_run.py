"""A run into a sink: finished chunks are written and journalled on a helper thread, apart from the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fanout.client.identity import DigestRecorder, content_of
from fanout.client.jobs import JournalledJobs
from fanout.client.outcome import final_stop, raise_if_stopped, require_unchanged, with_result
from fanout.client.resuming import complete, open_journal, require_same_rows, withdraw
from fanout.client.spending import recorded, schema_of_answers, settle, spent_before, with_usage_columns
from fanout.client.uploading import upload
from fanout.client.writing import ChunkStore, Writer
from fanout.engine import ResultQueue, RowStatus, RunControl, Stop, Until, room_for
from fanout.errors import ConfigError
from fanout.io.journal.journal import Journal
from fanout.io.journal.state import JournalState
from fanout.io.kept import KEEP
from fanout.io.readers.base import Source
from fanout.io.readers.opening import open_source
from fanout.io.writers.base import Checkpoint, FileSink
from fanout.io.writers.opening import open_sink, require_apart_from_input
from fanout.limits import ConcurrencyLimiter
from fanout.paths import journal_path, require_apart
from fanout.rows import RowSet
from fanout.threads import ended, on_thread, opened_on_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fanout.client.session import Session
    from fanout.engine import Chunker, Run
    from fanout.limits import Account
    from fanout.results import ChunkResult, Result
    from fanout.upstream.call import Call

# After these kinds of stops it is not certain that the answers belong to their rows.
_UNPUBLISHED = ("error", "internal", "duplicate")


class Sink(Protocol):
    """An object that takes finished chunks."""

    def write(self, results: Sequence[ChunkResult]) -> None:
        """Write some chunks, in any order. Called on a helper thread, one call at a time. May raise OSError."""


async def _checked_sink(
    rows: Any,
    sink: Sink | FileSink | str | PathLike[str],
    journal: Journal | str | PathLike[str] | None,
    *,
    carry: bool,
) -> Sink | FileSink:
    """Return the sink of a run, opened if it is a path. Raises `ConfigError` if it, or the journal, cannot be used."""
    if isinstance(sink, str | PathLike):
        sink = open_sink(fspath(sink))
    if not callable(getattr(sink, "write", None)):
        raise ConfigError(f"sink must be what fanout.open_sink(path) gives, or a Sink, not {type(sink).__name__}")
    if journal is not None and not isinstance(sink, FileSink):
        raise ConfigError("a journal needs a sink that fanout.open_sink made, or a FileSink", key="journal")
    # A `Journal` that is open has compared its identity already, and cannot take over another run.
    if carry and (journal is None or isinstance(journal, Journal)):
        raise ConfigError("carry needs the path of a journal", key="carry")
    if isinstance(sink, FileSink):
        path = journal.path if isinstance(journal, Journal) else None if journal is None else Path(journal)
        # Resolving paths can block on a network file system.
        await asyncio.to_thread(_require_own_files, rows, sink, path)
    return sink


async def run_rows(
    session: Session,
    rows: Any,
    sink: Sink | FileSink | str | PathLike[str],
    journal: Journal | str | PathLike[str] | None,
    call: Call,
    control: RunControl | None,
    until: Until | None,
    *,
    keep_usage: bool,
    carry: bool,
    identity: Callable[[Any], dict[str, Any]],
) -> Result:
    """See `Client.run`, which has checked the other options. ``identity`` gives that of the rows."""
    if isinstance(rows, str | PathLike):
        rows = await on_thread(open_source, rows)
    sink = await _checked_sink(rows, sink, journal, carry=carry)
    if journal is None or isinstance(journal, Journal):
        return await run_into(session, rows, sink, journal, call, control, until, keep_usage=keep_usage)
    assert isinstance(sink, FileSink)  # as every journal demands
    content = content_of(rows)
    known = rows if content is None else content
    # Hashing a large input takes seconds, so it is kept off the loop.
    identified = await on_thread(identity, known) | ({"keep_usage": True} if keep_usage else {})
    opening = partial(open_journal, Path(journal), identified, content, sink, carry=carry)
    async with opened_on_thread(opening) as opened:
        return await run_into(session, known, sink, opened, call, control, until, keep_usage=keep_usage)


async def run_into(
    session: Session,
    rows: Any,
    sink: Sink | FileSink,
    journal: Journal | None,
    call: Call,
    control: RunControl | None = None,
    until: Until | None = None,
    *,
    keep_usage: bool = False,
) -> Result:
    """Send ``rows`` and write their answers to ``sink``. The result has no values. Raises `RunStopped`."""
    await _keep_columns(rows, sink)
    if journal is not None and (result := await finished(sink, journal, control)) is not None:
        return result
    state = journal.state if journal else JournalState({})
    # Bounds the chunks that are answered and not written yet, and so the memory.
    window = ConcurrencyLimiter(room_for(session.concurrency))
    content = content_of(rows) if journal is not None else None
    if journal is not None and content is not None:
        recorder = DigestRecorder(content, state.resolved, journal.digest_method)
        rows = recorder.rows
        # The digests are taken from the rows as they are sent: the input may change later.
        journal.digests_of = recorder.take
    chunker = session.sharing_chunker(rows, call, window, state.resolved)
    state.n_rows = chunker.total
    async with _opened(sink, chunker, journal):
        jobs = _jobs(journal, chunker, session)
        account = session.open_account(spent_before(journal)) if journal is not None else None
        queue, status = ResultQueue(), RowStatus(state.resolved, state.failures)
        run = session.new_run(
            chunker,
            with_usage_columns(queue.put) if keep_usage else queue.put,
            control,
            schema=schema_of_answers(state.schema) if keep_usage else state.schema,
            keep_usage=keep_usage,
            failed_alone=_failed_alone(state),
            until=until,
            settle_later=True,
            account=account,
            jobs=jobs,
            call=call,
        )
        writer = Writer(run, queue, ChunkStore(sink, journal), status, window, session.concurrency)
        unsettled = await _execute(session, run, writer, journal, account)
        stop, result = run.stopped or writer.failed or unsettled, _result_of(session, run, status)
        stop = final_stop(stop, status.violation(result, stopped=stop is not None))
        is_doubtful = stop is not None and stop.kind in _UNPUBLISHED
        # With a journal, a stopped run waits in its temporary files for the next call.
        if isinstance(sink, FileSink) and (stop is None or (journal is None and not is_doubtful)):
            if journal is None:
                await on_thread(require_unchanged, chunker)
            else:
                await on_thread(require_same_rows, chunker, content, journal)
            stop, result = await _put_in_place(sink, journal, result, stop, control)
    if journal is not None and run.collector.suspect and isinstance(sink, FileSink):
        await on_thread(withdraw, sink, journal, run.collector.suspect)
    raise_if_stopped(stop, result)
    return result


async def _keep_columns(rows: Any, sink: Sink | FileSink) -> None:
    """Have the sink keep the columns of the input that the source offers. Raises `ConfigError` if it cannot."""
    if isinstance(rows, Source) and rows.kept is not None:
        if not isinstance(sink, FileSink):
            raise ConfigError("kept columns need a sink that fanout.open_sink made, or a FileSink", key=KEEP)
        await on_thread(sink.keep, rows.kept)


async def _execute(
    session: Session, run: Run, writer: Writer, journal: Journal | None, account: Account | None
) -> Stop | None:
    """Run to the end, while ``writer`` writes. Returns the stop for a journal that cannot be settled."""
    writing, unsettled = asyncio.create_task(writer.write()), None

    async def written() -> None:
        writer.queue.close()
        await ended(writing)

    try:
        # Answers are written even if the run is cancelled, and count once they are.
        async with recorded(journal, account, run, session.concurrency):
            await session.runs.execute(run, written)
    except Exception as error:
        with_result(error, _result_of(session, run, writer.status))
        raise
    finally:
        if journal is not None:
            unsettled = await settle(journal)
    return unsettled


async def _put_in_place(
    sink: FileSink, journal: Journal | None, result: Result, stop: Stop | None, control: RunControl | None
) -> tuple[Stop | None, Result]:
    """Publish the output, and upload it unless the run was stopped. Returns the stop and the result after that."""
    now = asyncio.get_running_loop().time
    began = now()
    failed = await publish(sink, journal, result)
    # The answers of a run that was stopped stay in local files.
    stop = failed or stop or await upload(sink, control)
    return stop, replace(result, stats=replace(result.stats, writing_seconds=now() - began))


async def finished(sink: Sink | FileSink, journal: Journal, control: RunControl | None = None) -> Result | None:
    """Return the account of a run that has come to its end, once its output is in place; None if rows are left to send.

    Raises:
        ConfigError: the files cannot be put in place.
        RunStopped: they cannot be uploaded.
    """
    result = await on_thread(complete, sink, journal)
    if result is not None and isinstance(sink, FileSink):
        raise_if_stopped(await upload(sink, control), result)
    return result


def _result_of(session: Session, run: Run, status: RowStatus) -> Result:
    # Answers that may belong to other rows do not count, although they were written.
    session.runs.withdraw(run, status)
    total = run.chunker.total
    # An earlier process, or a run whose answers were carried over, may have got farther than this one has read.
    return status.result(max(run.chunker.position, status.end) if total is None else total, run.statistics())


def _jobs(journal: Journal | None, chunker: Chunker, session: Session) -> JournalledJobs | None:
    """The jobs in the journal; the chunker cuts the rows of each as the process did that started it."""
    if journal is None:
        return None
    jobs = JournalledJobs(journal, session.redactor)
    if jobs.ranges:
        chunker.fix(jobs.ranges)
    return jobs


def _require_own_files(rows: Any, sink: FileSink, journal: Path | None) -> None:
    """Raise `ConfigError` if a run would write over its own input or its journal. Touches no file."""
    columns = rows.values() if isinstance(rows, Mapping) else [rows]
    # A run that replaces a mapped file would pull its own input away.
    maps = [Path(column.filename) for column in columns if isinstance(column, np.memmap) and column.filename]
    require_apart(sink.path, maps)
    if isinstance(rows, Source):
        require_apart_from_input(sink, rows)
    if journal is not None and journal.resolve() != journal_path(sink.path).resolve():
        require_apart(sink.path, [journal], "journal")


def _failed_alone(state: JournalState) -> RowSet:
    """Return the rows that failed alone in the complete run whose failed rows are sent again."""
    failures = state.complete_run.failures if state.complete_run is not None else ()
    return RowSet((failure.start, failure.stop) for failure in failures if failure.n_rows == 1)


@asynccontextmanager
async def _opened(sink: Sink | FileSink, chunker: Chunker, journal: Journal | None) -> AsyncIterator[None]:
    """Open a file sink, and close it and the input at the end."""
    if not isinstance(sink, FileSink):
        yield
        return

    def begin() -> None:
        state = journal.state if journal else JournalState({})
        checkpoint = Checkpoint(state.schema, state.ok, journal.notes() if journal else ())
        sink.open(chunker.total, checkpoint, journalled=journal is not None)

    try:
        await on_thread(begin)
        yield
    finally:
        await chunker.close()
        await on_thread(sink.close)


async def publish(sink: FileSink, journal: Journal | None, result: Result) -> Stop | None:
    """Finish the output and put it in place. Return a stop if that fails."""

    def publish() -> None:
        publication = sink.finish(result, journal.replaced_files if journal else ())
        if journal is None:
            publication.carry_out()
        else:
            journal.publish(len(result.ok), publication)

    try:
        await on_thread(publish)
    except OSError as error:
        return Stop("output", f"the output could not be finished: {error}")
    return None
