"""`tune_job`: runs the trials that a search asks for, within its budget, and reports the best. It writes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Protocol

from fanout._url import LOCAL
from fanout.client import request_url
from fanout.errors import ConfigError, RunStopped
from fanout.job.opening import input_name, mock_transport, read_input
from fanout.job.problems import locate_errors
from fanout.job.report import StopCause, exit_code
from fanout.rows import take_rows
from fanout.serving.local import LocalServer
from fanout.tune.runner import SearchControl, TrialRunner, read_sample
from fanout.tune.search import BudgetAccount, Search
from fanout.tune.trial import Bounds, Plan, Point, SearchCost, TuneReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.job import Job
    from fanout.job.report import AnsweredBy
    from fanout.results import Statistics
    from fanout.tune.search import TuneOptions
    from fanout.tune.trial import Trial

# Larger chunks gain hardly anything over the cost of a request, and a failed one repeats more rows.
_MAX_CHUNK_ROWS = 8192

# Concurrency of all trials if the job sets ``concurrency = "auto"``.
_AUTO_CONCURRENCY = 16

# Kinds of stops that the search itself causes. Any other one ends the search.
_ENDS_OF_TRIAL = {"deadline", "max_requests", "interrupted"}


class TuneListener(Protocol):
    """Receives the progress of a search."""

    def on_plan(self, plan: Plan, runner: TrialRunner) -> None:
        """The search begins; ``runner`` has the client of the trial under way."""

    def on_trial(self, trial: Trial) -> None:
        """A point was measured, or measured again."""


async def tune_job(
    job: Job, options: TuneOptions, listener: TuneListener, *, mock: bool = False, control: SearchControl | None = None
) -> TuneReport:
    """Find the chunk size and the concurrency with the most rows per second within the bounds.

    All other settings are those of the job: its retries, rates and timeouts apply to every trial, except
    ``timeouts.run``.

    Args:
        job: the job to tune. Neither its output nor its journal is touched.
        options: bounds, budget and candidates.
        listener: receives the progress.
        mock: a mock of the model answers in place of the endpoint, as the table ``mock`` describes it.
        control: ends the search from outside; the report then covers the measurements so far.

    Raises:
        ConfigError: the job or its input cannot be used, or none of the candidates can be tried.
    """
    with locate_errors(job.file, input_name(job), job.redactor):
        source = await asyncio.to_thread(read_input, job)
        sample = await asyncio.to_thread(read_sample, source.sliced(options.rows))
        transport = mock_transport(job, answering=True) if mock else None
        control = control or SearchControl()
        async with _running_server(job, mock=mock) as running:
            runner = TrialRunner(running, sample, seconds=options.seconds, control=control, transport=transport)
            return await Tuner(runner, options, listener, shown=job.shown_endpoint).run(source.n_rows)


@asynccontextmanager
async def _running_server(job: Job, *, mock: bool) -> AsyncIterator[Job]:
    """Start the server of a ``local://`` endpoint once for all trials; gives the job with its URL."""
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


