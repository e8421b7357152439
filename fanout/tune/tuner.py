"""The tuner: makes the trials that a search asks for, as long as there is budget, and tells what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from fanout.errors import ConfigError, RunStopped
from fanout.job.run import client_of
from fanout.tune.budget import Account
from fanout.tune.measuring import Trials, at_point
from fanout.tune.report import Plan, Tuning
from fanout.tune.search import Search
from fanout.tune.trial import Bounds, Point
from fanout.types import take_rows

if TYPE_CHECKING:
    from fanout.job.model import Job
    from fanout.job.offline import Answers
    from fanout.transport import Transport
    from fanout.tune.control import SearchControl
    from fanout.tune.part import Part
    from fanout.tune.trial import Trial
    from fanout.tune.wishes import TuneOptions
    from fanout.types import StopKind

_LARGEST_CHUNK = 8192
_USUAL_CONCURRENCY = 16
"""In flight in all trials, where the job leaves that to the client."""

_OWN_STOPS = {"deadline", "max_requests", "interrupted"}
"""Kinds of stops by which a trial ends for the search's own reasons."""


class Audience(Protocol):
    """Who is told how a search goes."""

    def planned(self, plan: Plan, trials: Trials) -> None:
        """The search begins; ``trials`` knows the client of the one under way."""

    def tried(self, trial: Trial) -> None:
        """A trial was made, or made again."""


