"""Run a job: rows from its input, through a client, into its output; where an earlier run of it stopped, from there."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from fanout.client import Client, complete, content_of, open_journal, reopen_failures
from fanout.errors import ConfigError, InputError, RunStopped
from fanout.io.journal import Journal, read_state
from fanout.io.readers import open_source
from fanout.io.writers import open_sink
from fanout.job.blame import blaming
from fanout.job.offline import staged
from fanout.job.summary import Summary, summarized
from fanout.paths import journal_path, require_apart
from fanout.threads import on_thread, opened_on_thread
from fanout.transport.base import replaces_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fanout.engine import RunControl
    from fanout.io.readers import Source
    from fanout.io.writers import FileSink
    from fanout.job.model import Job
    from fanout.transport import Transport, TransportWrapper
    from fanout.types import Event, Result

    OnStart = Callable[[Client, int | None, int, FileSink], None]


async def run_job(
    job: Job,
    *,
    rows: slice = slice(None),
    fresh: bool = False,
    only_failed: bool = False,
    carry: bool = False,
    record: Path | None = None,
    replay: Path | None = None,
    mock: bool = False,
    control: RunControl | None = None,
    on_start: OnStart | None = None,
) -> Summary:
    """Run ``job`` to its end or its stop, write the output, and tell what it came to.

    What is done is noted in a journal beside the output. A run that was stopped or killed is gone on with; one that
    came to its end is not run again for the same input, codec and path of the URL.

    Neither a replay nor a rehearsal opens a connection. Their output goes beside the job's (``y.replay.npy``,
    ``y.mock.npy``), with a journal of its own; one that has come to its end is run anew. On a `VirtualClock` they take
    no longer than their computation.

    Args:
        rows: which rows of the input to send, as a slice without a step. The output then has that many rows, and
            the rows in its report are counted from the first of them.
        fresh: forget what is done, and send all rows.
        only_failed: send the rows that failed in a run that came to its end.
        carry: where the journal is of another input, keep its answers to rows that have the same id and content, and
            send the others.
        record: file for a recording of all exchanges; it must not be there yet.
        replay: a recording that answers in the endpoint's place.
        mock: a model of the right shape answers in the endpoint's place, as the table ``mock`` tells.
        control: ends the run from outside; what has succeeded is written then too.
        on_start: called with the open client, the number of rows (None: not known yet), how many of them were done
            before, and the sink, before the first of them is sent.

    Raises:
        ConfigError: the job, its input or its output cannot be used; no row has been sent then, or none could
            be (an answer that the output's format cannot hold).
    """
    now = asyncio.get_running_loop().time
    began = now()
    with (
        blaming(job.file, input_name(job), job.redactor),
        staged(job, record=record, replay=replay, mock=mock) as stage,
    ):
        job = stage.job
        source = await asyncio.to_thread(read_input, job, rows)
        sink = open_sink(job.output_path)
        client = client_of(job, stage.transport)
        identity = await on_thread(client.identity, source) | stage.told
        if stage.told:
            await on_thread(_require_made_up, job, stage.told)
        opening = partial(_journal, job, identity, source, sink, fresh=fresh, carry=carry)
        async with opened_on_thread(opening) as journal:
            with closing(sink):
                if stage.told and journal.state.complete and not only_failed:
                    journal.restart()
                if only_failed:
                    await on_thread(_reopen_failures, sink, journal)
                reading_seconds = now() - began
                result, stop = await _run(client, source, sink, journal, control, on_start)
                return summarized(result, sink, journal, stop, stage.answers, reading_seconds=reading_seconds)


def read_input(job: Job, rows: slice = slice(None)) -> Source:
    """The rows of the job's input that ``rows`` selects.

    Raises:
        InputError: the input cannot be read.
        ConfigError: the run would replace or remove its own input.
    """
    table = job.tables.input
    source = open_source(job.input_path, table.column, id=table.id, format=table.format)
    require_apart(job.output_path, source.files)
    selected = source.sliced(rows)
    if selected.n_rows == 0 and source.n_rows:
        raise InputError(f"--rows selects none of the {source.n_rows:,} rows of {input_name(job)}")
    return selected


def input_name(job: Job) -> str:
    """The job's input, as it is called in messages."""
    table = job.tables.input
    columns = [table.column] if isinstance(table.column, str) else table.column or ()
    named = ", ".join(map(repr, columns))
    return f"{table.path}, column{'s' * (len(columns) > 1)} {named}" if columns else str(table.path)


def client_of(
    job: Job, transport: Transport | TransportWrapper | None = None, on_event: Callable[[Event], None] | None = None
) -> Client:
    """A client, not open yet, with the job's settings.

    A transport that replaces the network answers for the first endpoint alone.
    """
    tables = job.tables
    return Client(
        job.endpoint.each()[0][0] if replaces_network(transport) else job.endpoint,
        codec=job.codec,
        chunk_rows=tables.chunks.rows,
        chunk_max_bytes=tables.chunks.max_bytes,
        chunk_max_tokens=tables.chunks.max_tokens,
        limits=tables.limits,
        retry=tables.retry,
        timeouts=tables.timeouts,
        hedge=tables.hedge,
        on_event=on_event,
        transport=transport,
        secrets=job.redactor,
    )


def _journal(
    job: Job, identity: dict[str, Any], source: Source, sink: FileSink, *, fresh: bool, carry: bool
) -> Journal:
    path = journal_path(job.output_path)
    journal = open_journal(path, identity, content_of(source), sink, fresh=fresh, carry=carry)
    if journal.resumed_rows and not source.repeatable and not journal.state.complete:
        journal.close()
        raise ConfigError(
            f"{journal.path} is of an unfinished run, but nothing tells if these rows are the same ones: "
            "save them to a file to be able to go on, or start anew with fanout run --fresh",
            key="input.path",
        )
    return journal


def _require_made_up(job: Job, told: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a rehearsal or a replay would write over the output of another job."""
    path = journal_path(job.output_path)
    try:
        there = read_state(path)
    except (OSError, ValueError):  # said when the journal is opened
        return
    if there is not None and not told.keys() <= there.identity.keys():
        raise ConfigError(
            f"{job.output_path} is the output of another job, as {path.name} beside it says; a rehearsal or a replay "
            "would replace it: give the other job's output another name",
            key="output.path",
        )


def _reopen_failures(sink: FileSink, journal: Journal) -> None:
    if not journal.resumed_rows:
        raise ConfigError(
            "no run of this input, codec and path of the URL is known, of which failed rows could be sent again: "
            "run the job without --only-failed first",
            key="output.path",
        )
    if journal.state.failures:
        reopen_failures(sink, journal)


async def _run(
    client: Client,
    source: Source,
    sink: FileSink,
    journal: Journal,
    control: RunControl | None,
    on_start: OnStart | None,
) -> tuple[Result, RunStopped | None]:
    if (result := await on_thread(complete, sink, journal)) is not None:
        return result, None  # no reason to start a server or to need one
    async with client:
        if on_start is not None:
            on_start(client, await asyncio.to_thread(source.estimate_rows), journal.resumed_rows, sink)
        try:
            return await client.run(source, sink, journal=journal, control=control), None
        except RunStopped as stop:
            return stop.result, stop
