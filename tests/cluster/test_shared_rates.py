"""Shared limits in an actor of a local Ray cluster, with real worker processes."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.limits.shared_scene import CountingEndpoint, Lateness, most_in_a_second

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.filterwarnings("default")]

_SECONDS = 4.0


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    # Starts the workers, which takes longest, and has them import what they need.
    ray.get([ray.remote(num_cpus=1)(warm_up).remote() for _ in range(3)])
    yield
    ray.shutdown()


def warm_up():
    import fanout

    time.sleep(1)
    return fanout.Client("http://127.0.0.1:1/x", codec="v1") is not None


def send(url, rows, limits, until, chunk=1, width=1):
    """Send rows until a time; the number of answers, the kind of the end, and the lateness of the worker's timers."""
    import asyncio

    import numpy as np

    import fanout

    async def main():
        lateness = Lateness()
        options = {"chunk_rows": chunk, "count_tokens": len if width > 1 else None}
        async with fanout.Client(url, codec="v1", limits=fanout.Limits(**limits), **options) as client:
            watch = asyncio.create_task(lateness.watch())
            left = until - time.time()
            try:
                result, kind = await client.map(np.zeros((rows, width)), on_error="keep", timeout=left), ""
            except fanout.RunStopped as error:
                result, kind = error.result, error.kind
            watch.cancel()
        return int(result.ok.sum()), kind, lateness.worst

    return asyncio.run(main())


async def on_workers(endpoint, limits, rows, *, begin=4.0, **options):
    """Run a worker for each number of rows; they end together."""
    until = time.time() + begin + _SECONDS
    task = ray.remote(num_cpus=1)(send)
    every = [task.remote(endpoint.url, n, limits, until, **options) for n in rows]
    return await asyncio.gather(*(asyncio.wrap_future(one.future()) for one in every))


@pytest.mark.parametrize(
    ("rate", "per_second", "chunk", "width", "units"),
    [
        ("requests_per_second", 100, 1, 1, lambda rows: 1),
        ("rows_per_second", 1000, 10, 1, lambda rows: rows),
        # Each row has three numbers, and counts as three tokens.
        ("tokens_per_second", 600, 5, 3, lambda rows: 3 * rows),
    ],
)
async def test_workers_keep_one_rate_and_uneven_load_uses_it(cluster, rate, per_second, chunk, width, units):
    async with CountingEndpoint() as endpoint:
        limits = {"shared": f"ray://{rate}", rate: per_second, "concurrency": 64}
        ends = await on_workers(endpoint, limits, [100_000, 20, 100_000], chunk=chunk, width=width)
    late = endpoint.lateness.worst + max(late for _, _, late in ends)
    assert most_in_a_second(endpoint.requests, units) <= (1.02 + late) * per_second + units(chunk)
    last = endpoint.requests[-1][0]
    steady = [units(rows) for at, rows, _ in endpoint.requests if last - 3 <= at < last]
    assert sum(steady) >= (0.98 * 3 - late) * per_second


async def test_a_refusal_stops_all_workers_within_50_ms(cluster):
    async with CountingEndpoint(retry_after=2) as endpoint:
        limits = {"shared": "ray://refusals", "requests_per_second": 200, "concurrency": 16}
        refusing = asyncio.create_task(refuse_one(endpoint, 300))
        ends = await on_workers(endpoint, limits, [100_000] * 3)
        await refusing
        assert_silent(endpoint, ends)


async def refuse_one(endpoint, after):
    while len(endpoint.requests) < after:  # noqa: ASYNC110 - the endpoint has no event
        await asyncio.sleep(0.01)
    endpoint.refusals = 1


def assert_silent(endpoint, ends):
    """After a refusal, no request comes for as long as it demands; later some do."""
    (refused,) = endpoint.refused_at
    late = endpoint.lateness.worst + 2 * max(late for _, _, late in ends)
    assert not [at - refused for at, _, _ in endpoint.requests if 0.05 + late < at - refused < 2]
    assert any(at > refused + 2 for at, _, _ in endpoint.requests)


async def test_a_cooldown_holds_for_all_workers_without_a_rate(cluster):
    async with CountingEndpoint(latency=0.01, retry_after=2) as endpoint:
        limits = {"shared": "ray://cooldowns", "concurrency": 2}
        refusing = asyncio.create_task(refuse_one(endpoint, 300))
        ends = await on_workers(endpoint, limits, [100_000] * 3)
        await refusing
        assert_silent(endpoint, ends)


async def test_a_lost_actor_is_made_again_and_nothing_is_sent_for_a_while(cluster):
    async with CountingEndpoint() as endpoint:
        limits = {"shared": "ray://lost", "requests_per_second": 50, "concurrency": 16}
        lost = []

        async def lose():
            while len(endpoint.requests) < 50:  # noqa: ASYNC110 - the endpoint has no event
                await asyncio.sleep(0.01)
            ray.kill(ray.get_actor("lost", namespace="fanout"))
            lost.append(time.monotonic())

        losing = asyncio.create_task(lose())
        ends = await on_workers(endpoint, limits, [150] * 2, begin=20.0)
        await losing
    assert [(ok, kind) for ok, kind, _ in ends] == [(150, "")] * 2
    late = endpoint.lateness.worst + max(late for _, _, late in ends)
    after = [at - lost[0] for at, _, _ in endpoint.requests if at > lost[0] + 0.05 + late]
    assert min(after) > 0.9
