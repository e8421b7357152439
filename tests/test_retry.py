"""Retries: how long between, how many, and of what."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.retry import retry
from fanout.settings import RetryPolicy
from fanout.testing import VirtualClock
from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

AGAIN = Verdict(action=Action.RETRY, reason="HTTP 503")
OTHERS = [Verdict(action=action, reason=action.value) for action in Action if action is not Action.RETRY]

pytestmark = pytest.mark.virtual_time


class Script:
    """Attempts with given ends, the first of which is already made; waits are written down, not waited."""

    def __init__(self, first: Verdict, *ends: Verdict | BaseException | None, max_attempts: int = 5) -> None:
        self.policy = RetryPolicy(max_attempts=max_attempts, initial_backoff=0.5, max_backoff=3.0)
        self.first = first
        self.ends = list(ends)
        self.attempts = 1
        self.waits: list[float] = []

    async def attempt(self) -> Verdict | None:
        self.attempts += 1
        end = self.ends.pop(0) if self.ends else AGAIN
        if isinstance(end, BaseException):
            raise end
        return end

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def run(self) -> Verdict | None:
        return await retry(
            self.attempt,
            self.first,
            self.policy,
            exhausted=lambda: self.attempts >= self.policy.max_attempts,
            sleep=self.sleep,
        )


async def test_a_success_ends_the_retries():
    script = Script(AGAIN, AGAIN, None)
    assert await script.run() is None
    assert script.attempts == 3
    assert len(script.waits) == 2


async def test_there_is_a_wait_before_the_first_repetition():
    script = Script(AGAIN, None)
    await script.run()
    assert len(script.waits) == 1


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
async def test_the_attempt_already_made_counts(max_attempts):
    script = Script(AGAIN, max_attempts=max_attempts)
    assert await script.run() is AGAIN
    assert script.attempts == max_attempts
    assert len(script.waits) == max_attempts - 1


async def test_the_last_verdict_is_returned_when_attempts_are_used_up():
    last = Verdict(action=Action.RETRY, reason="HTTP 500")
    assert await Script(AGAIN, AGAIN, last, max_attempts=3).run() is last


@pytest.mark.parametrize("verdict", OTHERS, ids=lambda verdict: verdict.reason)
async def test_a_first_verdict_not_to_retry_is_returned_at_once(verdict):
    script = Script(verdict)
    assert await script.run() is verdict
    assert (script.attempts, script.waits) == (1, [])


@pytest.mark.parametrize("verdict", OTHERS, ids=lambda verdict: verdict.reason)
async def test_a_later_verdict_not_to_retry_is_returned_at_once(verdict):
    script = Script(AGAIN, verdict)
    assert await script.run() is verdict
    assert script.attempts == 2


def _waits(initial: float, longest: float, attempts: int) -> Sequence[float]:
    script = Script(AGAIN, max_attempts=attempts)
    script.policy = RetryPolicy(max_attempts=attempts, initial_backoff=initial, max_backoff=longest)
    with asyncio.Runner(loop_factory=VirtualClock) as runner:
        runner.run(script.run())
    return script.waits


@given(initial=st.floats(0, 100), longest=st.floats(0, 100), attempts=st.integers(2, 12))
def test_waits_are_between_nothing_and_the_doubling_bound(initial, longest, attempts):
    for number, wait in enumerate(_waits(initial, longest, attempts)):
        assert 0 <= wait <= min(initial * 2**number, longest)


def test_waits_use_the_whole_range():
    """Full jitter, not a jitter added to a fixed wait."""
    bounds = [0.5, 1.0, 2.0, 3.0]
    rounds = [_waits(0.5, 3.0, 5) for _ in range(300)]
    for bound, waits in zip(bounds, zip(*rounds, strict=True), strict=True):
        assert min(waits) < 0.1 * bound
        assert max(waits) > 0.9 * bound
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.25)


def test_a_thousand_doublings_are_no_overflow():
    assert max(_waits(1.0, 3.0, 1100)) <= 3.0


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), asyncio.CancelledError()], ids=["bug", "cancelled"])
async def test_an_exception_is_not_retried(error):
    script = Script(AGAIN, error)
    with pytest.raises(type(error)) as raised:
        await script.run()
    assert raised.value is error
    assert script.attempts == 2


@pytest.mark.parametrize("where", ["sleep", "attempt"])
async def test_a_cancellation_is_prompt_in_every_state(where):
    script = Script(AGAIN)

    async def for_ever(*_: object) -> None:
        await asyncio.sleep(1e6)

    setattr(script, where, for_ever)
    task = asyncio.create_task(script.run())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() == 1
    assert script.attempts == 1


async def test_concurrent_retries_do_not_mix_up_their_outcomes():
    async def one(number: int) -> bool:
        mine = Verdict(action=Action.FAIL, reason=str(number))
        script = Script(AGAIN, *[AGAIN] * (number % 3), mine)
        script.sleep = asyncio.sleep  # type: ignore[method-assign, assignment]
        return await script.run() is mine

    assert all(await asyncio.gather(*(one(number) for number in range(50))))


async def test_exhausted_is_asked_after_every_attempt_not_counted_here():
    """Attempts made elsewhere, by the halves of a chunk for instance, count too."""
    script = Script(AGAIN, AGAIN, AGAIN)
    answers = iter([False, False, True])
    verdict = await retry(
        script.attempt, script.first, script.policy, exhausted=lambda: next(answers), sleep=script.sleep
    )
    assert verdict is AGAIN
    assert script.attempts == 3
