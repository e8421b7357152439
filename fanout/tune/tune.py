"""Tune a job: try sizes of a chunk and requests in flight on a part of its input, within a budget. Writes nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from fanout._url import LOCAL
from fanout.client import request_url
from fanout.job.blame import blaming
from fanout.job.offline import mock_transport
from fanout.job.run import input_name, read_input
from fanout.serving.local import LocalServer
from fanout.tune.control import SearchControl
from fanout.tune.part import read_part
from fanout.tune.tuner import Tuner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.job.model import Job
    from fanout.tune.report import Tuning
    from fanout.tune.tuner import Audience
    from fanout.tune.wishes import TuneOptions


async def tune_job(
    job: Job, wishes: TuneOptions, audience: Audience, *, mock: bool = False, control: SearchControl | None = None
) -> Tuning:
    """Find the size of a chunk and the requests in flight with the most rows/s that keep the bounds.

    All else is as in the job: its retries, rates and timeouts count in every trial, but not ``timeouts.run``.

    Args:
        job: what is to be tuned. Neither its output nor its journal is touched.
        wishes: bounds, budget, and what to try.
        audience: is told how it goes.
        mock: a model of the right shape answers in the endpoint's place, as the table ``mock`` tells.
        control: ends the search from outside; what was measured is told all the same.

    Raises:
        ConfigError: the job or its input cannot be used, or nothing of what is to be tried can be sent.
    """
    with blaming(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        part = await asyncio.to_thread(read_part, source.sliced(wishes.rows))
        transport = mock_transport(job, answering=True) if mock else None
        async with _located(job, mock=mock) as located:
            tuner = Tuner(located, part, wishes, control or SearchControl(), audience, transport)
            found = await tuner.run(source.n_rows, shown=job.shown_endpoint)
    return found


@asynccontextmanager
async def _located(job: Job, *, mock: bool) -> AsyncIterator[Job]:
    """The job with a URL at which requests can be sent: one local server serves all trials."""
    endpoint = job.tables.endpoint
    if mock or not endpoint.url.startswith(LOCAL):
        yield job
        return
    server = LocalServer(endpoint.url.removeprefix(LOCAL))
    try:
        url = request_url(await server.start(), job.codec.path, server.model)
        tables = job.tables.model_copy(update={"endpoint": replace(endpoint, url=url)})
        yield replace(job, tables=tables)
    finally:
        await server.stop()
