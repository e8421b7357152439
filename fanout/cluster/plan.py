"""The division of a run: rows into shards, and the limits of the job into the shares of its workers.

An `Attempt` is a shard with its share, as a worker gets it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.cluster.shard import Shard
    from fanout.io.journal.state import RecordedJob
    from fanout.io.parts import Ranges
    from fanout.settings import Limits

# A shard begins with a client to open and ends with fewer and fewer requests in flight, so it has at least this many
# requests one after the other. The start takes as long as four requests of 64 rows of embeddings.
_ROUNDS = 32

# Workers with so few requests one after the other get one shard each. Should one of them end early, it gets rows of
# another.
_UNDIVIDED_ROUNDS = 64

BUDGETS = ("max_requests", "max_cost", "max_tokens_total")
"""Limits of a whole run."""


class Shards:
    """Cuts the rows that are left into shards, as the workers ask for them.

    The first shards are the largest, each half of a worker's even share of the rest, so that all workers end at nearly
    the same time (guided self-scheduling; Polychronopoulos and Kuck 1987). A small input is divided evenly.

    Args:
        rows: to be sent.
        workers: that ask for shards.
        chunk_rows: shards end at multiples of it, as the chunks of a single process do.
        concurrency: requests in flight of one worker.

    Attributes:
        rows_in_flight: of one worker.
    """

    def __init__(self, rows: RowSet, workers: int, chunk_rows: int, concurrency: int) -> None:
        self._rows = rows
        self._workers = workers
        self._chunk_rows = chunk_rows
        self.rows_in_flight = chunk_rows * concurrency
        even = -(-len(rows) // workers)
        self._fewest = even if even <= self.rows_in_flight * _UNDIVIDED_ROUNDS else self.rows_in_flight * _ROUNDS

    def __len__(self) -> int:
        """The number of rows that are left."""
        return len(self._rows)

    def take(self) -> Ranges:
        """Return the rows of the next shard; empty if none are left."""
        wanted = max(self._fewest, len(self._rows) // (2 * self._workers), 1)
        taken: Ranges = []
        for start, stop in list(self._rows):
            end = min(stop, self._aligned(start + wanted))
            taken.append((start, end))
            wanted -= end - start
            if wanted <= 0:
                break
        for start, stop in taken:
            self._rows.remove(start, stop)
        return taken

    def put_back(self, rows: RowSet, idle: int = 1) -> None:
        """Return rows of a shard that came to no end; each of ``idle`` workers gets a part of them."""
        for start, stop in rows:
            self._rows.add(start, stop)
        if idle > 1 and len(rows):
            self._fewest = min(self._fewest, -(-len(self._rows) // idle))

    def _aligned(self, row: int) -> int:
        return -(-row // self._chunk_rows) * self._chunk_rows


def most_workers(wanted: int, limits: Limits, n_rows: int, chunk_rows: int) -> int:
    """Return the number of workers that have something to do: at least a request in flight each, and a chunk."""
    in_flight = wanted
    if limits.shared is None and not isinstance(limits.concurrency, str):
        in_flight = limits.concurrency
    return max(1, min(wanted, in_flight, -(-n_rows // chunk_rows)))


def share_of(limits: Limits, slot: int, workers: int) -> dict[str, Any]:
    """Return the concurrency and the rates of one worker, as fields of `Limits`: together they are those of the job.

    ``slot`` is its number from 0: the first workers have the requests in flight that cannot be divided. Limits that all
    processes share already are not divided.
    """
    if limits.shared is not None:
        return {}
    share: dict[str, Any] = {name: rate / workers for name, rate in limits.rates.items()}
    if not isinstance(limits.concurrency, str):
        share["concurrency"] = limits.concurrency // workers + (slot < limits.concurrency % workers)
    return share


def division_text(limits: Limits, workers: int, engine: str, *, shares_rates: bool = False) -> str:
    """Describe the shares of the workers, for people. ``shares_rates``: the engine keeps the rates for all of them."""
    text = f"{workers} worker{'s' * (workers > 1)} ({engine})"
    if limits.shared is not None:
        return f"{text}, with the limits that they share (limits.shared)"
    named = [name for name in (*limits.rates, *BUDGETS) if getattr(limits, name) is not None]
    kept = [name for name in named if shares_rates and name in limits.rates]
    named = [name for name in named if name not in kept]
    if isinstance(limits.concurrency, str):
        text += ", each with a concurrency of its own (auto)"
    elif workers > 1:
        text += f", each with 1/{workers} of the {limits.concurrency} requests in flight"
    text += f" and of {', '.join(named)}" if named and workers > 1 else ""
    return text + (f"; they keep {', '.join(kept)} together" if kept and workers > 1 else "")


class Budgets:
    """Gives every attempt its part of what is left of the budgets, and takes back what it has not spent.

    Args:
        limits: of the job.
        spent: what earlier processes of the run have spent, by the name of the budget.
    """

    def __init__(self, limits: Limits, spent: Mapping[str, float]) -> None:
        # Shared budgets are counted where they are shared.
        names = BUDGETS if limits.shared is None else ()
        self._limits = {name: most for name in names if (most := getattr(limits, name)) is not None}
        self._spent = dict.fromkeys(BUDGETS, 0.0) | dict(spent)
        self._given: dict[int, dict[str, Any]] = {}

    def give(self, attempt: int, workers: int) -> dict[str, Any] | None:
        """Return the part of one of ``workers`` that are free, as fields of `Limits`; None if nothing is left."""
        parts = {name: self._part(name, workers) for name in self._limits}
        if any(part <= 0 for part in parts.values()):
            return None
        self._given[attempt] = parts
        return parts

    def settle(self, attempt: int, spent: Mapping[str, float | None]) -> None:
        """Take in what an attempt has spent; what is unknown counts as all that it was given."""
        for name, given in self._given.pop(attempt).items():
            known = spent.get(name)
            self._spent[name] += given if known is None else known

    def exhausted(self) -> str | None:
        """Return the name of a budget of which nothing is left; None if there is none."""
        return next((name for name in self._limits if self._part(name, 1) <= 0), None)

    def reached_text(self, name: str) -> str:
        """Return the reason of a stop by a budget."""
        return f"the limit of {name} = {self._limits[name]:g} is reached by all workers together"

    def _part(self, name: str, workers: int) -> float:
        given = sum(parts[name] for parts in self._given.values())
        left = float(self._limits[name] - self._spent[name] - given)
        # Requests and tokens are whole numbers, and the last of them must not be lost by rounding.
        return left / workers if name == "max_cost" else max(int(left // workers), min(int(left), 1))


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
