"""A shard on its worker: an ordinary run of some rows of the job, with a journal of its own, into a part.

The shard and its outcome are JSON, so that an engine carries texts and nothing of fanout is pickled.
"""

from __future__ import annotations

import asyncio
import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fanout._version import __version__
from fanout.cluster.measurements import measurements
from fanout.cluster.part import PartSink
from fanout.engine import RunControl
from fanout.errors import ConfigError, InputError, RunStopped
from fanout.io.journal.comparison import same_but_for_times
from fanout.io.journal.journal import Journal
from fanout.io.journal.state import RecordedJob
from fanout.io.parts import PartsFolder, Ranges
from fanout.job import load_job
from fanout.job.opening import client_of, open_offline, open_output, read_input
from fanout.job.problems import locate_errors
from fanout.paths import journal_path
from fanout.rows import RowSet
from fanout.threads import on_thread, opened_on_thread

if TYPE_CHECKING:
    from fanout.client import Client
    from fanout.io.parts import Manifest
    from fanout.io.readers.base import Source
    from fanout.job import Job

POLL_SECONDS = 0.5
"""Interval at which a worker reads the driver's orders and publishes its progress."""

# A driver writes its orders anew twice a second. A worker whose driver is silent for this long stops, resumably.
_SILENCE_SECONDS = 60.0

