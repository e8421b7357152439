"""Runs with prices, and with limits on their cost and tokens, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fanout
from fanout import Client, ConfigError, Hedge, Limits, Prices, Response, RetryPolicy, RunStopped, Timeouts
from tests.upstream.metered import INPUT, OUTPUT, Counting, MeteredApi

if TYPE_CHECKING:
    from fanout import Result, Statistics
    from fanout.transport import Request

pytestmark = pytest.mark.virtual_time

PRICES = Prices(input_per_million=1e6, output_per_million=2e6)
"""A token costs 1, one of an answer 2, so that a row costs 20."""

ROW = INPUT + 2 * OUTPUT


async def run(
    api: MeteredApi, n_rows: int = 40, *, max_cost: float | None = None, tokens: int | None = None, **options: Any
) -> tuple[Result, RunStopped | None, Statistics]:
    limits = Limits(concurrency=8, max_cost=max_cost, max_tokens_total=tokens)
    options = {"chunk_rows": 1, "limits": limits, "cost": PRICES, **options}
    async with Client("http://metered.test", codec=Counting, transport=api, **options) as client:
        try:
            result, stop = await client.map(np.arange(n_rows), on_error="keep"), None
        except RunStopped as stopped:
            result, stop = stopped.result, stopped
        return result, stop, client.statistics()


async def test_the_statistics_show_the_cost_of_what_the_server_billed() -> None:
    api = MeteredApi()
    _, stop, stats = await run(api)
    assert stop is None
    assert (stats.cost, stats.cost_estimated, stats.currency) == (40 * ROW, 0.0, "USD")
    assert stats.tokens == (40 * INPUT, 0, 40 * OUTPUT, 0)


@pytest.mark.parametrize(("max_cost", "tokens"), [(15.5 * ROW, None), (None, 15 * (INPUT + OUTPUT) + 1)])
async def test_a_run_stops_at_its_limit_and_keeps_all_answers(max_cost: float | None, tokens: int | None) -> None:
    api = MeteredApi()
    result, stop, _ = await run(api, max_cost=max_cost, tokens=tokens)
    assert stop is not None
    assert stop.kind == "cost"
    assert "raise it to go on" in stop.reason
    assert result.ok.sum() == api.rows == 15
    assert np.array_equal(result.values[result.ok][:, 0], 2.0 * np.flatnonzero(result.ok))


async def test_a_run_that_costs_exactly_its_limit_is_complete() -> None:
    _, stop, stats = await run(MeteredApi(), 10, max_cost=1.0, cost=Prices(per_row=0.1))
    assert stop is None
    assert stats.cost == pytest.approx(1.0)


async def test_the_first_request_measures_the_others_under_a_limit() -> None:
    api = MeteredApi()
    await run(api, max_cost=1e6)
    assert api.starts[:3] == [0.0, 1.0, 1.0]
    assert api.most_in_flight == 8
    exact = MeteredApi()
    await run(exact, max_cost=1e6, cost=Prices(per_row=1.0))
    assert exact.starts[0] == exact.starts[1]


async def test_fewer_requests_are_in_flight_near_the_limit() -> None:
    api = MeteredApi()
    _, stop, _ = await run(api, max_cost=12 * ROW)
    assert stop is not None
    starts = {start: api.starts.count(start) for start in api.starts}
    assert starts == {0.0: 1, 1.0: 8, 2.0: 3}


async def test_an_attempt_that_timed_out_is_charged_its_estimate() -> None:
    api = MeteredApi(lambda number: "hang" if number == 5 else "ok")
    _, stop, stats = await run(api, max_cost=40 * ROW, timeouts=Timeouts(attempt=10.0))
    assert stop is not None
    assert stop.kind == "cost"
    assert api.input + 2 * api.output == 40 * ROW
    assert (stats.cost, stats.cost_estimated) == (40 * ROW, ROW)


@pytest.mark.parametrize("fault", ["500", "429", "refused"])
async def test_refused_requests_cost_nothing(fault: str) -> None:
    api = MeteredApi(lambda number: fault if number % 4 == 3 else "ok")
    result, stop, stats = await run(api, max_cost=40 * ROW, retry=RetryPolicy(max_attempts=20))
    assert stop is None
    assert result.ok.all()
    assert stats.cost == 40 * ROW
    assert stats.retries > 0


async def test_a_hedge_is_charged_like_any_other_request() -> None:
    api = MeteredApi(lambda number: "slow" if number == 20 else "ok")
    _, stop, stats = await run(api, hedge=Hedge(share=1.0, delay=1.5))
    assert stop is None
    assert stats.hedges == 1
    assert stats.cost == api.input + 2 * api.output == 41 * ROW


async def test_the_cost_is_unknown_without_a_usage_or_a_price() -> None:
    _, stop, stats = await run(MeteredApi(reports=False))
    assert (stop, stats.cost) == (None, None)
    _, stop, stats = await run(MeteredApi(), cost=Prices(input_per_million=1.0))
    assert (stop, stats.cost) == (None, None)
    _, stop, stats = await run(MeteredApi(), cost=None)
    assert (stop, stats.cost, stats.cost_estimated, stats.currency) == (None, None, None, None)


async def test_a_limit_that_cannot_be_kept_stops_the_run() -> None:
    result, stop, _ = await run(MeteredApi(reports=False), max_cost=1e6)
    assert stop is not None
    assert (stop.kind, int(result.ok.sum())) == ("cost", 3)
    assert "codec.usage" in stop.reason
    _, stop, _ = await run(MeteredApi(), max_cost=1e6, cost=Prices(input_per_million=1.0))
    assert stop is not None
    assert "cost.output_per_million" in stop.reason


async def test_a_usage_without_input_tokens_is_no_usage_where_these_have_a_price() -> None:
    """A path to the count may be wrong, or the count beyond all bounds: the input would be taken to be free."""
    api = MeteredApi(tokens=lambda rows: (0, OUTPUT * rows))
    result, stop, stats = await run(api, max_cost=1e6)
    assert stop is not None
    assert (stop.kind, int(result.ok.sum()), stats.cost) == ("cost", 3, None)
    assert "no input tokens" in stop.reason
    _, stop, stats = await run(api, max_cost=1e6, cost=Prices(input_per_million=0.0, output_per_million=2e6))
    assert (stop, stats.cost) == (None, 40 * OUTPUT * 2)


async def test_the_users_own_count_replaces_a_usage() -> None:
    api = MeteredApi(reports=False)
    prices = Prices(input_per_million=1e6)
    result, stop, _ = await run(api, max_cost=100.0, cost=prices, count_tokens=lambda row: 10)
    assert stop is not None
    assert result.ok.sum() == 10


async def test_runs_of_one_client_share_its_limit() -> None:
    api = MeteredApi()
    limits = Limits(max_cost=10 * ROW)
    async with Client("http://m.test", codec=Counting, transport=api, limits=limits, cost=PRICES) as client:
        await client.map(np.arange(6))
        with pytest.raises(RunStopped, match="max_cost"):
            await client.map(np.arange(6))
    assert api.rows == 6


def test_a_limit_without_a_price_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_cost needs prices") as caught:
        Client("http://m.test", codec=Counting, limits=Limits(max_cost=1.0))
    assert caught.value.key == "limits.max_cost"


STEPS = st.sampled_from(["ok", "ok", "ok", "slow", "hang", "500", "429", "refused"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(STEPS, min_size=1, max_size=40),
    cap=st.integers(1, 60),
    chunk_rows=st.integers(1, 4),
    concurrency=st.integers(1, 12),
    hedged=st.booleans(),
)
async def test_the_limit_holds_whatever_happens(
    steps: list[str], cap: int, chunk_rows: int, concurrency: int, hedged: bool
) -> None:
    # The last steps are good ones, so that each run ends.
    api = MeteredApi(lambda number: steps[number] if number < len(steps) else "ok")
    result, stop, stats = await run(
        api,
        max_cost=cap * ROW,
        chunk_rows=chunk_rows,
        limits=Limits(concurrency=concurrency, max_cost=cap * ROW),
        cost=Prices(per_row=ROW),
        hedge=Hedge(share=1.0, delay=1.5) if hedged else None,
        timeouts=Timeouts(attempt=10.0),
    )
    billed = api.rows * ROW
    assert billed <= cap * ROW
    assert stats.cost is not None
    assert billed <= stats.cost <= cap * ROW
    assert stop is None or stop.kind == "cost"
    if stop is not None:  # less than one request was left
        assert cap * ROW - stats.cost < chunk_rows * ROW
    pending = sum(len(chunk) for chunk in result.pending)
    assert pending == 0 if stop is None else pending > 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    outputs=st.lists(st.integers(0, 30), min_size=40, max_size=40),
    cap=st.integers(40, 1000),
    concurrency=st.integers(1, 12),
)
async def test_estimates_exceed_the_limit_by_the_errors_of_requests_in_flight_at_most(
    outputs: list[int], cap: int, concurrency: int
) -> None:
    given_outputs = iter(outputs)
    api = MeteredApi(tokens=lambda rows: (INPUT, next(given_outputs)))
    _, stop, stats = await run(api, max_cost=cap, limits=Limits(concurrency=concurrency, max_cost=cap))
    billed = api.input + 2 * api.output
    assert stats.cost == billed
    # An estimate is at least the cost without an answer, and no answer is longer than 30 tokens.
    assert billed <= cap + api.most_in_flight * 2 * 30
    assert stop is not None or billed >= 40 * INPUT


class Jobs:
    """An asynchronous API: a POST starts a job, and the second GET of its state has the answer and its usage."""

    offline = True

    def __init__(self, *, reports: bool = True) -> None:
        self.started: list[float] = []
        self._gets: Counter[str] = Counter()
        self._reports = reports

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0.1)
        if request.method == "POST":
            self.started.append(orjson.loads(request.joined())["n"])
            return self._response(202, {"url": f"/jobs/{len(self.started) - 1}"}, request.url)
        name = request.url.rpartition("/")[2]
        self._gets[name] += 1
        state: dict[str, Any] = {"done": self._gets[name] > 1, "double": 2 * self.started[int(name)]}
        return self._response(200, state | ({"usage": {"tokens": 10}} if self._reports else {}), request.url)

    def _response(self, status: int, document: dict[str, Any], url: str) -> Response:
        return Response(status=status, headers={}, body=orjson.dumps(document), url=url)


@pytest.mark.parametrize(("reports", "n_rows"), [(True, 12), (False, 3)])
async def test_a_job_of_an_asynchronous_api_costs_what_its_result_says(reports: bool, n_rows: int) -> None:
    api = Jobs(reports=reports)
    codec = fanout.codec(
        "json",
        request={"n": "{{row}}"},
        outputs={"double": "double"},
        usage={"prompt_tokens": "usage.tokens"},
        poll={"url": "url", "until": "done", "every": 1.0},
    )
    # A longer body is estimated to have more tokens, so that the limit is no multiple of ten.
    limits, prices = Limits(concurrency=4, max_cost=125.0), Prices(input_per_million=1e6)
    options: dict[str, Any] = {"chunk_rows": 1, "limits": limits, "cost": prices, "transport": api}
    async with Client("http://jobs.test/jobs", codec=codec, **options) as client:
        with pytest.raises(RunStopped) as caught:
            await client.map(np.arange(30.0))
        stats = client.statistics()
    assert (caught.value.kind, int(caught.value.result.ok.sum())) == ("cost", n_rows)
    assert len(api.started) == n_rows
    assert stats.cost == (120.0 if reports else None)
