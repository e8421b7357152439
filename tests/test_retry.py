"""Backoff: the wait before each attempt, the number of attempts, and tenacity's strategies in place of both."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from fanout import Client, ConfigError, Limits, RetryPolicy, RunStopped
from fanout.retry import Backoff
from fanout.testing import MockEndpoint
from fanout.types import Action, Verdict
from tests.support import Plain

AGAIN = Verdict(action=Action.RETRY, reason="HTTP 503", status=503)
X = np.arange(30.0).reshape(10, 3)


def delay(policy: RetryPolicy, number: int, seconds: float = 0.0) -> float | None:
    return Backoff(policy)(AGAIN, sent=number, charged=number, seconds=seconds)


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_no_attempt_is_left_after_max_attempts(max_attempts: int) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)
    delays = [delay(policy, number) for number in range(1, max_attempts + 2)]
    assert [wait is None for wait in delays] == [False] * (max_attempts - 1) + [True] * 2


def test_attempts_that_are_not_charged_are_made_for_ever_and_the_waits_grow() -> None:
    backoff = Backoff(RetryPolicy(max_attempts=1, initial_backoff=1.0, max_backoff=100.0))
    waits = [backoff(AGAIN, sent=number, charged=0, seconds=0.0) for number in [1] * 50 + [9] * 50]
    assert max(w for w in waits[:50] if w is not None) <= 1.0
    assert max(w for w in waits[50:] if w is not None) > 10.0


@given(initial=st.floats(0, 100), longest=st.floats(0, 100), number=st.integers(1, 12))
def test_waits_are_between_nothing_and_the_doubling_bound(initial: float, longest: float, number: int) -> None:
    policy = RetryPolicy(max_attempts=100, initial_backoff=initial, max_backoff=longest)
    wait = delay(policy, number)
    assert wait is not None
    assert 0 <= wait <= min(initial * 2 ** (number - 1), longest)


def test_waits_use_the_whole_range() -> None:
    """Full jitter, not a jitter added to a fixed wait."""
    policy = RetryPolicy(initial_backoff=0.5, max_backoff=3.0)
    for number, bound in enumerate([0.5, 1.0, 2.0, 3.0], start=1):
        waits = [wait for _ in range(300) if (wait := delay(policy, number)) is not None]
        assert min(waits) < 0.1 * bound
        assert max(waits) > 0.9 * bound
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.25)


def test_a_thousand_doublings_are_no_overflow() -> None:
    policy = RetryPolicy(max_attempts=2000, initial_backoff=1.0, max_backoff=3.0)
    wait = delay(policy, 1100)
    assert wait is not None
    assert wait <= 3.0


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_fixed(2), [2, 2, 2]),
        (tenacity.wait_none(), [0, 0, 0]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3]),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(start=0, increment=1), [1, 2, 3]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7)), [1, 7, 7]),
        (lambda state: state.outcome.exception().verdict.status / 100, [5.03] * 3),
        (lambda state: state.seconds_since_start * 10, [40, 40, 40]),
    ],
)
def test_any_strategy_gives_the_waits(wait: Any, expected: list[float]) -> None:
    policy = RetryPolicy(wait=wait)
    assert [delay(policy, number, seconds=4.0) for number in (1, 2, 3)] == expected


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (tenacity.stop_after_attempt(2), [True, False, False]),
        (tenacity.stop_never, [True, True, True]),
        (tenacity.stop_after_delay(15), [True, False, False]),
        (tenacity.stop_before_delay(25), [True, False, False]),
        (tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(25), [True, True, False]),
        (tenacity.stop_after_attempt(1) & tenacity.stop_after_delay(15), [True, False, False]),
    ],
)
def test_any_strategy_ends_the_attempts(stop: Any, left: list[bool]) -> None:
    """The attempts end after 10, 20 and 30 seconds, and each wait takes ten."""
    policy = RetryPolicy(max_attempts=1, stop=stop, wait=tenacity.wait_fixed(10))
    assert [delay(policy, number, seconds=10.0 * number) is not None for number in (1, 2, 3)] == left


@pytest.mark.parametrize("wait", [-1.0, float("nan"), float("inf"), None, "1"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(wait: Any) -> None:
    with pytest.raises(ConfigError, match=r"retry\.wait gave"):
        delay(RetryPolicy(wait=lambda _: wait), 1)


def test_the_package_is_imported_without_tenacity() -> None:
    code = "import sys, fanout; fanout.RetryPolicy; assert 'tenacity' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


@pytest.mark.virtual_time
class TestOfARun:
    async def run(self, policy: RetryPolicy, *steps: int) -> tuple[list[float], Any]:
        with MockEndpoint(lambda x: x * 2, latency=1.0) as mock:
            mock.script(*steps)
            limits = Limits(concurrency=1)
            async with Client(mock.url(Plain), codec=Plain, retry=policy, limits=limits) as client:
                result = await client.map(X, on_error="keep")
        return mock.times, result

    async def test_the_users_strategy_decides_when_the_next_attempt_is_sent(self) -> None:
        times, result = await self.run(RetryPolicy(wait=tenacity.wait_incrementing(start=2, increment=3)), 503, 503)
        assert times == pytest.approx([0, 3, 9])
        assert result.ok.all()

    async def test_the_seconds_since_the_start_include_attempts_and_waits(self) -> None:
        seen: list[float] = []

        def wait(state: tenacity.RetryCallState) -> float:
            assert state.seconds_since_start is not None
            seen.append(state.seconds_since_start)
            return 5.0

        await self.run(RetryPolicy(wait=wait), 503, 503)
        assert seen == pytest.approx([1.0, 7.0])

    async def test_the_users_strategy_ends_the_attempts_of_a_chunk(self) -> None:
        times, result = await self.run(RetryPolicy(stop=tenacity.stop_after_attempt(2)), *[504] * 9)
        assert len(times) == 2
        assert result.failures[0].attempts == 2

    @pytest.mark.parametrize("where", ["wait", "stop"])
    async def test_a_strategy_that_raises_ends_the_run_with_its_exception(self, where: str) -> None:
        def broken(_: object) -> Any:
            raise LookupError("no such table")

        policy = RetryPolicy(wait=broken) if where == "wait" else RetryPolicy(stop=broken)
        with pytest.raises(LookupError, match="no such table"):
            await self.run(policy, 503)

    @pytest.mark.parametrize("where", ["wait", "stop"])
    async def test_a_strategy_that_ends_abnormally_stops_the_run_with_its_name(self, where: str) -> None:
        def broken(_: object) -> Any:
            raise asyncio.CancelledError

        policy = RetryPolicy(wait=broken) if where == "wait" else RetryPolicy(stop=broken)
        with pytest.raises(RunStopped, match=rf"retry\.{where} raised CancelledError"):
            await self.run(policy, 503)

    async def test_metadata_requests_wait_as_the_strategy_says(self) -> None:
        with MockEndpoint(lambda x: x * 2) as mock:
            mock.script_metadata(503, 503)
            policy = RetryPolicy(wait=tenacity.wait_fixed(7))
            async with Client(mock.url("oip"), codec="oip", retry=policy) as client:
                await client.map(X)
                assert asyncio.get_running_loop().time() == pytest.approx(14.0)


@pytest.mark.parametrize("field", ["wait", "stop"])
@pytest.mark.parametrize("value", ["5", 5, ["a"]])
def test_a_value_other_than_a_strategy_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{field} must be a tenacity strategy"):
        RetryPolicy(**{field: value})
