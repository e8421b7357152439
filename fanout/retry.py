"""Backoff: how long a failed task waits before its next attempt, and how many attempts it has.

Both are decided by tenacity's strategies: its own, or any that a user gives as ``RetryPolicy(wait=..., stop=...)``.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from tenacity import Future as Outcome
from tenacity import RetryCallState, Retrying, stop_after_attempt, wait_random_exponential

from fanout.callbacks import calling
from fanout.errors import ConfigError

if TYPE_CHECKING:
    from fanout.settings import RetryPolicy
    from fanout.types import Verdict

# A call state refers to a controller. Only its strategies are used here: its own loop takes a future and a list of
# actions a step, more than all the rest of a failure.
_NO_CONTROLLER = Retrying()


class AttemptFailed(Exception):  # noqa: N818 - it says what happened, and is never raised
    """A failed attempt, as the strategies see it.

    ``state.outcome.exception().verdict`` has the status and the reason.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Backoff:
    """Gives the wait before the next attempt.

    Without strategies of the user's it is exponential with full jitter
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A wait that the server asks for is
    kept by the endpoint's cooldown, which bounds every attempt from below.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._wait = policy.wait or wait_random_exponential(multiplier=policy.initial_backoff, max=policy.max_backoff)
        self._stop = policy.stop or stop_after_attempt(policy.max_attempts)
        self._needs_outcome = policy.wait is not None or policy.stop is not None

    def __call__(self, verdict: Verdict, *, sent: int, charged: int, seconds: float) -> float | None:
        """Seconds to wait, or None if no attempt is left.

        Args:
            verdict: on the last attempt.
            sent: attempts made so far, which make the waits longer.
            charged: the ones among them that count; the others were the endpoint's fault.
            seconds: since the start of the first attempt.

        Raises `ConfigError` where the wait is not a finite number of seconds, and whatever a strategy raises.
        """
        state = RetryCallState(_NO_CONTROLLER, fn=None, args=(), kwargs={})
        state.attempt_number = max(1, sent)
        state.start_time, state.outcome_timestamp = 0.0, seconds
        if self._needs_outcome:  # the strategies that the plain fields make look at the number of attempts alone
            state.outcome = Outcome.construct(state.attempt_number, AttemptFailed(verdict), has_exception=True)
        # In tenacity's order: `stop_before_delay` looks at the wait that would come.
        with calling("retry.wait"):
            delay = state.upcoming_sleep = self._wait(state)
        state.attempt_number = charged
        with calling("retry.stop"):
            if self._stop(state):
                return None
        if not (isinstance(delay, int | float) and isfinite(delay) and delay >= 0):
            raise ConfigError(f"retry.wait gave {delay!r}, which is no number of seconds", key="retry.wait")
        return delay
