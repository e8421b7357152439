"""The driver's loop: it gives shards to workers, collects what each attempt has done, and sends the rest again."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

from fanout.cluster.shard import Outcome
from fanout.errors import ConfigError, InputError
from fanout.rows import RowSet
from fanout.stop import Stop
from fanout.threads import on_thread

if TYPE_CHECKING:
    from fanout.cluster.collect import Collected, Collector
    from fanout.cluster.engines import Engine
    from fanout.cluster.overseer import ManifestWriter, Overseer
    from fanout.cluster.plan import Assigner, Attempt
    from fanout.types import StopKind

# Attempts that end without any row done, one after the other, before the run stops.
_MOST_LOSSES = 8
_LONGEST_BACKOFF = 5.0

# An attempt hands its rows over to idle workers if its end is at least this far: it costs about one request in flight,
# and the start of two attempts.
_TAIL_SECONDS = 3.0
_TAIL_ROUNDS = 4
_TAIL_POLL_SECONDS = 0.5

_KIND_OF_BUDGET: dict[str, StopKind] = {
    "max_requests": "max_requests",
    "max_cost": "cost",
    "max_tokens_total": "cost",
}


class Dispatcher:
    """Sends the rows of a run through its workers.

    Args:
        engine: carries shards to workers.
        manifest: of the run.
        assigner: makes attempts.
        collector: writes parts to the output.
        overseer: passes orders and progress.

    Attributes:
        stopped: the reason why the run has stopped.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: ManifestWriter,
        assigner: Assigner,
        collector: Collector,
        overseer: Overseer,
    ) -> None:
        self._engine, self._manifest, self._assigner = engine, manifest, assigner
        self._collector, self._overseer = collector, overseer
        self._running: dict[asyncio.Task[str], Attempt] = {}
        # Attempts that have ended are taken in one after the other, while their workers have other rows already.
        self._ended: deque[tuple[asyncio.Task[str], Attempt]] = deque()
        self._finishing: asyncio.Task[None] | None = None
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
            while await self._start_shards():
                waited: list[asyncio.Task[Any]] = [overseeing, *self._running]
                if self._finishing is not None:
                    waited.append(self._finishing)
                seconds = _TAIL_POLL_SECONDS if self._idle else None
                done, _ = await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                # Without orders the workers would go on for a minute, and none that is lost would be noticed.
                if overseeing in done:
                    overseeing.result()
                if self._finishing in done:
                    self._finishing.result()
                    self._finishing = None
                self._ended += ((task, self._running.pop(task)) for task in list(self._running) if task in done)
                self._divide_anew()
        except OSError as error:
            self.stop(Stop("output", f"the parts cannot be written: {error}"))
        finally:
            tasks: list[asyncio.Task[Any]] = [overseeing, *self._running]
            if self._finishing is not None:
                tasks.append(self._finishing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._error is not None:
            raise self._error
        return self.stopped

    async def _start_shards(self) -> bool:
        """Give shards to idle workers, and begin to take in an attempt that has ended. Returns False at the end."""
        while self.stopped is None and (attempt := self._next()) is not None:
            # The attempt counts before it begins: a driver that is killed leaves a manifest that knows it.
            await self._manifest.add(attempt.number, attempt.ranges)
            task = asyncio.create_task(self._engine.run(attempt.shard.as_json()))
            self._running[task] = attempt
            self._overseer.add(attempt.number, task)
        if self._finishing is None and self._ended:
            self._finishing = asyncio.create_task(self._finish(*self._ended.popleft()))
        if not self._running and self._finishing is None:
            if len(self._assigner.shards) and self.stopped is None:
                self.stop(self._exhausted())
            return False
        return True

    def _next(self) -> Attempt | None:
        return self._assigner.next(self._manifest.next_number, list(self._running.values()), self._collector.jobs)

    @property
    def _idle(self) -> int:
        return self._assigner.idle(list(self._running.values())) if self.stopped is None else 0

    def _divide_anew(self) -> None:
        """Have the attempt with the farthest end hand over its rows, if workers are idle."""
        if not self._idle or self._ended or self._finishing is not None or self._overseer.is_handing_over():
            return
        left = {
            attempt.number: self._overseer.rows_left(attempt.number, len(RowSet(attempt.ranges)))
            for attempt in self._running.values()
        }
        number = max(left, key=lambda number: left[number][1], default=None)
        if number is None:
            return
        n_rows, seconds = left[number]
        if seconds > _TAIL_SECONDS and n_rows > _TAIL_ROUNDS * self._assigner.shards.rows_in_flight:
            self._overseer.hand_over(number)

    async def _finish(self, task: asyncio.Task[str], attempt: Attempt) -> None:
        """Take in the end of an attempt: fence it, collect its part, and return the rest of its rows."""
        number, (outcome, lost) = attempt.number, _outcome_of(task)
        is_handed_over = self._overseer.is_handing_over(number)
        self._overseer.remove(number)
        try:
            collected = await on_thread(self._collector.collect, self._manifest.folder.part(number), attempt.ranges)
        except ConfigError as error:
            # The part stays as it is, and the run goes on from it once it is repaired.
            self._fail(error)
            return
        self._overseer.settle(number, outcome.measured, collected.ok, collected.failed)
        self._settle_budgets(number, outcome, collected)
        await self._manifest.remove(number)
        rest = self._collector.left_of(RowSet(attempt.ranges))
        if outcome.error is not None:
            text, key = outcome.error
            self._fail(InputError(text, key=key) if outcome.is_input else ConfigError(text, key=key))
        elif rest and self.stopped is None:
            has_progress = is_handed_over or collected.ok + collected.failed > 0
            await self._judge(attempt, outcome, lost, has_progress=has_progress)
        self._assigner.shards.put_back(rest, self._idle)

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
