"""Run a job: rows from its input, through a client, into its output."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from fanout.client import Client
from fanout.errors import ConfigError, RunStopped
from fanout.job.blame import blaming
from fanout.job.summary import Summary, summarized
from fanout.sinks import failures_path, mask_path, open_sink
from fanout.sources import open_source
from fanout.types import Result, Statistics, count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine import RunControl
    from fanout.job.model import Job
    from fanout.sinks import FileSink
    from fanout.types import Rows

    OnStart = Callable[[Client, int], None]


async def run_job(
    job: Job,
    *,
    rows: slice = slice(None),
    control: RunControl | None = None,
    on_start: OnStart | None = None,
) -> Summary:
    """Run ``job`` to its end or its stop, write the output, and tell what it came to.

    Args:
        rows: which rows of the input to send, as a slice without a step. The output then has that many rows, and
            the rows in its report are counted from the first of them.
        control: ends the run from outside; what has succeeded is written then too.
        on_start: called with the open client and the number of rows before the first of them is sent.

    Raises:
        ConfigError: the job, its input or its output cannot be used; no row has been sent then, or none could
            be (an answer that the output's format cannot hold).
    """
    with blaming(job.file, input_name(job)):
        require_apart(job)
        taken = await asyncio.to_thread(read_input, job, rows)
        sink = await asyncio.to_thread(open_sink, job.output_path, count_rows(taken))
        with closing(sink):
            result, stop = await _run(job, taken, sink, control, on_start)
            try:
                await asyncio.to_thread(sink.finish, result)
            except OSError as error:
                stop = RunStopped(f"the output could not be finished: {error}", kind="output", result=result)
            return summarized(result, sink, stop)


def read_input(job: Job, rows: slice = slice(None)) -> Rows:
    """The rows of the job's input that ``rows`` selects. Raises `InputError`."""
    return take_rows(open_source(job.input_path, job.tables.input.column), rows)


def input_name(job: Job) -> str:
    """The job's input, as it is called in messages."""
    table = job.tables.input
    columns = [table.column] if isinstance(table.column, str) else table.column or ()
    named = ", ".join(map(repr, columns))
    return f"{table.path}, column{'s' * (len(columns) > 1)} {named}" if columns else str(table.path)


def require_apart(job: Job) -> None:
    """Raise `ConfigError` if the run would replace or remove its own input."""
    output = job.output_path
    for path in (output, mask_path(output), failures_path(output)):
        if path.resolve() == job.input_path.resolve():
            raise ConfigError(f"{output} would overwrite the input {job.input_path}", key="output.path")


def client_of(job: Job) -> Client:
    """A client, not open yet, with the job's settings."""
    tables = job.tables
    return Client(
        job.endpoint,
        codec=job.codec,
        chunk_rows=tables.chunks.rows,
        limits=tables.limits,
        retry=tables.retry,
        timeouts=tables.timeouts,
    )


async def _run(
    job: Job, rows: Rows, sink: FileSink, control: RunControl | None, on_start: OnStart | None
) -> tuple[Result, RunStopped | None]:
    if count_rows(rows) == 0:  # no reason to start a server or to need one
        return Result(outputs=None, ok=np.ones(0, bool), failures=(), pending=(), stats=Statistics()), None
    async with client_of(job) as client:
        if on_start is not None:
            on_start(client, count_rows(rows))
        try:
            return await client.run(rows, sink, control=control), None
        except RunStopped as stop:
            return stop.result, stop