class Tuner:
    """One search; see `tune_job` for its arguments."""

    def __init__(
        self,
        job: Job,
        part: Part,
        wishes: TuneOptions,
        control: SearchControl,
        audience: Audience,
        transport: Transport | None,
    ) -> None:
        self._job = job
        self._part = part
        self._wishes = wishes
        self._control = control
        self._audience = audience
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        limits = job.tables.limits
        requests = min(wishes.budget.requests, limits.max_requests or wishes.budget.requests)
        self._budget = replace(wishes.budget, requests=requests)
        self._account = Account(self._budget, self._began)
        configured: object = limits.concurrency
        self._automatic = not isinstance(configured, int)
        self._bounds = Bounds(p95=wishes.max_p95 or job.tables.timeouts.attempt / 2, errors=wishes.max_errors)
        self._trials = Trials(job, part, seconds=wishes.seconds, control=control, transport=transport)
        self._stop: RunStopped | None = None
        self._skipped = False
        self._failed: Counter[Point] = Counter()

    async def run(self, n_rows: int | None, *, shown: str) -> Tuning:
        """Search, and report. ``n_rows`` is the length of the whole input, ``shown`` the endpoint's name for people.

        Raises `ConfigError`.
        """
        most = await self._most_rows(n_rows)
        sizes, wanted = self._sizes(most), self._job.tables.chunks.rows
        start = max((size for size in sizes if size <= wanted), default=min(sizes))
        steps = self._steps(start, n_rows)
        self._require_enough(Point(start, min(steps)), n_rows)
        search = Search(sizes, steps, start=start, bounds=self._bounds, n_rows=n_rows)
        why_not = ""
        if self._stop is None:
            self._audience.planned(self._plan(sizes, steps, shown), self._trials)
            why_not = await self._try_all(search)
        return self._report(search, why_not, shown)

    async def _most_rows(self, n_rows: int | None) -> int:
        """The largest chunk that makes sense: neither more than the model takes, nor more than there is."""
        first = take_rows(self._part.rows, slice(0, self._job.tables.chunks.rows))
        max_rows = None
        asking = at_point(self._job, Point(self._job.tables.chunks.rows, 1), self._budget.requests)
        async with client_of(asking, self._transport) as client:
            try:
                max_rows = (await client.preview(first, control=self._control.fresh())).max_rows
            except RunStopped as stop:
                self._stop = stop
            self._account.spend(client.statistics().requests, 1)
        return min(bound for bound in (max_rows, n_rows, _LARGEST_CHUNK) if bound is not None)

    def _sizes(self, most: int) -> tuple[int, ...]:
        given, wanted = self._wishes.chunk_rows, self._job.tables.chunks.rows
        sizes = sorted({size for size in given or _around(min(wanted, most), most) if size <= most})
        if not sizes:
            raise ConfigError(f"--chunk-rows: a request of this job has {most:,} rows at most")
        return tuple(sizes)

    def _steps(self, start: int, n_rows: int | None) -> tuple[int, ...]:
        if self._wishes.concurrency:
            return tuple(sorted(set(self._wishes.concurrency)))
        if self._automatic:
            return (_USUAL_CONCURRENCY if n_rows is None else max(1, min(_USUAL_CONCURRENCY, n_rows // start)),)
        return tuple(2**k for k in range(self._budget.most_in_flight.bit_length()))

    def _require_enough(self, first: Point, n_rows: int | None) -> None:
        if n_rows is not None and first.chunk_rows * first.concurrency > n_rows:
            raise ConfigError(
                f"the input has {n_rows:,} rows: too few for {first.concurrency} requests in flight with "
                f"{first.chunk_rows:,} rows each; give smaller --concurrency or --chunk-rows"
            )
        if self._account.quota(first) is None:
            raise ConfigError(
                f"{self._budget.requests:,} requests and {self._budget.rows:,} rows are too few for a trial with "
                f"{first.concurrency} in flight and {first.chunk_rows:,} rows in a chunk: "
                "give larger --max-requests or --max-rows, or smaller --concurrency or --chunk-rows"
            )

    async def _try_all(self, search: Search) -> str:
        """Make the trials; returns why not all of them, empty where nothing is left to be found out."""
        while (point := search.next()) is not None:
            if (why_not := self._account.spent(self._loop.time())) or self._stop or self._control.ended:
                return why_not
            quota = self._account.quota(point)
            if quota is None:
                self._skip(search, point)
                continue
            guard = self._account.guard(point.chunk_rows)
            outcome = await self._trials.measure(point, quota, guard=guard, ends=self._account.ends)
            self._account.spend(outcome.requests, point.chunk_rows)
            self._failed[point] += outcome.failed
            if outcome.measurement is not None:
                search.record(point, outcome.measurement)
                self._audience.tried(search.trial(point))
            elif outcome.stop is None or outcome.stop.kind in _OWN_STOPS:
                self._skip(search, point)
            else:
                self._stop = outcome.stop
            await self._keep_quiet()
        return "too little is left of its requests or rows for the trials that remain" if self._skipped else ""

    def _skip(self, search: Search, point: Point) -> None:
        search.skip(point)
        self._skipped = True

    async def _keep_quiet(self) -> None:
        """Wait as long as the endpoint has asked for: the next client knows nothing of it."""
        until = min(self._trials.quiet_until, self._account.ends)
        if (seconds := until - self._loop.time()) > 0:
            await self._control.sleep(seconds)

    def _plan(self, sizes: tuple[int, ...], steps: tuple[int, ...], shown: str) -> Plan:
        return Plan(
            answers=self._answers,
            endpoint=shown,
            codec=self._job.codec.name,
            rows=self._part.length,
            chunk_rows=sizes,
            concurrency=steps,
            automatic=self._automatic,
            requests=self._budget.requests,
            most_rows=self._budget.rows,
            seconds=self._budget.seconds,
        )

    def _report(self, search: Search, why_not: str, shown: str) -> Tuning:
        best, kind, reason = search.best, *self._stopped(search, why_not)
        settings, failed = {}, 0
        if best is not None:
            failed = self._failed[best.point]
            settings = {"chunks.rows": best.chunk_rows}
            settings |= {} if self._automatic else {"limits.concurrency": best.concurrency}
        return Tuning(
            answers=self._answers,
            endpoint=shown,
            codec=self._job.codec.name,
            rows=self._part.length,
            max_p95=self._bounds.p95,
            max_errors=self._bounds.errors,
            trials=search.trials,
            best=best,
            settings=settings,
            failed=failed,
            still_growing=search.still_growing,
            finished=not why_not and reason is None,
            why_not=why_not,
            requests=self._account.requests,
            seconds=self._loop.time() - self._began,
            stop_kind=kind,
            stop_reason=reason,
            exit_code=_exit_code(best, failed, kind),
        )

    def _stopped(self, search: Search, why_not: str) -> tuple[StopKind | None, str | None]:
        if self._control.ended:
            return "interrupted", self._control.reason
        if self._stop is not None:
            return self._stop.kind, self._stop.reason
        if not search.trials:
            return "deadline", f"nothing was measured: {why_not}"
        return None, None

    @property
    def _answers(self) -> Answers:
        return "endpoint" if self._transport is None else "mock"


def _around(rows: int, most: int) -> set[int]:
    """``rows`` halved down to 1 and doubled up to ``most``, which is among them."""
    sizes, size = {most}, rows
    while size >= 1:
        sizes.add(size)
        size //= 2
    while rows <= most:
        sizes.add(rows)
        rows *= 2
    return sizes


def _exit_code(best: Trial | None, failed: int, stop: StopKind | None) -> int:
    if stop is not None:
        return 130 if stop == "interrupted" else 3
    return 1 if best is None or failed else 0
