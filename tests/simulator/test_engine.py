"""Adaptive concurrency in a whole client, before made-up servers. ``pytest -s`` prints the figures."""

from __future__ import annotations

import asyncio
from math import inf, isfinite
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from fanout import Client, Limits, RunStopped, Timeouts
from fanout.testing import VirtualClock
from tests.simulator.catalog import ENDPOINTS, Endpoint, Make, flaky, moving
from tests.simulator.servers import RESET, SILENCE, Queue, Times, lognormal, now_and_then
from tests.simulator.transport import Doubled, Simulated

if TYPE_CHECKING:
    from tests.simulator.servers import Server

FIXED = (1, 2, 4, 8, 16, 32, 64)
ROWS = np.arange(200_000.0).reshape(-1, 1)


class Seen(NamedTuple):
    """The requests of a client in some time."""

    answered: int
    refused: float
    """Share of the requests that were refused, as the server counts them."""

    in_flight: list[int]
    """At the server, four times a second."""

    limits: list[int]
    failed: int


def seen(endpoint: Endpoint, concurrency: Any, seconds: float, seed: int = 1) -> Seen:
    """A run that has more to send than there is time."""

    async def scenario() -> Seen:
        loop = asyncio.get_running_loop()
        server = endpoint.make(loop, seed)
        attempt = endpoint.timeout if isfinite(endpoint.timeout) else 60.0
        client = Client(
            "http://simulated/",
            codec=Doubled,
            chunk_rows=1,
            limits=Limits(concurrency=concurrency),
            timeouts=Timeouts(run=seconds, attempt=attempt),
            transport=Simulated({"simulated": server}),
        )
        async with client:
            watch = asyncio.create_task(looks(client, server))
            with pytest.raises(RunStopped) as caught:
                await client.map(ROWS)
            watch.cancel()
        result = caught.value.result
        assert caught.value.kind == "deadline"
        assert np.array_equal(result.values[result.ok], 2 * ROWS[result.ok])
        n_failures = len(result.failures)
        return Seen(int(result.ok.sum()), server.refused / server.received, *watched, n_failures)

    watched: tuple[list[int], list[int]] = ([], [])

    async def looks(client: Client, server: Server) -> None:
        while True:
            await asyncio.sleep(0.25)
            watched[0].append(server.in_flight)
            watched[1].append(client.statistics().concurrency or 0)

    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        return runner.run(scenario())


def judged(name: str, seconds: float, fixed: tuple[int, ...] = FIXED) -> float:
    endpoint = ENDPOINTS[name]
    answers = {limit: seen(endpoint, limit, seconds).answered for limit in fixed}
    best = max(fixed, key=lambda limit: (answers[limit], -limit))
    auto = seen(endpoint, "auto", seconds)
    limits = auto.limits[len(auto.limits) // 4 :]
    print(
        f"\n{name:18} best fixed {best:2}: {answers[best] / seconds:6.1f}/s   auto: {auto.answered / seconds:6.1f}/s "
        f"= {auto.answered / answers[best]:4.0%}, limit {mean(limits):5.1f} ({min(limits)} to {max(limits)}), "
        f"{auto.refused:.1%} refused",
        end="",
    )
    assert auto.failed == 0
    return auto.answered / answers[best]


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        pytest.param("queue", 16, marks=pytest.mark.slow),
        ("refuses above 3", 2),
        pytest.param("batches", 64, marks=pytest.mark.slow),
        ("rate, told", 8),
    ],
)
def test_a_minute_from_a_cold_start_brings_nine_tenths_of_the_best_fixed_concurrency(name, fixed):
    assert judged(name, 60, (fixed,)) >= 0.9


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name not in ("disturbed", "noisy")])
def test_two_minutes_from_a_cold_start_bring_nine_tenths_of_the_best_fixed_concurrency(name):
    """Those are left out in which chance decides too much for one run: tests/simulator/test_controllers.py has them."""
    assert judged(name, 120) >= 0.9


def sick(share: float, kind: str) -> Endpoint:
    """Sixteen requests at once, a tenth of a second each; a share fails, hangs, or takes twenty times as long."""
    if kind == "slow":
        return Endpoint(_sixteen(now_and_then(lognormal(0.1, 0.2), 20.0, share)))
    if kind == "hangs":
        return Endpoint(flaky(_sixteen(lognormal(0.1, 0.2)), share, SILENCE, late=False), timeout=1.0)
    return Endpoint(flaky(_sixteen(lognormal(0.1, 0.2)), share, RESET if kind == "reset" else 503, late=kind == "late"))


def _sixteen(times: Times) -> Make:
    return lambda clock, seed: Queue(clock, times, capacity=16, seed=seed)


@pytest.mark.parametrize(
    ("share", "kind"),
    [
        (share, kind)
        if (share, kind) in ((0.1, "503"), (0.03, "reset"))
        else pytest.param(share, kind, marks=pytest.mark.slow)
        for share in (0.01, 0.03, 0.1)
        for kind in ("503", "late", "reset", "slow", "hangs")
        if (share, kind) != (0.1, "slow")  # a minute is too short: tests/simulator/test_controllers.py has it
    ],
)
def test_failures_and_slow_answers_that_the_load_does_not_cause_cost_less_than_a_tenth(share, kind):
    endpoint, seconds = sick(share, kind), 60
    runs = {limit: seen(endpoint, limit, seconds) for limit in (16, "auto")}
    answered = {limit: run.answered for limit, run in runs.items()}
    print(f"\n{share:.0%} {kind}: {answered}, limit {mean(runs['auto'].limits[60:]):.1f}", end="")
    assert runs["auto"].failed <= 2, "five failures in a row are possible at 10 %"
    assert answered["auto"] >= 0.9 * answered[16]


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(4), marks=pytest.mark.soak), pytest.param(range(1, 2), marks=pytest.mark.slow)],
    ids=len,
)
@pytest.mark.parametrize("room", [0, inf], ids=["refuses", "queues"])
def test_a_run_follows_a_capacity_of_32_then_8_then_32(room, seeds):
    """Within 20 s of each change and from then on, with fewer than 5 % of the requests refused."""
    plan = {0: 32, 40: 8, 80: 32}
    endpoint = Endpoint(lambda clock, seed: moving(clock, seed, seconds=0.25, room=room, plan=plan))
    runs = [seen(endpoint, "auto", 120, seed) for seed in seeds]
    for since, capacity in ((20, 32), (60, 8), (100, 32)):
        in_flight = [n for run in runs for n in run.in_flight[4 * since : 4 * since + 80]]
        inside = mean(abs(n / capacity - 1) <= 0.25 for n in in_flight)
        extremes = f"{min(in_flight)} to {max(in_flight)}"
        print(f"\n{capacity}: {mean(in_flight):.1f} in flight ({extremes}), {inside:.0%} inside", end="")
        assert abs(mean(in_flight) / capacity - 1) <= 0.25
        assert inside >= (0.95 if room == 0 else 0.8)
    print(f", at most {max(run.refused for run in runs):.1%} refused")
    assert max(run.refused for run in runs) < 0.05
    assert not any(run.failed for run in runs)
