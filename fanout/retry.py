"""Retry and backoff: a thin opinion over tenacity, entered only once a first attempt has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import DoAttempt, DoSleep, RetryCallState, Retrying, wait_random_exponential

from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.settings import RetryPolicy


async def retry(
    attempt: Callable[[], Awaitable[Verdict | None]],
    first: Verdict,
    policy: RetryPolicy,
    *,
    exhausted: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]],
) -> Verdict | None:
    """Repeat ``attempt`` for as long as its verdict is to retry and attempts are left.

    ``first`` is the verdict of the attempt already made; it counts as the first. The waits are exponential backoff
    with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); the server's own
    wishes are kept by the endpoint's gate, which bounds every attempt from below.

    Returns None after a success, else the last verdict.
    """

    def give_up(state: RetryCallState) -> bool:
        return exhausted()

    # A controller of its own for each call: a shared one mixes up its callers' outcomes (tenacity#93). The plain one,
    # as nothing that it asks has to be awaited: `AsyncRetrying` finds that out again at every step, at twice the cost.
    controller = Retrying(
        retry=_says_retry,
        stop=give_up,
        wait=wait_random_exponential(multiplier=policy.initial_backoff, max=policy.max_backoff),
        retry_error_callback=_last_verdict,
    )
    controller.begin()
    state = RetryCallState(controller, fn=None, args=(), kwargs={})
    state.set_result(first)
    while isinstance(step := controller.iter(retry_state=state), DoSleep | DoAttempt):
        if isinstance(step, DoSleep):
            state.prepare_for_next_attempt()
            await sleep(step)
        else:
            state.set_result(await attempt())
    verdict: Verdict | None = step
    return verdict


def _says_retry(state: RetryCallState) -> bool:
    verdict = _last_verdict(state)
    return verdict is not None and verdict.action is Action.RETRY


def _last_verdict(state: RetryCallState) -> Verdict | None:
    assert state.outcome is not None
    verdict: Verdict | None = state.outcome.result()
    return verdict
