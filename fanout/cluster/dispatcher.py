"""The driver's loop: it gives shards to workers, collects what each attempt has done, and sends the rest again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from fanout.cluster.shard import Outcome
from fanout.errors import ConfigError, InputError
from fanout.rows import RowSet
from fanout.stop import Stop
from fanout.threads import on_thread

if TYPE_CHECKING:
    from fanout.cluster.assigner import Assigner, Attempt
    from fanout.cluster.collect import Collected, Collector
    from fanout.cluster.engines.base import Engine
    from fanout.cluster.overseer import Overseer
    from fanout.io.parts import Manifest, PartsFolder
    from fanout.types import StopKind

# Attempts that end without any row done, one after the other, before the run stops.
_MOST_LOSSES = 8
_LONGEST_BACKOFF = 5.0

_KIND_OF_BUDGET: dict[str, StopKind] = {
    "max_requests": "max_requests",
    "max_cost": "cost",
    "max_tokens_total": "cost",
}


class Dispatcher:
    """Sends the rows of a run through its workers.

    Args:
        engine: carries shards to workers.
        folder: of the parts.
        manifest: of the run, which lists no attempt yet.
        assigner: makes attempts.
        collector: writes parts to the output.
        overseer: passes orders and progress.

    Attributes:
        stopped: the reason why the run has stopped.
    """

    def __init__(
        self,
        engine: Engine,
        folder: PartsFolder,
        manifest: Manifest,
        assigner: Assigner,
        collector: Collector,
        overseer: Overseer,
    ) -> None:
        self._engine, self._folder, self._manifest = engine, folder, manifest
        self._assigner, self._collector, self._overseer = assigner, collector, overseer
        self._running: dict[asyncio.Task[str], Attempt] = {}
        self._refusal: Stop | None = None
        self._losses = 0
        self._error: ConfigError | None = None
        self.stopped: Stop | None = None

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Stop the run; the first reason counts. Requests in flight are finished, or abandoned if ``cut``."""
        self.stopped = self.stopped or stop
        self._overseer.stop("cut" if cut else "drain")

    @property
    def has_parts(self) -> bool:
        """True if a part could not be collected."""
        return bool(self._manifest.attempts)

    async def run(self) -> Stop | None:
        """Send all rows. Returns the reason of an early stop.

        Raises `ConfigError` for an error that every worker would meet, or for a part that is damaged.
        """
        overseeing = asyncio.create_task(self._overseer.run())
        try:
            while True:
                await self._start_shards()
                if not self._running:
                    break
                waited: list[asyncio.Task[Any]] = [overseeing, *self._running]
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                # Without orders the workers would go on for a minute, and none that is lost would be noticed.
                if overseeing in done:
                    overseeing.result()
                for task in done:
                    await self._finish(task, self._running.pop(task))
        except OSError as error:
            self.stop(Stop("output", f"the parts cannot be written: {error}"))
        finally:
            overseeing.cancel()
            for task in self._running:
                task.cancel()
            await asyncio.gather(overseeing, *self._running, return_exceptions=True)
        if self._error is not None:
            raise self._error
        return self.stopped

    async def _start_shards(self) -> None:
        while self.stopped is None:
            number, running = self._manifest.last + 1, list(self._running.values())
            attempt = self._assigner.next(number, running, self._collector.jobs)
            if attempt is None:
                if len(self._assigner.shards) and not running:
                    self.stop(self._exhausted())
                return
            # The attempt counts before it begins: a driver that is killed leaves a manifest that knows it.
            attempts = {**self._manifest.attempts, number: attempt.ranges}
            self._manifest = replace(self._manifest, attempts=attempts, last=number)
            await on_thread(self._folder.write_manifest, self._manifest)
            task = asyncio.create_task(self._engine.run(attempt.shard.as_json()))
            self._running[task] = attempt
            self._overseer.add(number, task)

    async def _finish(self, task: asyncio.Task[str], attempt: Attempt) -> None:
        """Take in the end of an attempt: fence it, collect its part, and return the rest of its rows."""
        number, (outcome, lost) = attempt.number, _outcome_of(task)
        self._overseer.remove(number)
        try:
            collected = await on_thread(self._collector.collect, self._folder.part(number), attempt.ranges)
        except ConfigError as error:
            # The part stays as it is, and the run goes on from it once it is repaired.
            self._fail(error)
            return
        self._overseer.settle(number, outcome.measured, collected.ok, collected.failed)
        self._settle_budgets(number, outcome, collected)
        attempts = {one: ranges for one, ranges in self._manifest.attempts.items() if one != number}
        self._manifest = replace(self._manifest, attempts=attempts)
        await on_thread(self._folder.write_manifest, self._manifest)
        await on_thread(self._folder.remove_part, number)
        rest = self._collector.left_of(RowSet(attempt.ranges))
        self._assigner.shards.put_back(rest)
        if outcome.error is not None:
            text, key = outcome.error
            self._fail(InputError(text, key=key) if outcome.is_input else ConfigError(text, key=key))
        elif rest and self.stopped is None:
            await self._judge(attempt, outcome, lost, has_progress=collected.ok + collected.failed > 0)

    def _settle_budgets(self, number: int, outcome: Outcome, collected: Collected) -> None:
        spent = collected.spent
        used = {
            "max_requests": outcome.measured.get("requests"),
            "max_cost": None if spent is None else spent.cost,
            "max_tokens_total": None if spent is None else spent.tokens,
        }
        self._assigner.budgets.settle(number, used)

    async def _judge(self, attempt: Attempt, outcome: Outcome, lost: str, *, has_progress: bool) -> None:
        """Decide whether the rest of a shard is sent again."""
        kind, reason = outcome.stop or ("interrupted", lost)
        if kind in _KIND_OF_BUDGET.values():
            self._refusal = Stop(kind, reason)  # type: ignore[arg-type]
            self._assigner.alone = True
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
        name = self._assigner.budgets.exhausted()
        if name is None:
            # What is left does not pay for another request: its worker knows the reason.
            assert self._refusal is not None
            return self._refusal
        return Stop(_KIND_OF_BUDGET[name], self._assigner.budgets.reached_text(name))


def _outcome_of(task: asyncio.Task[str]) -> tuple[Outcome, str]:
    """Return the outcome of an attempt, and the reason for a lost worker."""
    if task.cancelled():
        return Outcome(), "the worker was silent"
    # Engines raise exceptions of their own for lost workers.
    if (error := task.exception()) is not None:
        lines = str(error).strip().splitlines()
        return Outcome(), f"{type(error).__name__}: {lines[-1] if lines else ''}"
    outcome = Outcome(**orjson.loads(task.result()))
    return outcome, "another process runs the attempt" if outcome.is_fenced else "the attempt ended early"
