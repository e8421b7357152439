"""Real processes that share limits through a real Redis: the endpoint counts what it receives.

A busy machine delays requests, so that more of them may fall into one second than were started in it. The processes
therefore measure how late their own timers are, and the bounds allow for that; on a quiet machine it is a millisecond.
"""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from tests.limits.shared_scene import CountingEndpoint, most_in_a_second, redis_server, work

pytest.importorskip("redis")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_SECONDS = 4.0


@pytest.fixture
def redis(tmp_path):
    with redis_server(tmp_path) as server:
        yield server


async def assert_paced(redis, workers, limits, per_second, *, chunk=1, units=lambda rows: 1, counts=False):
    """At most 1.02 of the rate and one request go in any second, at least 0.98 of it on average."""
    async with CountingEndpoint() as endpoint:
        began = []

        async def during(_):
            began.append(asyncio.get_running_loop().time())

        options = {
            "url": endpoint.url, "seconds": _SECONDS, "chunk": chunk, "counts": counts, "width": 3,
            "limits": {"shared": redis.url, "concurrency": 64, **limits},
        }  # fmt: skip
        # Every other worker soon has nothing left to do.
        reports = await work([{**options, "rows": 20 if place % 2 else 100_000} for place in range(workers)], during)
    late = endpoint.lateness.worst + max(report.pop("late") for report in reports)
    assert most_in_a_second(endpoint.requests, units) <= (1.02 + late) * per_second + units(chunk)
    # The endpoint has the clock of the loop.
    steady = [one for one in endpoint.requests if began[0] + 0.5 <= one[0] < began[0] + _SECONDS - 0.5]
    assert sum(units(rows) for _, rows, _ in steady) >= (0.98 * (_SECONDS - 1) - late) * per_second


@pytest.mark.parametrize("workers", [1, 3, 8])
async def test_requests_in_a_second_keep_the_rate_and_uneven_load_uses_it(redis, workers):
    await assert_paced(redis, workers, {"requests_per_second": 100}, 100)


async def test_rows_in_a_second_keep_the_rate(redis):
    await assert_paced(redis, 4, {"rows_per_second": 1000}, 1000, chunk=10, units=lambda rows: rows)


async def test_tokens_in_a_second_keep_the_rate(redis):
    # Each row has three numbers, and counts as three tokens.
    await assert_paced(redis, 4, {"tokens_per_second": 600}, 600, chunk=5, units=lambda rows: 3 * rows, counts=True)


async def test_a_refusal_that_one_process_sees_stops_all_within_50_ms(redis):
    async with CountingEndpoint(retry_after=2) as endpoint:
        limits = {"shared": redis.url, "concurrency": 16, "requests_per_second": 300}
        options = {"url": endpoint.url, "rows": 100_000, "seconds": 4, "limits": limits}

        async def during(_):
            await asyncio.sleep(1)
            endpoint.refusals = 1

        reports = await work([options] * 8, during)
    (refused,) = endpoint.refused_at
    late = endpoint.lateness.worst + 2 * max(report["late"] for report in reports)
    assert not [at - refused for at, _, _ in endpoint.requests if 0.05 + late < at - refused < 2]
    assert any(at > refused + 2 for at, _, _ in endpoint.requests)


async def test_requests_in_flight_are_bounded_together(redis):
    async with CountingEndpoint(latency=0.05) as endpoint:
        limits = {"shared": redis.url, "concurrency": 4}
        options = {"url": endpoint.url, "rows": 60, "limits": limits}
        reports = await work([options] * 4)
    assert [report["right"] for report in reports] == [True] * 4
    assert max(in_flight for _, _, in_flight in endpoint.requests) <= 4


@pytest.mark.parametrize("seed", range(3))
async def test_no_row_is_lost_and_nothing_is_sent_while_redis_is_dead(redis, seed):
    times = random.Random(seed)
    async with CountingEndpoint() as endpoint:
        limits = {"shared": redis.url, "requests_per_second": 100, "concurrency": 16}
        options = {"url": endpoint.url, "rows": 150, "limits": limits, "retry": {"stall": 30}}
        dead = []

        async def during(_):
            now = asyncio.get_running_loop().time
            for _ in range(2):
                await asyncio.sleep(times.uniform(0.3, 1.2))
                redis.kill()
                killed = now()
                await asyncio.sleep(times.uniform(0.5, 1.5))
                dead.append((killed, now()))
                redis.start()

        reports = await work([options] * 3, during)
    assert [report["right"] for report in reports] == [True] * 3
    assert len(endpoint.requests) == 450
    late = endpoint.lateness.worst + max(report["late"] for report in reports)
    for killed, back in dead:
        # Each process notices the end of its connection within milliseconds.
        assert not [at for at, _, _ in endpoint.requests if killed + 0.05 + late < at < back]
        # A new Redis has lost its state: nothing is sent for a second.
        assert not [at for at, _, _ in endpoint.requests if back < at < back + 0.9]


async def test_a_redis_that_stays_dead_or_hangs_stops_all_as_unreachable(redis):
    for end in (redis.freeze, redis.kill):
        async with CountingEndpoint() as endpoint:
            limits = {"shared": redis.url, "requests_per_second": 100, "concurrency": 16}
            options = {"url": endpoint.url, "rows": 100_000, "limits": limits, "retry": {"stall": 7}}

            async def during(_, end=end):
                await asyncio.sleep(1)
                end()

            reports = await work([options] * 2, during)
        assert {report["kind"] for report in reports} == {"unreachable"}
        assert all("limits.shared cannot be reached" in report["reason"] for report in reports)
        assert sum(report["ok"] for report in reports) == len(endpoint.requests)
        redis.thaw()


async def test_the_permits_of_a_killed_process_become_free(redis):
    async with CountingEndpoint(latency=0.05) as endpoint:
        limits = {"shared": redis.url, "concurrency": 2}
        options = {"url": endpoint.url, "rows": 100_000, "limits": limits, "seconds": 40}

        async def during(workers):
            await asyncio.sleep(1)
            workers[0].send_signal(signal.SIGKILL)

        reports = await work([options, {**options, "rows": 150}], during)
    assert reports[0]["killed"] == -signal.SIGKILL
    assert reports[1]["right"]


async def test_max_requests_counts_for_all_processes_and_survives_a_killed_one(redis):
    async with CountingEndpoint() as endpoint:
        limits = {"shared": redis.url, "shared_key": "run", "concurrency": 8, "max_requests": 200}
        options = {"url": endpoint.url, "rows": 100_000, "limits": {**limits, "requests_per_second": 100}}

        async def during(workers):
            await asyncio.sleep(0.8)
            workers[0].send_signal(signal.SIGKILL)

        reports = await work([options] * 3, during)
    assert [report.get("kind") for report in reports[1:]] == ["max_requests"] * 2
    assert 192 <= len(endpoint.requests) <= 200
