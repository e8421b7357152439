"""The driver of a run on a cluster. To `run_job` it looks like a client whose requests other processes send."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from fanout._version import __version__
from fanout.client import content_of
from fanout.client.file_run import publish
from fanout.client.outcome import final_stop, raise_if_stopped
from fanout.client.resuming import require_same_rows
from fanout.client.uploading import upload
from fanout.cluster.collect import Collector
from fanout.cluster.dispatcher import Dispatcher
from fanout.cluster.measurements import combined, combined_latencies
from fanout.cluster.overseer import ManifestWriter, Overseer
from fanout.cluster.plan import Assigner, Budgets, Shards, division_text, most_workers
from fanout.cluster.shard import Shard
from fanout.engine import RowStatus
from fanout.errors import ConfigError
from fanout.files import START_FRESH
from fanout.io.journal.comparison import same_but_for_times
from fanout.io.journal.state import Spent
from fanout.io.parts import Manifest, PartsFolder
from fanout.io.writers.base import Checkpoint
from fanout.process import retain_heap
from fanout.rows import RowSet, count_rows
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.cluster.engines import Engine
    from fanout.engine import RunControl
    from fanout.io.journal.journal import Journal
    from fanout.io.readers.base import Source
    from fanout.io.writers.base import FileSink
    from fanout.job import Job
    from fanout.results import Result, Statistics
    from fanout.statistics import Latencies


class Cluster:
    """Runs the rows of a job in the workers of an engine, and merges their parts into the output.

    Args:
        job: the job; its file, its input and its output have to be on a disk that all workers share.
        engine: carries shards to workers.
        settings: the overrides with which ``job`` was loaded, ``KEY.PATH=VALUE`` each.
        rows: rows of the input to send, as for `run_job`.
        mock: a mock answers in place of the endpoint.
        fresh: discard the parts of an earlier run.
        say: shows a message.

    Raises:
        ConfigError: the input is a stream, or an override has a secret in it, which would travel to the workers.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        *,
        settings: Sequence[str] = (),
        rows: slice = slice(None),
        mock: bool = False,
        fresh: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._say = say
        self._job = job.with_output_suffix("mock") if mock else job
        if job.tables.input.path == "-":
            raise ConfigError("rows from stdin can be read by one process only: save them to a file", key="input.path")
        for setting in settings:
            if job.redactor.hide(setting) != setting:
                name = setting.partition("=")[0]
                raise ConfigError(
                    f"--set {name} has a secret, which would travel to the workers: write ${{NAME}} in its place"
                )
        self._engine = engine
        self._rows = (rows.start, rows.stop)
        self._fresh = fresh
        self._folder = PartsFolder(self._job.output_path.absolute())
        self._shard = Shard(
            job=str(job.file.absolute()),
            output=str(self._job.output_path.absolute()),
            settings=list(settings),
            mock=mock,
            run=secrets.token_hex(8),
            attempt=0,
        )
        self._n_rows: int | None = None
        self._collector: Collector | None = None
        self._overseer: Overseer | None = None
        self._began = 0.0

    def prepare(self, source: Source, sink: FileSink, journal: Journal) -> None:
        """Open ``sink``, and collect the parts that an earlier driver has left. Blocks on I/O.

        Raises:
            ConfigError: the parts are damaged, or of another input or codec.
            InputError: the input cannot be read.
        """
        n_rows = source.n_rows
        # The workers need the numbers of their rows before any of them has read to the end.
        self._n_rows = sum(count_rows(block.rows) for block in source.blocks()) if n_rows is None else n_rows
        journal.state.n_rows = self._n_rows
        sink.open(self._n_rows, Checkpoint(journal.state.schema, journal.state.ok, journal.notes()))
        self._collector = Collector(sink, journal)
        earlier = None if self._fresh else self._folder.read_manifest()
        if earlier is not None and earlier.attempts:
            self._require_same_run(earlier, journal)
            self._require_same_rows(earlier, journal, source)
        for number, ranges in () if earlier is None else earlier.attempts.items():
            collected = self._collector.collect(self._folder.part(number), ranges)
            journal.resumed_rows += collected.ok + collected.failed
        self._folder.remove()

    async def __aenter__(self) -> Self:
        await self._engine.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()

    async def run(
        self,
        source: Source,
        sink: FileSink,
        *,
        journal: Journal,
        control: RunControl | None = None,
        keep_usage: bool = False,
    ) -> Result:
        """Send the rows that are left, and publish the output. Raises as `Client.run` does."""
        if self._collector is None:
            await on_thread(self.prepare, source, sink, journal)
        assert self._n_rows is not None
        n_rows = self._n_rows
        retain_heap()
        limits = self._job.tables.limits
        # A mock takes no part in the limits of others.
        if limits.shared is None and not self._shard.mock:
            self._shard = replace(self._shard, limits=await self._engine.share_rates(limits, self._shard.run))
        dispatcher = self._new_dispatcher(journal, RowSet(journal.state.resolved.gaps(0, n_rows)))
        if control is not None:
            control.attach(dispatcher)
        stop = await dispatcher.run()
        status = RowStatus(journal.state.resolved, journal.state.failures)
        result = status.result(n_rows, self.statistics())
        stop = final_stop(stop, status.violation(result, stopped=stop is not None))
        # A damaged part stays: it may hold rows that were paid for.
        if not dispatcher.has_parts:
            await on_thread(self._folder.remove)
        if stop is None:
            await on_thread(require_same_rows, None, content_of(source), journal)
            stop = await publish(sink, journal, result) or await upload(sink, control)
        raise_if_stopped(stop, result)
        return result

    def statistics(self) -> Statistics:
        """Return the statistics of all workers together."""
        return combined(self._measured(), self._seconds())

    def latencies(self) -> Latencies:
        """Return the histogram of the durations of all HTTP exchanges."""
        return combined_latencies(self._measured())

    def _measured(self) -> list[dict[str, Any]]:
        return [] if self._overseer is None else list(self._overseer.measured.values())

    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    def _new_dispatcher(self, journal: Journal, rows: RowSet) -> Dispatcher:
        assert self._collector is not None
        self._began = asyncio.get_running_loop().time()
        tables = self._job.tables
        limits, chunk_rows = tables.limits, tables.chunks.rows
        workers = most_workers(self._engine.workers, limits, len(rows), chunk_rows)
        self._say(division_text(limits, workers, self._engine.name, shares_rates=bool(self._shard.limits)))
        # As a journal holds it: a tuple becomes a list.
        identity = orjson.loads(orjson.dumps(journal.state.identity))
        manifest = Manifest(
            run=self._shard.run, fanout=__version__, identity=identity, n_rows=self._n_rows or 0, rows=self._rows
        )
        spent = journal.state.spent or Spent()
        budgets = Budgets(limits, {"max_cost": spent.cost, "max_tokens_total": spent.tokens})
        shards = Shards(rows, workers, chunk_rows, -(-limits.most_in_flight // workers))
        assigner = Assigner(shards, budgets, limits, workers, self._shard)
        self._overseer = Overseer(self._folder, self._shard.run)
        writer = ManifestWriter(self._folder, manifest)
        return Dispatcher(self._engine, writer, assigner, self._collector, self._overseer)

    def _require_same_run(self, manifest: Manifest, journal: Journal) -> None:
        """Raise `ConfigError` if parts of an earlier driver belong to another run than the journal."""
        if same_but_for_times(manifest.identity, orjson.loads(orjson.dumps(journal.state.identity))):
            return
        raise ConfigError(
            f"{self._folder.path} is of an unfinished run with another input, codec or path of the URL; put that back "
            f"to go on with it, or {START_FRESH}",
            key="output.path",
        )

    def _require_same_rows(self, manifest: Manifest, journal: Journal, source: Source) -> None:
        """Raise `ConfigError` if rows have changed that the parts of an earlier driver have answered."""
        content = content_of(source)
        # An edit of a large file may show in its time of change alone.
        if content is None or manifest.identity == orjson.loads(orjson.dumps(journal.state.identity)):
            return
        assert self._collector is not None
        parts = [(self._folder.part(number), ranges) for number, ranges in manifest.attempts.items()]
        comparison = self._collector.compare(parts, manifest.n_rows, content)
        if not comparison.is_same:
            raise ConfigError(
                f"{self._folder.path} is of an unfinished run with another input ({comparison.text}); put that back to "
                f"go on with it, or {START_FRESH}",
                key="output.path",
            )
