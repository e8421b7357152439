"""Whole searches in virtual time, against servers with a capacity, a maximum chunk, and faults."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
from multidict import CIMultiDict

from fanout import ConfigError
from fanout.job import load_job
from fanout.testing import NoNetwork
from fanout.tune import Budget, SearchControl, TuneOptions, tune_job
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.job import Job
    from fanout.transport import Request
    from fanout.tune import Plan, Trial, TrialRunner, TuneReport

pytestmark = pytest.mark.virtual_time

NOBODY = "http://nobody.test/predict?key=s3cret"


@dataclass
class Server:
    """Answers in place of the endpoint, ``workers`` requests at a time."""

    workers: int = 4
    fixed: float = 0.1
    per_row: float = 0.0
    largest: int = 10**6
    refuses_above: int = 10**6
    """In flight."""
    fails_every: int = 10**6
    bad_row: float = -1.0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    rows: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    sizes: set[int] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    on_request: Callable[[], None] = lambda: None

    async def send(self, sent: Request) -> Response:
        if sent.method == "GET":
            return response(401)
        rows = orjson.loads(sent.joined())["instances"]
        self.requests += 1
        self.rows += len(rows)
        self.sizes.add(len(rows))
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.on_request()
        try:
            return await self._answer(rows)
        finally:
            self.in_flight -= 1

    async def _answer(self, rows: list[float]) -> Response:
        if self.requests % self.fails_every == 0:
            return response(503)
        if self.in_flight > self.refuses_above:
            return response(429, headers=self.headers)
        if len(rows) > self.largest:
            return response(413)
        async with self._line:
            await asyncio.sleep(self.fixed + self.per_row * len(rows))
        if self.bad_row in rows:
            return response(422)
        return response(self.status, {"predictions": rows}, self.headers)

    def __post_init__(self) -> None:
        self._line = asyncio.Semaphore(self.workers)


def response(status: int, body: object = "no", headers: dict[str, str] | None = None) -> Response:
    return Response(status=status, headers=CIMultiDict(headers or {}), body=orjson.dumps(body))


@dataclass
class Witness:
    """A listener that remembers."""

    plan: Plan | None = None
    trials: list[Trial] = field(default_factory=list)
    hook: Callable[[Trial], None] = lambda _: None

    def on_plan(self, plan: Plan, runner: TrialRunner) -> None:
        assert runner.client is None
        self.plan = plan

    def on_trial(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.hook(trial)


@pytest.fixture
def tune(write_job, monkeypatch, tmp_path):
    """Tune a job at a server; gives the report."""

    async def tune(
        server: Server,
        data: np.ndarray | None = None,
        *,
        overrides: tuple[str, ...] = (),
        witness: Witness | None = None,
        control: SearchControl | None = None,
        change: Callable[[Job], Job] = lambda job: job,
        **options: object,
    ) -> TuneReport:
        monkeypatch.setattr("fanout.tune.tune.mock_transport", lambda job, answering: server)
        file = write_job(url=NOBODY, rows=np.arange(5000.0) if data is None else data)
        job = change(load_job(file, ("chunks.rows=64", "retry.max_attempts=5", *overrides)))
        with NoNetwork():
            report = await tune_job(job, TuneOptions(**options), witness or Witness(), mock=True, control=control)
        assert not (tmp_path / "out").exists(), "nothing is written"
        return report

    return tune


async def test_the_knee_of_a_server_is_found(tune):
    server = Server(workers=4, fixed=0.1, per_row=0.001)
    report = await tune(server, chunk_rows=(64,))
    assert report.settings == {"chunks.rows": 64, "limits.concurrency": 4}
    assert report.best.rows_per_second == pytest.approx(4 * 64 / 0.164, rel=0.02)
    assert report.best.latency_p50 == pytest.approx(0.164, rel=0.05)
    assert (report.best.errors, report.exit_code, report.finished, report.stop) == (0.0, 0, True, None)
    assert server.most_in_flight == 16


async def test_larger_chunks_are_found_where_requests_cost_more_than_rows(tune):
    report = await tune(Server(workers=4, fixed=0.1, per_row=0.00001), concurrency=(1, 2, 4))
    assert report.settings["chunks.rows"] >= 512


async def test_requests_rows_and_time_stay_within_the_budget(tune):
    for budget in (Budget(requests=100), Budget(rows=5_000), Budget(seconds=3.0)):
        server, loop = Server(workers=100), asyncio.get_running_loop()
        began = loop.time()
        report = await tune(server, budget=budget)
        assert report.requests == server.requests <= budget.requests
        assert server.rows <= budget.rows
        assert loop.time() - began <= budget.seconds + 1e-6
        assert report.best is not None
        assert (report.finished, report.exit_code) == (False, 0)
        assert report.unfinished_reason


async def test_the_budget_holds_where_requests_are_made_again(tune):
    server = Server(workers=100, refuses_above=3)
    report = await tune(server, budget=Budget(requests=150))
    assert server.requests <= 150
    assert report.settings["limits.concurrency"] <= 3
    server = Server(fails_every=2)
    report = await tune(server, budget=Budget(requests=20), max_errors=1.0)
    assert server.requests == report.requests <= 20


async def test_the_deadline_of_the_job_is_not_that_of_a_trial(tune):
    report = await tune(Server(), chunk_rows=(64,), concurrency=(1, 2), overrides=("timeouts.run=0.15",))
    assert (report.finished, report.settings["limits.concurrency"]) == (True, 2)


async def test_the_job_s_own_guard_on_requests_counts_too(tune):
    server, witness = Server(workers=100), Witness()
    await tune(server, overrides=("limits.max_requests=60",), witness=witness)
    assert server.requests <= 60
    assert witness.plan.requests == 60


async def test_a_refused_chunk_size_is_reported_with_the_server_s_message(tune):
    server = Server(workers=4, largest=100)
    report = await tune(server)
    assert report.settings["chunks.rows"] == 64
    refused = next(trial for trial in report.trials if trial.verdict == "refused")
    assert refused.point.chunk_rows == 128
    assert "413" in refused.refused
    assert max(server.sizes) == 128, "no larger one is tried"


async def test_one_bad_row_is_not_taken_for_a_chunk_that_is_too_large(tune):
    report = await tune(Server(workers=4, bad_row=7.0), chunk_rows=(32, 64, 128), concurrency=(1, 4, 8))
    assert (report.exit_code, report.best is None) == (1, False), "report, but rows failed"
    assert report.failed >= 1
    assert all(trial.verdict != "refused" for trial in report.trials)


async def test_overload_is_no_setting_to_choose(tune):
    report = await tune(Server(workers=100, refuses_above=8), chunk_rows=(64,))
    assert report.settings["limits.concurrency"] == 8
    assert next(trial for trial in report.trials if trial.point.concurrency == 16).verdict == "errors"


async def test_a_wait_that_the_endpoint_asks_for_is_kept_by_the_next_trial_too(tune):
    server = Server(workers=100, refuses_above=4, headers={"Retry-After": "7"})
    report = await tune(server, chunk_rows=(64,))
    gaps = np.diff(server.times)
    assert report.settings["limits.concurrency"] == 4
    assert gaps.max() >= 7
    refused = [i for i, gap in enumerate(gaps) if gap >= 7]
    assert refused, "and nothing was sent meanwhile"


async def test_the_bound_on_p95_is_kept(tune):
    server = Server(workers=2, fixed=0.1)
    report = await tune(server, chunk_rows=(64,), max_p95=0.25)
    assert report.settings["limits.concurrency"] == 2
    assert {trial.verdict for trial in report.trials if trial.point.concurrency > 4} <= {"p95"}
    report = await tune(server, max_p95=0.05)
    assert (report.best, report.settings, report.exit_code) == (None, {}, 1)
    assert report.trials


async def test_without_a_bound_half_of_the_attempt_s_deadline_is_one(tune):
    report = await tune(Server(), chunk_rows=(64,), concurrency=(1,), overrides=("timeouts.attempt=12.0",))
    assert report.max_p95 == 6.0


async def test_the_warm_up_does_not_count(tune):
    """The first requests of every client are slow: that would show."""
    server = Server(workers=100, fixed=0.1)
    slow: list[float] = []

    async def send(sent: Request) -> Response:
        slow.append(1.0)
        if len(slow) == 1:
            await asyncio.sleep(5)
        return await Server.send(server, sent)

    server.send = send  # type: ignore[method-assign]
    report = await tune(server, chunk_rows=(64,), concurrency=(1,))
    assert report.best.rows_per_second == pytest.approx(640, rel=0.02)
    assert report.best.latency_p95 == pytest.approx(0.1, rel=0.05)


async def test_a_slow_endpoint_is_measured_with_few_answers(tune):
    report = await tune(Server(workers=1, fixed=15.0), chunk_rows=(1,), overrides=("chunks.rows=1",), concurrency=(1,))
    assert report.best is not None
    assert report.best.rows_per_second == pytest.approx(1 / 15, rel=0.01)


async def test_nothing_measured_in_time_is_a_stop_with_the_reason(tune):
    report = await tune(Server(fixed=50.0), budget=Budget(seconds=20.0))
    assert (report.stop.kind, report.exit_code, report.trials) == ("deadline", 3, ())
    assert report.stop.reason == "nothing was measured: the 20 s for it are over"


async def test_credentials_that_are_refused_stop_it_at_once(tune):
    server = Server(status=401)
    report = await tune(server)
    assert (report.stop.kind, report.exit_code, report.best) == ("refused", 3, None)
    assert server.requests == 1
    assert "s3cret" not in repr(report)
    assert report.endpoint.endswith("?key=***")


async def test_a_model_that_may_not_be_asked_about_stops_it_before_a_plan_is_made(tune):
    server, witness = Server(), Witness()
    model = ("codec.name=oip", "endpoint.url=http://nobody.test/v2/models/m/infer")
    report = await tune(server, overrides=model, witness=witness)
    assert (report.stop.kind, report.exit_code, report.trials, report.requests) == ("refused", 3, (), 1)
    assert (witness.plan, server.requests) == (None, 0)


async def test_measurements_before_a_stop_are_reported(tune):
    server = Server(workers=100)

    def expire() -> None:
        if server.requests > 150:
            server.status = 401

    server.on_request = expire
    report = await tune(server, chunk_rows=(64,))
    assert (report.stop.kind, report.exit_code) == ("refused", 3)
    assert report.best is not None
    assert not report.finished


async def test_an_interrupted_search_reports_its_measurements(tune):
    control, server = SearchControl(), Server(workers=100)
    witness = Witness(hook=lambda trial: trial.point.concurrency == 4 and control.drain("interrupted by SIGINT"))  # type: ignore[func-returns-value]
    report = await tune(server, control=control, witness=witness)
    assert [trial.point.concurrency for trial in report.trials] == [1, 2, 4]
    assert (report.stop.kind, report.stop.reason, report.exit_code) == ("interrupted", "interrupted by SIGINT", 130)


async def test_an_interrupted_trial_ends_with_its_requests_in_flight(tune):
    control, server = SearchControl(), Server(workers=100)
    server.on_request = lambda: control.drain() if server.requests == 30 else None
    report = await tune(server, control=control)
    assert server.requests == 30
    assert report.exit_code == 130


async def test_a_cut_abandons_the_requests_in_flight(tune):
    control, server, loop = SearchControl(), Server(workers=100, fixed=20.0), asyncio.get_running_loop()
    server.on_request = lambda: loop.call_later(1.0, control.cut) and None  # type: ignore[assignment]
    began = loop.time()
    report = await tune(server, control=control)
    assert loop.time() - began == pytest.approx(1.0)
    assert (report.exit_code, server.in_flight) == (130, 0)


async def test_an_interruption_ends_a_wait_for_the_endpoint(tune):
    control, loop = SearchControl(), asyncio.get_running_loop()
    server = Server(workers=100, refuses_above=1, headers={"Retry-After": "50"})
    loop.call_later(30.0, control.drain)
    began = loop.time()
    report = await tune(server, control=control, chunk_rows=(64,))
    assert loop.time() - began == pytest.approx(30.0)
    assert report.exit_code == 130


async def test_a_job_that_leaves_the_concurrency_to_the_client_gets_its_chunks_tuned_alone(tune):
    server, witness = Server(workers=100, per_row=0.0), Witness()

    def automatic(job: Job) -> Job:
        limits = replace(job.tables.limits)
        object.__setattr__(limits, "concurrency", "auto")
        return replace(job, tables=job.tables.model_copy(update={"limits": limits}))

    report = await tune(server, witness=witness, change=automatic)
    assert witness.plan.automatic
    assert witness.plan.concurrency == (16,)
    assert list(report.settings) == ["chunks.rows"]
    assert report.settings["chunks.rows"] > 64


async def test_the_plan_comes_before_the_first_row(tune):
    server = Server()
    plans = []

    class Early(Witness):
        def on_plan(self, plan: Plan, runner: TrialRunner) -> None:
            plans.append((plan, server.requests))

    await tune(server, witness=Early(), data=np.arange(300.0), max_p95=1.0)
    plan, sent = plans[0]
    assert sent == 0
    assert (plan.rows, plan.requests, plan.max_rows, plan.seconds) == (300, 2000, 500_000, 60.0)
    assert plan.chunk_rows == (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)
    assert plan.concurrency == (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(requests=3)}, "3 requests and 500,000 rows are too few for a trial with 1 in flight"),
        ({"chunk_rows": (9000,)}, "--chunk-rows: a request of this job has 5,000 rows at most"),
        ({"concurrency": (100,)}, "the input has 5,000 rows: too few for 100 requests in flight with 64 rows each"),
        ({"rows": slice(6000, 7000)}, "there are no rows to send"),
    ],
)
async def test_impossible_options_are_refused_before_a_row_is_sent(tune, options, message):
    server = Server()
    with pytest.raises(ConfigError, match=message):
        await tune(server, **options)
    assert server.requests == 0


async def test_an_endpoint_that_refuses_everything_does_not_take_all_of_the_time(tune):
    server = Server(refuses_above=0)
    report = await tune(server, chunk_rows=(64,))
    assert report.best is None
    assert report.seconds < 60
    assert report.exit_code in (1, 3)


async def test_the_cost_of_the_whole_input_is_estimated_from_the_best_point(tune):
    server = Server()
    report = await tune(server, chunk_rows=(64,), concurrency=(4,), overrides=("cost.per_request=0.5",))
    assert report.cost.spent == 0.5 * server.requests
    assert (report.cost.estimate, report.cost.currency) == (pytest.approx(0.5 * 5000 / 64), "USD")
    assert report.cost.error == pytest.approx(0.0, abs=1e-6)


async def test_the_limit_of_the_job_on_its_cost_holds_for_all_trials_together(tune):
    server = Server()
    report = await tune(server, overrides=("cost.per_row=0.01", "limits.max_cost=30.0"))
    assert report.stop.kind == "cost"
    assert report.cost.spent == pytest.approx(0.01 * server.rows)
    assert report.cost.spent <= 30.0 + 1e-6
