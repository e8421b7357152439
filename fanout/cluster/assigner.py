"""The next shard: rows, a share of the limits and a part of the budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from fanout.cluster.plan import share_of
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cluster.plan import Budgets, Shards
    from fanout.cluster.shard import Shard
    from fanout.io.journal.state import RecordedJob
    from fanout.io.parts import Ranges
    from fanout.settings import Limits


class Attempt(NamedTuple):
    """A shard that was given to a worker.

    Attributes:
        slot: number of the worker among those that run at the same time.
        has_all: it has all that is left of the budgets, since no other runs beside it.
    """

    number: int
    slot: int
    ranges: Ranges
    shard: Shard
    has_all: bool


class Assigner:
    """Makes attempts.

    Args:
        shards: the rows to send.
        budgets: the division of the budgets.
        limits: of the job.
        workers: shards that run at the same time.
        shard: the fields that all shards share.

    Attributes:
        alone: one attempt at a time: the last of a budget goes to one worker, once the others have returned what they
            did not spend.
    """

    def __init__(self, shards: Shards, budgets: Budgets, limits: Limits, workers: int, shard: Shard) -> None:
        self.shards, self.budgets = shards, budgets
        self._limits, self._workers, self._shard = limits, workers, shard
        self.alone = False

    def idle(self, running: Sequence[Attempt]) -> int:
        """Return the number of workers that may run an attempt beside ``running``."""
        return max(0, (1 if self.alone else self._workers) - len(running))

    def next(
        self, number: int, running: Sequence[Attempt], jobs: Mapping[tuple[int, int], RecordedJob]
    ) -> Attempt | None:
        """Return the next attempt; None if there is none while ``running`` are under way.

        ``jobs`` are those of an asynchronous API: start and stop of rows -> job.
        """
        idle = self.idle(running)
        if not len(self.shards) or not idle:
            return None
        budget = self.budgets.give(number, idle)
        if budget is None:
            return None
        slot = min(set(range(self._workers)) - {attempt.slot for attempt in running})
        ranges = self.shards.take()
        wanted = RowSet(ranges)
        known = [(a, b, *job) for (a, b), job in jobs.items() if wanted.gap(a, b) is None]
        share = share_of(self._limits, slot, self._workers)
        if self._shard.limits:  # the engine keeps the rates for all workers
            share = {name: value for name, value in share.items() if name not in self._limits.rates}
        shard = replace(self._shard, attempt=number, limits=self._shard.limits | share | budget, jobs=known)
        return Attempt(number, slot, ranges, shard, has_all=self.alone)
