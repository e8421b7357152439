"""Retry and backoff: a thin opinion over tenacity, entered only once a first attempt has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, wait_random_exponential

from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.settings import RetryPolicy

_NOBODY = Retrying()
"""Whom a state of tenacity's has to belong to."""


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

    # tenacity's strategies without its controller, whose steps, each a future and a list of actions, cost more than
    # all the rest of a failure.
    wait = wait_random_exponential(multiplier=policy.initial_backoff, max=policy.max_backoff)
    state = RetryCallState(_NOBODY, fn=None, args=(), kwargs={})
    verdict: Verdict | None = first
    while verdict is not None and verdict.action is Action.RETRY and not exhausted():
        await sleep(wait(state))
        state.attempt_number += 1
        verdict = await attempt()
    return verdict