_SHARED = (
    "the driver and all workers need one shared disk (NFS, EFS, Lustre), with the job file and the output under the "
    "same paths, and the input there or in an object store"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Some rows of a job for one worker; the manifest has their numbers.

    Attributes:
        job: absolute path of the job file.
        output: absolute path of the output.
        settings: overrides, ``KEY.PATH=VALUE`` each.
        mock: a mock answers in place of the endpoint.
        run: name of the driver's process.
        attempt: number of the attempt.
        limits: fields of `Limits`, in place of those in the job.
        jobs: start and stop of some of the rows, and the fields of the job that an asynchronous API was given for them.
    """

    job: str
    output: str
    settings: list[str] = field(default_factory=list)
    mock: bool = False
    run: str
    attempt: int
    limits: dict[str, Any] = field(default_factory=dict)
    jobs: list[tuple[int, int, str, str]] = field(default_factory=list)

    def as_json(self) -> str:
        """Return the shard as JSON."""
        return json.dumps(asdict(self))  # orjson takes no path with bytes that are no UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an attempt; the rows that it has done are in its part.

    Attributes:
        is_fenced: the attempt did not begin, because it does not count or another process runs it.
        stop: kind and reason of an early stop.
        error: text of an error that every worker would meet, and the key of the job file.
        is_input: that error is one of the input.
        measured: the client's `measurements`.
    """

    is_fenced: bool = False
    stop: tuple[str, str] | None = None
    error: tuple[str, str] | None = None
    is_input: bool = False
    measured: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return the outcome as JSON."""
        return orjson.dumps(asdict(self)).decode()


def run_shard(text: str, control: RunControl | None = None) -> str:
    """Run a shard to its end or its stop. Takes a `Shard` and returns an `Outcome`, both as JSON."""
    shard = Shard(**json.loads(text))
    try:
        outcome = asyncio.run(_run(shard, control or RunControl()))
    except ConfigError as error:
        # The driver puts the name of the job file and the key before the text, as for an error of its own.
        text = str(error).replace(f"{shard.job}: ", "").removeprefix(f"{error.key}: ")
        outcome = Outcome(
            error=(f"{text} (on the worker {platform.node()})", error.key), is_input=isinstance(error, InputError)
        )
    return outcome.as_json()


async def _run(shard: Shard, control: RunControl) -> Outcome:
    folder = PartsFolder(Path(shard.output))
    manifest = folder.read_manifest()
    if manifest is None:
        raise ConfigError(f"{folder.path} is not there: {_SHARED}", key="output.path")
    if manifest.run != shard.run or shard.attempt not in manifest.attempts or not folder.claim(shard.attempt):
        return Outcome(is_fenced=True)
    if manifest.fanout != __version__:
        raise ConfigError(f"the driver has fanout {manifest.fanout}, and this worker {__version__}: install the same")
    job = _load(Path(shard.job), shard.settings)
    with locate_errors(job.file, redactor=job.redactor), open_offline(job, mock=shard.mock) as setup:
        job = _with_limits(setup.job, shard.limits)
        source = await asyncio.to_thread(read_input, job, slice(*manifest.rows))
        client = client_of(job, setup.transport, whole=False)
        _require_same_input(manifest, await on_thread(client.identity, source))
        return await _send(shard, folder, manifest.attempts[shard.attempt], client, source, job, control)


async def _send(
    shard: Shard,
    folder: PartsFolder,
    ranges: Ranges,
    client: Client,
    source: Source,
    job: Job,
    control: RunControl,
) -> Outcome:
    end = max(stop for _, stop in ranges)
    # Rows keep the numbers that they have in the whole run, and those of other shards count as done.
    source, path = source.sliced(slice(0, end)), folder.part(shard.attempt)
    sink = PartSink(path, open_output(job, source))
    identity = {"run": shard.run, "attempt": shard.attempt}
    stop = None
    async with opened_on_thread(partial(Journal, journal_path(path), identity)) as journal:
        journal.state.resolved = RowSet(RowSet(ranges).gaps(0, end))
        journal.state.jobs = {(a, b): RecordedJob(*job) for a, b, *job in shard.jobs}
        async with client:
            watching = asyncio.create_task(_watch(shard, folder, client, control))
            try:
                await client.run(
                    source, sink, journal=journal, control=control, keep_usage=job.tables.output.keep_usage
                )
            except RunStopped as error:
                stop = (error.kind, error.reason)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            return Outcome(stop=stop, measured=measurements(client))


async def _watch(shard: Shard, folder: PartsFolder, client: Client, control: RunControl) -> None:
    """Follow the driver's orders, and publish the progress."""
    now = asyncio.get_running_loop().time
    beat, heard, n_polls = -1, now(), 0
    while True:
        n_polls += 1
        with suppress(OSError):  # progress alone, which the next one replaces
            await asyncio.to_thread(folder.write_progress, shard.attempt, measurements(client) | {"beat": n_polls})
        await asyncio.sleep(POLL_SECONDS)
        orders = await asyncio.to_thread(folder.read_orders)
        if orders is not None and orders.run == shard.run and orders.beat != beat:
            beat, heard = orders.beat, now()
        if orders is not None and orders.fences(shard.run, shard.attempt):
            # Another attempt sends these rows by now.
            control.cut("another attempt has taken over", "interrupted")
        elif orders is not None and orders.stop == "cut":
            control.cut()
        elif orders is not None and orders.stop == "drain":
            control.drain()
        elif orders is not None and shard.attempt in orders.handing_over:
            control.drain("idle workers get some of its rows", "interrupted")
        elif now() - heard > _SILENCE_SECONDS:
            control.drain(f"the driver has been silent for {_SILENCE_SECONDS:g} s", "interrupted")


def _load(file: Path, settings: list[str]) -> Job:
    if not file.exists():
        raise ConfigError(f"{file} is not there: {_SHARED}")
    return load_job(file, settings)


def _with_limits(job: Job, limits: dict[str, Any]) -> Job:
    tables = job.tables
    # Kept columns are read when the output is put together, which a part is not.
    output = tables.output.model_copy(update={"keep": None})
    divided = replace(tables.limits, **limits)
    return replace(job, tables=tables.model_copy(update={"limits": divided, "output": output}))


def _require_same_input(manifest: Manifest, identity: dict[str, Any]) -> None:
    """Raise `ConfigError` if this worker sees another input, codec or URL than the driver."""
    own = orjson.loads(orjson.dumps(identity))
    for key, value in own.items():
        if not same_but_for_times({key: manifest.identity.get(key)}, {key: value}):
            raise ConfigError(
                f"this worker sees another {key} than the driver: all workers need the same job file, input and code",
                key="input.path" if key == "input" else key,
            )