class Tuner:
    """One search. ``shown`` is the endpoint's name in the report; the other arguments are those of `tune_job`."""

    def __init__(self, runner: TrialRunner, options: TuneOptions, listener: TuneListener, *, shown: str) -> None:
        self._runner = runner
        self._options = options
        self._listener = listener
        self._shown = shown
        self._began = _now()
        tables = runner.job.tables
        # The job's own guard on the bill holds for its tuning as well.
        requests = min(options.budget.requests, tables.limits.max_requests or options.budget.requests)
        self._account = BudgetAccount(replace(options.budget, requests=requests), self._began)
        self._automatic = not isinstance(tables.limits.concurrency, int)
        self._bounds = Bounds(p95=options.max_p95 or tables.timeouts.attempt / 2, errors=options.max_errors)
        self._stop: RunStopped | None = None
        self._skipped = False
        self._failed: Counter[Point] = Counter()
        self._costs: dict[Point, list[Statistics]] = defaultdict(list)

    async def run(self, n_rows: int | None) -> TuneReport:
        """Search, and report. ``n_rows`` is the length of the whole input. Raises `ConfigError`."""
        sizes, job_size = self._sizes(await self._max_rows(n_rows)), self._runner.job.tables.chunks.rows
        # The search begins with the job's own size, with which the user means to run it.
        start = max((size for size in sizes if size <= job_size), default=min(sizes))
        steps = self._steps(start, n_rows)
        self._require_enough(Point(start, min(steps)), n_rows)
        search = Search(sizes, steps, start=start, bounds=self._bounds, n_rows=n_rows)
        # Without metadata there is nothing to plan, only the reason of the stop to report.
        unfinished = ""
        if self._stop is None:
            self._listener.on_plan(self._plan(sizes, steps), self._runner)
            unfinished = await self._run_trials(search)
        return self._report(search, unfinished, n_rows)

    async def _max_rows(self, n_rows: int | None) -> int:
        """Return the largest useful chunk: within the model's limit and the input's length."""
        chunk_rows = self._runner.job.tables.chunks.rows
        # The preview encodes these rows, which reports a wrong dtype or shape before any row is sent.
        first = take_rows(self._runner.sample.rows, slice(0, chunk_rows))
        max_rows = None
        async with self._runner.client_at(Point(chunk_rows, 1), self._account.budget.requests) as client:
            try:
                max_rows = (await client.preview(first, control=self._runner.control.next_run())).max_rows
            except RunStopped as stop:
                self._stop = stop
            # Metadata requests carry no rows, but they count as requests.
            self._account.spend(client.statistics().requests, 1)
        return min(bound for bound in (max_rows, n_rows, _MAX_CHUNK_ROWS) if bound is not None)

    def _sizes(self, max_rows: int) -> tuple[int, ...]:
        job_size = self._runner.job.tables.chunks.rows
        candidates = self._options.chunk_rows or _powers_around(min(job_size, max_rows), max_rows)
        sizes = sorted({size for size in candidates if size <= max_rows})
        if not sizes:
            raise ConfigError(f"--chunk-rows: a request of this job has {max_rows:,} rows at most")
        return tuple(sizes)

    def _steps(self, start: int, n_rows: int | None) -> tuple[int, ...]:
        if self._options.concurrency:
            return tuple(sorted(set(self._options.concurrency)))
        if self._automatic:
            return (_AUTO_CONCURRENCY if n_rows is None else max(1, min(_AUTO_CONCURRENCY, n_rows // start)),)
        return tuple(2**k for k in range(self._account.budget.max_concurrency.bit_length()))

    def _require_enough(self, first: Point, n_rows: int | None) -> None:
        # More rows in flight than the input has would measure a load that the job never causes.
        if n_rows is not None and first.chunk_rows * first.concurrency > n_rows:
            raise ConfigError(
                f"the input has {n_rows:,} rows: too few for {first.concurrency} requests in flight with "
                f"{first.chunk_rows:,} rows each; give smaller --concurrency or --chunk-rows"
            )
        budget = self._account.budget
        if self._account.quota(first) is None:
            raise ConfigError(
                f"{budget.requests:,} requests and {budget.rows:,} rows are too few for a trial with "
                f"{first.concurrency} in flight and {first.chunk_rows:,} rows in a chunk: "
                "give larger --max-requests or --max-rows, or smaller --concurrency or --chunk-rows"
            )

    async def _run_trials(self, search: Search) -> str:
        """Run trials until the search is finished or the budget is spent; return the reason in the second case."""
        while (point := search.next()) is not None:
            if (reason := self._account.exhausted(_now())) or self._stop or self._runner.control.ended:
                return reason
            # A point that is too dear for the remaining budget is skipped, since a cheaper one may still fit.
            quota = self._account.quota(point)
            if quota is None:
                self._skip(search, point)
                continue
            remaining = self._account.remaining(point.chunk_rows)
            outcome = await self._runner.measure(point, quota, max_requests=remaining, ends=self._account.ends)
            self._account.spend(outcome.stats.requests, point.chunk_rows)
            # Failed rows of the chosen point are reported, because the job would fail them too.
            self._failed[point] += outcome.stats.failed
            self._costs[point].append(outcome.stats)
            if outcome.measurement is not None:
                search.record(point, outcome.measurement)
                self._listener.on_trial(search.trial(point))
            elif outcome.stop is None or outcome.stop.kind in _ENDS_OF_TRIAL:
                self._skip(search, point)
            else:
                self._stop = outcome.stop
            # The client of the next trial does not know the pause that the endpoint asked this one for.
            if (seconds := min(self._runner.quiet_until, self._account.ends) - _now()) > 0:
                await self._runner.control.sleep(seconds)
        return "too little is left of its requests or rows for the trials that remain" if self._skipped else ""

    def _skip(self, search: Search, point: Point) -> None:
        search.skip(point)
        self._skipped = True

    def _plan(self, sizes: tuple[int, ...], steps: tuple[int, ...]) -> Plan:
        budget = self._account.budget
        return Plan(
            answers=self._answers,
            endpoint=self._shown,
            codec=self._runner.job.codec.name,
            rows=self._runner.sample.length,
            chunk_rows=sizes,
            concurrency=steps,
            automatic=self._automatic,
            requests=budget.requests,
            max_rows=budget.rows,
            seconds=budget.seconds,
        )

    def _report(self, search: Search, unfinished: str, n_rows: int | None) -> TuneReport:
        best, stop = search.best, self._stop_of(search, unfinished)
        settings, failed = {}, 0
        if best is not None:
            failed = self._failed[best.point]
            settings = {"chunks.rows": best.point.chunk_rows}
            # A fixed number would end the adaptive limit that the job asks for.
            settings |= {} if self._automatic else {"limits.concurrency": best.point.concurrency}
        return TuneReport(
            answers=self._answers,
            endpoint=self._shown,
            codec=self._runner.job.codec.name,
            rows=self._runner.sample.length,
            max_p95=self._bounds.p95,
            max_errors=self._bounds.errors,
            trials=search.trials,
            best=best,
            settings=settings,
            failed=failed,
            still_growing=search.still_growing,
            finished=not unfinished and stop is None,
            unfinished_reason=unfinished,
            requests=self._account.requests,
            seconds=_now() - self._began,
            cost=self._cost(None if best is None else best.point, n_rows),
            stop=stop,
            exit_code=exit_code(1 if best is None else failed, stop),
        )

    def _cost(self, best: Point | None, n_rows: int | None) -> SearchCost:
        """Return the cost of the search, and of the whole input by the trials at the best point."""
        prices, trials = self._runner.job.tables.cost, [one for stats in self._costs.values() for one in stats]
        if not prices.is_set:
            return SearchCost()
        is_known = all(one.cost is not None for one in trials)
        cost = SearchCost(spent=self._runner.cost if is_known else None, currency=prices.currency)
        measured = [one for one in self._costs.get(best, ()) if one.cost_per_row is not None] if best else []
        rows = sum(one.ok for one in measured)
        if not rows or n_rows is None:
            return cost
        each = sum(one.ok * (one.cost_per_row or 0.0) for one in measured) / rows
        # Independent trials: the squares of their errors add up.
        error = sqrt(sum((one.ok * (one.cost_per_row_error or 0.0)) ** 2 for one in measured)) / rows
        return cost._replace(estimate=each * n_rows, error=error * n_rows)

    def _stop_of(self, search: Search, unfinished: str) -> StopCause | None:
        if self._runner.control.ended:
            return StopCause("interrupted", self._runner.control.reason)
        if self._stop is None and not search.trials:
            return StopCause("deadline", f"nothing was measured: {unfinished}")
        return StopCause.of(self._stop)

    @property
    def _answers(self) -> AnsweredBy:
        return "endpoint" if self._runner.transport is None else "mock"


def _powers_around(rows: int, max_rows: int) -> set[int]:
    """Return ``rows``, halved down to 1 and doubled up to ``max_rows``, which is included."""
    # The powers start from the job's size, so that it is among the candidates.
    sizes, size = {max_rows}, rows
    while size >= 1:
        sizes.add(size)
        size //= 2
    while rows <= max_rows:
        sizes.add(rows)
        rows *= 2
    return sizes


def _now() -> float:
    return asyncio.get_running_loop().time()
