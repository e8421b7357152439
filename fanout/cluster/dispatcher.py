"""The driver's loop: it gives shards to workers, collects what each attempt has done, and sends the rest again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fanout.cluster.measurements import finished
from fanout.cluster.plan import share_of
from fanout.cluster.shard import Outcome
from fanout.errors import ConfigError, InputError
from fanout.io.parts import Orders
from fanout.rowset import RowSet
from fanout.stop import Stop
from fanout.threads import on_thread

if TYPE_CHECKING:
    from fanout.cluster.collect import Collector
    from fanout.cluster.engines.base import Engine
    from fanout.cluster.plan import Budgets, Shards
    from fanout.cluster.shard import Shard
    from fanout.io.journal import Journal
    from fanout.io.parts import Manifest, PartsFolder, Ranges, StopOrder
    from fanout.settings import Limits
    from fanout.types import StopKind

_BEAT_SECONDS = 0.5

# After a second Ctrl-C, a worker has this long to abandon its requests and to write what is done.
_GRACE_SECONDS = 10.0

# Attempts that end without any row done, one after the other, before the run stops.
_MOST_LOSSES = 8
_LONGEST_BACKOFF = 5.0

_KIND_OF_BUDGET: dict[str, StopKind] = {"max_requests": "max_requests", "max_cost": "cost", "max_tokens_total": "cost"}


class _Attempt(NamedTuple):
    number: int
    slot: int
    ranges: Ranges
    has_all: bool
    """It has all that is left of the budgets, since no other runs beside it."""


class Dispatcher:
    """Sends the rows of a run through its workers.

    Args:
        engine: carries shards to workers.
        folder: of the parts.
        manifest: of the run, which lists no attempt yet.
        collector: writes parts to the output.
        journal: of the output.
        shards: the rows to send.
        shard: the fields that all shards share.
        workers: shards that run at the same time.
        limits: of the job; None where all workers share them already.
        budgets: the division of the budgets.

    Attributes:
        measured: number of each attempt -> its measurements.
        stopped: the reason why the run has stopped.
    """

    def __init__(
        self,
        engine: Engine,
        folder: PartsFolder,
        manifest: Manifest,
        collector: Collector,
        journal: Journal,
        shards: Shards,
        shard: Shard,
        workers: int,
        limits: Limits | None,
        budgets: Budgets,
    ) -> None:
        self._engine, self._folder, self._manifest = engine, folder, manifest
        self._collector, self._journal = collector, journal
        self._shards, self._shard = shards, shard
        self._workers, self._limits, self._budgets = workers, limits, budgets
        self._running: dict[asyncio.Task[str], _Attempt] = {}
        self._order: StopOrder | None = None
        self._changed = asyncio.Event()
        self._refusal: Stop | None = None
        self._losses = 0
        self._error: ConfigError | None = None
        self.measured: dict[int, dict[str, Any]] = {}
        self.stopped: Stop | None = None

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Stop the run; the first reason counts. Requests in flight are finished, or abandoned if ``cut``."""
        self.stopped = self.stopped or stop
        self._order = "cut" if cut or self._order == "cut" else "drain"
        self._changed.set()

    @property
    def has_parts(self) -> bool:
        """True if a part could not be collected."""
        return bool(self._manifest.attempts)

    async def run(self) -> Stop | None:
        """Send all rows. Returns the reason of an early stop.

        Raises `ConfigError` for an error that every worker would meet, or for a part that is damaged.
        """
        directing = asyncio.create_task(self._direct())
        try:
            while True:
                await self._start_shards()
                if not self._running:
                    break
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await self._finish(task, self._running.pop(task))
        except OSError as error:
            self.stop(Stop("output", f"the parts cannot be written: {error}"))
        finally:
            directing.cancel()
            for task in self._running:
                task.cancel()
            await asyncio.gather(directing, *self._running, return_exceptions=True)
        if self._error is not None:
            raise self._error
        return self.stopped

    async def _start_shards(self) -> None:
        while self.stopped is None and len(self._shards) and len(self._running) < self._workers:
            # What is left of a budget goes to one worker alone, once others have returned what they did not spend.
            if self._refusal is not None and self._running:
                return
            number = self._manifest.last + 1
            free = 1 if self._refusal is not None else self._workers - len(self._running)
            budget = self._budgets.give(number, free)
            if budget is None:
                if not self._running:
                    self.stop(self._exhausted())
                return
            await self._begin(number, self._shards.take(), budget)

    async def _begin(self, number: int, ranges: Ranges, budget: dict[str, Any]) -> None:
        slot = min(set(range(self._workers)) - {attempt.slot for attempt in self._running.values()})
        share = {} if self._limits is None else share_of(self._limits, slot, self._workers)
        wanted = RowSet(ranges)
        jobs = [(a, b, url) for (a, b), url in self._collector.jobs.items() if wanted.gap(a, b) is None]
        shard = replace(self._shard, attempt=number, limits=share | budget, jobs=jobs)
        # The attempt counts before it begins: a driver that is killed leaves a manifest that knows it.
        attempts = {**self._manifest.attempts, number: ranges}
        self._manifest = replace(self._manifest, attempts=attempts, last=number)
        await on_thread(self._folder.write_manifest, self._manifest)
        task = asyncio.create_task(self._engine.run(shard.as_json()))
        self._running[task] = _Attempt(number, slot, ranges, has_all=self._refusal is not None)
        self._changed.set()

    async def _finish(self, task: asyncio.Task[str], attempt: _Attempt) -> None:
        """Take in the end of an attempt: fence it, collect its part, and return the rest of its rows."""
        outcome, lost = _outcome_of(task)
        self._changed.set()
        try:
            collected = await on_thread(self._collector.collect, self._folder.part(attempt.number), attempt.ranges)
        except ConfigError as error:
            # The part stays as it is, and the run goes on from it once it is repaired.
            self._budgets.settle(attempt.number, {})
            self._fail(error)
            return
        last = outcome.measured or self.measured.get(attempt.number, {})
        self.measured[attempt.number] = {**finished(last), "ok": collected.ok, "failed": collected.failed}
        spent = collected.spent
        self._budgets.settle(
            attempt.number,
            {
                "max_requests": outcome.measured.get("requests"),
                "max_cost": None if spent is None else spent.cost,
                "max_tokens_total": None if spent is None else spent.tokens,
            },
        )
        attempts = {number: rows for number, rows in self._manifest.attempts.items() if number != attempt.number}
        self._manifest = replace(self._manifest, attempts=attempts)
        await on_thread(self._folder.write_manifest, self._manifest)
        await on_thread(self._folder.remove_part, attempt.number)
        rest = RowSet(attempt.ranges)
        for start, stop in self._journal.state.resolved:
            rest.remove(start, stop)
        self._shards.put_back(rest)
        if outcome.error is not None:
            text, key = outcome.error
            self._fail(InputError(text, key=key) if outcome.is_input else ConfigError(text, key=key))
        elif rest:
            await self._judge(attempt, outcome, lost, has_progress=collected.ok + collected.failed > 0)

    async def _judge(self, attempt: _Attempt, outcome: Outcome, lost: str, *, has_progress: bool) -> None:
        """Decide whether the rest of a shard is sent again."""
        if self.stopped is not None:
            return
        kind, reason = outcome.stop or ("interrupted", lost)
        if kind in _KIND_OF_BUDGET.values():
            self._refusal = Stop(kind, reason)  # type: ignore[arg-type]
            if attempt.has_all:
                self.stop(self._exhausted())
        elif kind != "interrupted":
            self.stop(Stop(kind, reason))  # type: ignore[arg-type]
        else:
            self._losses = 0 if has_progress else self._losses + 1
            if self._losses >= _MOST_LOSSES:
                self.stop(Stop("error", f"{self._losses} workers in a row were lost before any row was done: {reason}"))
            elif self._losses:
                await asyncio.sleep(min(0.1 * 2**self._losses, _LONGEST_BACKOFF))

    def _fail(self, error: ConfigError) -> None:
        self._error = self._error or error
        self.stop(Stop("error", str(error)), cut=True)

    def _exhausted(self) -> Stop:
        name = self._budgets.exhausted()
        if name is None:
            # What is left does not pay for another request: its worker knows the reason.
            assert self._refusal is not None
            return self._refusal
        return Stop(_KIND_OF_BUDGET[name], self._budgets.reached_text(name))

    async def _direct(self) -> None:
        """Write the orders and read the progress of the workers, again and again."""
        beat, cut_at = 0, None
        now = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            beat += 1
            active = [attempt.number for attempt in self._running.values()]
            orders = Orders(run=self._manifest.run, beat=beat, stop=self._order, active=active)
            # An order that cannot be written is tried again; a disk that stays full stops the run elsewhere.
            with suppress(OSError):
                await on_thread(self._folder.write_orders, orders)
            for number in active:
                progress = await on_thread(self._folder.read_progress, number)
                if progress is not None and number in {attempt.number for attempt in self._running.values()}:
                    self.measured[number] = progress
            if self._order == "cut":
                cut_at = cut_at or now()
            if self._order is not None:
                self._cancel(is_late=cut_at is not None and now() - cut_at > _GRACE_SECONDS)
            # `wait_for` of Python 3.11 can lose a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._changed.wait()

    def _cancel(self, *, is_late: bool) -> None:
        """Cancel the attempts that no worker has begun; if it is late, all of them."""
        for task, attempt in self._running.items():
            if is_late or not self._folder.is_claimed(attempt.number):
                task.cancel()


def _outcome_of(task: asyncio.Task[str]) -> tuple[Outcome, str]:
    """Return the outcome of an attempt, and the reason for a lost worker."""
    if task.cancelled():
        return Outcome(), "the attempt was cancelled"
    # Engines raise exceptions of their own for lost workers.
    if (error := task.exception()) is not None:
        return Outcome(), f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
    outcome = Outcome(**orjson.loads(task.result()))
    return outcome, "another process runs the attempt" if outcome.is_fenced else "the attempt ended early"
