"""The rest of a chunk's life after a first failure: retries, then the search for the row, or the size, to blame."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fanout.deadline import Deadline
from fanout.engine.halt import Stop
from fanout.engine.work import kind_of
from fanout.retry import retry
from fanout.types import Action, Event, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.engine.feed import Feed
    from fanout.engine.halt import Bell, Halt
    from fanout.engine.host import Host
    from fanout.engine.link import Link
    from fanout.engine.outcomes import Outcomes
    from fanout.engine.refusals import Refusals
    from fanout.engine.splitting import Splitting
    from fanout.engine.work import Work
    from fanout.settings import RetryPolicy
    from fanout.statistics import Counters
    from fanout.types import StopKind


_LOOK_AGAIN = 1.0
"""Seconds after which it is looked again whether requests are in flight, should the bell not ring for their end."""


class Recovery:
    """Sees chunks through whose first attempt failed.

    Args:
        attempt: makes one attempt and takes in its success; gives None then, else the verdict.
        ended: rings when an attempt has failed.
        stop: stops the run.
        isolate: takes rows out of the run that failed together, where each is another caller's. None: they are of one.
    """

    def __init__(
        self,
        feed: Feed,
        link: Link,
        outcomes: Outcomes,
        splitting: Splitting,
        refusals: Refusals,
        counters: Counters,
        halt: Halt,
        *,
        attempt: Callable[[Work, Deadline], Awaitable[Verdict | None]],
        ended: Bell,
        stop: Callable[[Stop], None],
        tell: Callable[[Event], None],
        isolate: Callable[[Work, Verdict], None] | None = None,
    ) -> None:
        self._feed = feed
        self._link = link
        self._outcomes = outcomes
        self._splitting = splitting
        self._refusals = refusals
        self._counters = counters
        self._halt = halt
        self._attempt = attempt
        self._attempt_ended = ended
        self._stop = stop
        self._tell = tell
        self._isolate = isolate
        self._successes_before = link.successes
        self._active = 0
        self.withheld: list[tuple[Work, Verdict]] = []
        """Rows that were forbidden since the last success: the next one shows that the credentials are good, and that
        the rows have failed. If the run stops before, they stay pending."""

    def release(self) -> None:
        """Fail the rows that are withheld: others succeed, or all have been tried."""
        withheld, self.withheld = self.withheld, []
        for work, verdict in withheld:
            self._outcomes.fail(work, verdict)

    async def recover(self, work: Work, verdict: Verdict) -> None:
        """Bring ``work``, which failed with ``verdict``, to an answer, to a named failure, or to the run's stop."""
        deadline = Deadline()
        self._active += 1
        try:
            await self._settle(work, verdict, deadline)
        finally:
            self._active -= 1
            deadline.close()

    async def _settle(self, work: Work, first: Verdict, deadline: Deadline) -> None:
        verdict = await self._retried(work, first, deadline)
        if verdict is None:
            self._note_success(work)
        elif verdict.action is Action.STOP:
            self._stop(Stop(verdict.stop, verdict.reason))
        elif self._isolate is not None and self._may_be_of_one_row(work, verdict):
            self._note_split(work, verdict)
            self._isolate(work, verdict)
        elif verdict.action is Action.SPLIT and _forbidden(verdict) and not await self._others_tell(work):
            return
        elif verdict.action is Action.SPLIT and work.n > 1:
            await self._split(work, verdict, deadline)
        elif verdict.action is Action.SPLIT and not self._confirmed(work):
            work.confirmed = True
            await self._once_more(work, deadline)
        else:
            self._fail(work, verdict)

    async def _retried(self, work: Work, first: Verdict, deadline: Deadline) -> Verdict | None:
        """Attempts for as long as one may end differently; None after a success."""
        policy = self._link.retry

        async def back_off(seconds: float) -> None:
            if self._fails_over(work):
                return
            self._counters.backing_off += 1
            try:
                await self._halt.sleep(seconds)
            finally:
                self._counters.backing_off -= 1

        async def again() -> Verdict | None:
            verdict = await self._attempt(work, deadline)
            verdict = None if verdict is None else self._split_early(work, verdict)
            self._tell_of_retry(work, verdict)
            return verdict

        first = self._split_early(work, first)
        if first.action is not Action.RETRY:
            return first
        self._tell_of_retry(work, first)
        exhausted = partial(_no_attempts_left, work, policy)
        verdict = await retry(again, first, policy, exhausted=exhausted, sleep=back_off)
        return None if verdict is None else self._exhausted(verdict, work.host)

    def _split_early(self, work: Work, verdict: Verdict) -> Verdict:
        """``verdict``, where a retry of all rows would have some callers wait for what may be the fault of another."""
        if verdict.action is Action.RETRY and self._isolate is not None and self._may_be_of_one_row(work, verdict):
            return replace(verdict, action=Action.SPLIT)
        return verdict

    def _may_be_of_one_row(self, work: Work, verdict: Verdict) -> bool:
        """True where the rows should go on in smaller requests, since one of them may be to blame for all.

        Not for what is the endpoint's: it would get more requests for nothing. A 403 is split within the run, one half
        after the other, until a success shows that the credentials are good.
        """
        if work.n == 1 or verdict.flaw == "model" or _forbidden(verdict):
            return False
        if verdict.action is Action.SPLIT or verdict.status == 500 or verdict.flaw is not None:
            return True
        others_succeed = self._link.successes > self._successes_before
        if verdict.action is Action.RETRY:
            return others_succeed and not verdict.no_room
        return others_succeed or not (verdict.unreachable or verdict.no_room or (verdict.status or 0) > 500)

    def _fails_over(self, work: Work) -> bool:
        """True if another endpoint can be asked at once. When all have been, it is time to wait."""
        if self._link.pool.only is not None or work.host is None:
            return False
        work.tried = (*work.tried, work.host)
        if self._link.pool.elsewhere(work.tried, asyncio.get_running_loop().time()):
            return True
        work.tried = ()
        return False

    def _tell_of_retry(self, work: Work, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.action is Action.RETRY:
            chunk = work.chunk
            self._tell(
                Event(
                    kind="retry",
                    start=chunk.start,
                    stop=chunk.stop,
                    attempt=work.attempts,
                    status=verdict.status,
                    reason=verdict.reason,
                )
            )

    def _exhausted(self, verdict: Verdict, host: Host | None) -> Verdict:
        """What becomes of a retryable verdict when no attempts are left."""
        if verdict.action is not Action.RETRY:
            return verdict
        if verdict.flaw == "model" and not (host is not None and self._link.pool.dispensable(host)):
            return replace(verdict, action=Action.STOP, stop="rejected")
        if verdict.status == 500 or verdict.flaw is not None:  # permanent errors of one row are 500 on most servers
            return replace(verdict, action=Action.SPLIT)
        if verdict.unreachable and not self._link.pool.answered:
            return replace(verdict, action=Action.STOP, stop="unreachable")
        return replace(verdict, action=Action.FAIL)

    async def _others_tell(self, work: Work) -> bool:
        """Wait while nothing has been served and requests are in flight that may be. False if the run has stopped."""
        host = work.host
        assert host is not None
        while self._halt.stopped is None and not host.served and host.pending:
            await self._halt.sleep(_LOOK_AGAIN, self._attempt_ended)
        return self._halt.stopped is None

    def _confirmed(self, work: Work) -> bool:
        return work.confirmed or work.attempts >= self._link.retry.max_attempts

    async def _once_more(self, work: Work, deadline: Deadline) -> None:
        verdict = await self._attempt(work, deadline)
        if verdict is None:
            self._note_success(work)
        else:
            await self._settle(work, verdict, deadline)

    async def _split(self, work: Work, verdict: Verdict, deadline: Deadline) -> None:
        # Halves of a chunk that has its turn need no turn of their own.
        turn = await self._splitting.wait_for_turn(self._proof_for(work, verdict)) if work.suspect is None else None
        try:
            if self._halt.stopped is not None:
                return
            self._refusals.note(work, verdict, failed=False)
            if self._splitting.useful:
                await self._send_halves(work, verdict, deadline)
            else:
                self._fail(work, verdict)
        finally:
            if turn is not None:
                turn.release()

    def _proof_for(self, work: Work, verdict: Verdict) -> Callable[[], bool] | None:
        """For a 403 others have to have succeeded after it: what succeeded before may have had good credentials."""
        if not _forbidden(verdict):
            return None
        seen = self._link.successes if work.successes_seen is None else work.successes_seen
        return lambda: self._link.successes > seen

    async def _send_halves(self, work: Work, verdict: Verdict, deadline: Deadline) -> None:
        self._note_split(work, verdict)
        halves, refused = work.halves(), 0
        for half in halves:
            half.suspect = kind_of(verdict)
            if (again := await self._attempt(half, deadline)) is None:
                self._note_success(half)
            else:
                refused += 1
                await self._settle(half, again, deadline)
        # By status alone: an invalid answer may be an accident, and must not make all later chunks smaller.
        if not refused and verdict.flaw is None and verdict.status != 500:
            self._feed.limit(halves[0].n)

    def _note_split(self, work: Work, verdict: Verdict) -> None:
        self._counters.splits += 1
        self._tell(
            Event(
                kind="split", start=work.chunk.start, stop=work.chunk.stop, status=verdict.status, reason=verdict.reason
            )
        )

    def _note_success(self, work: Work) -> None:
        if work.suspect is not None and not work.held:
            self._splitting.rows_succeeded(work.n)

    def _fail(self, work: Work, verdict: Verdict) -> None:
        is_news = not self._splitting.is_known_bad(work)
        if is_news and work.n == 1 and verdict.action is Action.SPLIT:
            self._splitting.row_failed()
        if is_news:
            self._refusals.note(work, verdict, failed=True)
        if _forbidden(verdict):
            self.withheld.append((work, verdict))
        else:
            self._outcomes.fail(work, verdict)
        kind: StopKind = "refused" if _forbidden(verdict) else "rejected"
        if not is_news or (self._isolate is not None and not _forbidden(verdict)):
            return
        if self._splitting.hopeless or self._only_row(work, verdict):
            self._stop(Stop(kind, f"the endpoint accepts no row at all, not even alone: {verdict.reason}"))
        elif self._refusals.hopeless(verdict) and not self._last(work):
            reason = "the endpoint has refused many single rows in the same words, and accepted none in between"
            self._stop(Stop(kind, f"{reason}: {verdict.reason}"))

    def _last(self, work: Work) -> bool:
        """True if no row is left but those of ``work``: there is nothing that a stop could spare."""
        return self._feed.left == 0 and self._active == 1 and work.n == len(work.chunk)

    def _only_row(self, work: Work, verdict: Verdict) -> bool:
        """True for a 403 of the only row that there is: nothing can show whether the row or the credentials are bad."""
        return _forbidden(verdict) and not self._link.successes and self._feed.left == 0 and len(work.chunk) == 1


def _forbidden(verdict: Verdict) -> bool:
    return verdict.status == 403


def _no_attempts_left(work: Work, policy: RetryPolicy) -> bool:
    return work.attempts >= policy.max_attempts
