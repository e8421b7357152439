"""The rest of a chunk's life after a first failure: retries, then the search for the row, or the size, to blame."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from functools import partial
from itertools import repeat
from math import inf
from typing import TYPE_CHECKING, Any

from fanout.engine.task import kind_of
from fanout.retry import retry
from fanout.stop import Stop, WaitQueue
from fanout.types import Action, Event, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from fanout.engine.bisection import BisectionBudget
    from fanout.engine.chunker import Chunker
    from fanout.engine.refusals import Refusals
    from fanout.engine.results import ResultCollector
    from fanout.engine.sizing import Sizing
    from fanout.engine.task import ChunkTask
    from fanout.settings import RetryPolicy
    from fanout.statistics import Counters
    from fanout.stop import StopEvent
    from fanout.types import StopKind
    from fanout.upstream.admission import Ticket
    from fanout.upstream.group import EndpointGroup


_SMALLER = 2
"""Of the attempts that a chunk gets, the last ones are for few of its rows: that smaller requests succeed, shows that
its size or one of its rows is to blame."""

_LOOK_AGAIN = 1.0
"""Seconds after which it is looked again whether requests are in flight, should the bell not ring for their end."""


class Recovery:
    """Sees chunks through whose first attempt failed.

    Args:
        ticket: makes a ticket for the attempts of the current asyncio task.
        attempt: makes one attempt and takes in its success; gives None then, else the verdict.
        ended: rings when an attempt has failed.
        stop: stops the run.
        isolate: takes rows out of the run that failed together, where each is another caller's. None: they are of one.
    """

    def __init__(
        self,
        chunker: Chunker,
        group: EndpointGroup,
        outcomes: ResultCollector,
        splitting: BisectionBudget,
        refusals: Refusals,
        sizing: Sizing,
        counters: Counters,
        stop_event: StopEvent,
        *,
        ticket: Callable[[], Ticket],
        attempt: Callable[[ChunkTask, Ticket], Awaitable[Verdict | None]],
        ended: WaitQueue,
        stop: Callable[[Stop], None],
        emit: Callable[[Event], None],
        isolate: Callable[[ChunkTask, Verdict], None] | None = None,
    ) -> None:
        self._chunker = chunker
        self._group = group
        self._outcomes = outcomes
        self._splitting = splitting
        self._refusals = refusals
        self._sizing = sizing
        self._counters = counters
        self._stop_event = stop_event
        self._ticket = ticket
        self._attempt = attempt
        self._attempt_ended = ended
        self._stop = stop
        self._emit = emit
        self._isolate = isolate
        self._successes_before = group.successes
        self._active = 0
        self._suspects = 0
        """Chunks of several rows that failed, and may have failed for their rows or for their size."""
        self.doubted: ChunkTask | None = None
        """The first of them, as long as it is not clear for what."""
        self._whose_turn: asyncio.Task[Any] | None = None
        self._isolated = False
        """A chunk has been split down to what was to blame."""
        self.proven = WaitQueue()
        """Rings when more chunks may be taken."""
        self.withheld: list[tuple[ChunkTask, Verdict]] = []
        """Rows that were forbidden since the last success: the next one shows that the credentials are good, and that
        the rows have failed. If the run stops before, they stay pending."""

    def release(self) -> None:
        """Fail the rows that are withheld: others succeed, or all have been tried."""
        withheld, self.withheld = self.withheld, []
        for work, verdict in withheld:
            self._outcomes.fail(work, verdict)

    @property
    def unproven(self) -> bool:
        """True while it is not clear why chunks failed before any had succeeded: more would fail like them."""
        if self.doubted is None:
            return False
        isolated = self._isolated and self._group.successes > 0
        if not self._suspects or isolated or self._sizing.clears(self.doubted):
            self.doubted = None
        return self.doubted is not None

    def begins(self, work: ChunkTask, verdict: Verdict) -> bool:
        """Take note that `recover` will be called for ``work``. True if it has to be followed by `ended`."""
        suspect = work.n > 1 and _may_be_size(verdict)
        if suspect:
            self._suspects += 1
            self._sizing.suspected(work)
            if not self._group.successes and self.doubted is None:
                self.doubted = work
        return suspect

    def ended(self, work: ChunkTask) -> None:
        """A work for which `begins` was true has been recovered."""
        self._suspects -= 1
        self._sizing.ended(work)
        self.proven.ring()

    def succeeded(self, work: ChunkTask) -> None:
        """Take note of an answer to whatever request."""
        if self._suspects:
            self.proven.ring()
        if self.withheld:
            self.release()
        self._sizing.succeeded(work)

    async def recover(self, work: ChunkTask, verdict: Verdict) -> None:
        """Bring ``work``, which failed with ``verdict``, to an answer, to a named failure, or to the run's stop."""
        ticket = self._ticket()
        self._active += 1
        try:
            await self._settle(work, verdict, ticket)
        finally:
            self._active -= 1
            ticket.close()

    async def _settle(self, work: ChunkTask, first: Verdict, ticket: Ticket) -> None:
        """See a work through. Chunks that failed while none succeeded take turns: others may fail as they do."""
        refused = first.action is Action.SPLIT
        part = work.suspect is not None and not first.needs_proof
        turns = work.n > 1 and not part and self._isolate is None and _may_be_size(first)
        if not turns or (refused and work.successes_seen):
            await self._settle_now(work, first, ticket)
            return

        def proven() -> bool:
            if work.successes_seen:
                return self._group.successes > work.successes_seen
            return self._sizing.knows(work) or (refused and self._isolated and self._group.successes > 0)

        turn = await self._take_turn(proven)
        try:
            if self._stop_event.stopped is None:
                await self._settle_now(work, first, ticket, in_turn=True)
        finally:
            if turn:
                self._end_turn()

    async def _take_turn(self, proven: Callable[[], bool]) -> bool:
        """Wait until no other chunk has the turn. False if none is needed, since ``proven`` has become true.

        Parts of the chunk that has the turn, which the same task sees through, need none of their own.
        """
        task = asyncio.current_task()
        while self._stop_event.stopped is None and self._whose_turn is not task and not proven():
            if self._whose_turn is None:
                self._whose_turn = task
                return True
            await self._stop_event.sleep(inf, self.proven)
        return False

    def _end_turn(self) -> None:
        self._whose_turn = None
        self.proven.ring()

    async def _settle_now(self, work: ChunkTask, first: Verdict, ticket: Ticket, *, in_turn: bool = False) -> None:
        verdict = await self._retried(work, first, ticket)
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
            turn = verdict.needs_proof and await self._take_turn(lambda: self._sizing.beyond(work))
            try:
                await self._split(work, verdict, ticket, in_turn=in_turn or verdict.needs_proof)
            finally:
                if turn:
                    self._end_turn()
        elif verdict.action is Action.SPLIT and not self._confirmed(work):
            work.confirmed = True
            await self._once_more(work, ticket)
        else:
            self._fail(work, verdict)

    async def _retried(self, work: ChunkTask, first: Verdict, ticket: Ticket) -> Verdict | None:
        """Attempts for as long as one may end differently; None once the work is settled."""
        first = self._split_early(work, first)
        if first.action is not Action.RETRY:
            return first
        if not first.may_be_size or work.n == 1 or self._isolate is not None:
            return await self._again(work, first, ticket, repeat(slice(0, work.n)))
        left = self._group.retry.max_attempts - work.charged
        which = _ever_fewer(work.n, left, whole=work.suspect is None)
        if self._sizing.beyond(work):
            return replace(first, action=Action.SPLIT)
        return await self._again(work, first, ticket, which)

    async def _again(self, work: ChunkTask, first: Verdict, ticket: Ticket, which: Iterator[slice]) -> Verdict | None:
        """Send these rows of ``work``, time after time, until that ends differently; then the others."""
        policy, suspect, sent, rows = self._group.retry, kind_of(first), work, slice(0, work.n)

        async def again() -> Verdict | None:
            nonlocal sent, rows
            rows = next(which)
            sent = work if rows == slice(0, work.n) else work.part(rows)
            verdict = await self._attempt(sent, ticket)
            verdict = None if verdict is None else self._split_early(work, verdict)
            self._tell_of_retry(sent, verdict)
            if sent is not work:
                work.charged += sent.charged
                work.sent += sent.sent
                sent.suspect = suspect
            elif verdict is not None and verdict.action is Action.RETRY and self._sizing.may_be_size(work, verdict):
                return replace(verdict, action=Action.SPLIT)
            return verdict

        self._tell_of_retry(work, first)
        exhausted = partial(_no_attempts_left, work, policy)
        verdict = await retry(again, first, policy, exhausted=exhausted, sleep=partial(self._back_off, work))
        if verdict is not None and (sent is work or verdict.action is Action.RETRY):
            return self._exhausted(verdict, work)
        if sent is not work:
            if verdict is not None:  # they failed in another way than all together
                await self._settle(sent, verdict, ticket)
            if self._stop_event.stopped is None:
                others = slice(0, rows.start) if rows.start else slice(rows.stop, work.n)
                await self._send_parts([work.part(others)], suspect, ticket)
        return None

    async def _back_off(self, work: ChunkTask, seconds: float) -> None:
        if self._fails_over(work):
            return
        self._counters.backing_off += 1
        try:
            await self._stop_event.sleep(seconds)
        finally:
            self._counters.backing_off -= 1

    def _split_early(self, work: ChunkTask, verdict: Verdict) -> Verdict:
        """``verdict``, where a retry of all rows would have some callers wait for what may be the fault of another."""
        if verdict.action is Action.RETRY and self._isolate is not None and self._may_be_of_one_row(work, verdict):
            return replace(verdict, action=Action.SPLIT)
        return verdict

    def _may_be_of_one_row(self, work: ChunkTask, verdict: Verdict) -> bool:
        """True where the rows should go on in smaller requests, since one of them may be to blame for all.

        Not for what is the endpoint's: it would get more requests for nothing. A 403 is split within the run, one half
        after the other, until a success shows that the credentials are good.
        """
        if work.n == 1 or verdict.error_kind == "model" or _forbidden(verdict):
            return False
        if verdict.action is Action.SPLIT or verdict.status == 500 or verdict.error_kind is not None:
            return True
        others_succeed = self._group.successes > self._successes_before
        if verdict.action is Action.RETRY:
            return others_succeed and not verdict.no_room
        return others_succeed or not (verdict.unreachable or verdict.no_room or (verdict.status or 0) > 500)

    def _fails_over(self, work: ChunkTask) -> bool:
        """True if another endpoint can be asked at once. When all have been, it is time to wait."""
        if not self._group.balancer.several or work.endpoint is None:
            return False
        work.tried = (*work.tried, work.endpoint)
        if self._group.balancer.has_available(work.tried, asyncio.get_running_loop().time()):
            return True
        work.tried = ()
        return False

    def _tell_of_retry(self, work: ChunkTask, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.action is Action.RETRY:
            chunk = work.chunk
            self._emit(
                Event(
                    kind="retry",
                    start=chunk.start,
                    stop=chunk.stop,
                    attempt=work.charged,
                    status=verdict.status,
                    reason=verdict.reason,
                )
            )

    def _exhausted(self, verdict: Verdict, work: ChunkTask) -> Verdict:
        """What becomes of a retryable verdict when no attempts are left."""
        endpoint = work.endpoint
        if verdict.action is not Action.RETRY:
            return verdict
        if verdict.error_kind == "model" and not (
            endpoint is not None and self._group.balancer.has_alternative(endpoint)
        ):
            return replace(verdict, action=Action.STOP, stop="rejected")
        if (
            verdict.status == 500 or verdict.error_kind is not None
        ):  # permanent errors of one row are 500 on most servers
            return replace(verdict, action=Action.SPLIT)
        if verdict.may_be_size and work.n > 1 and work.others_served:
            return replace(verdict, action=Action.SPLIT)
        if verdict.unreachable and not self._group.balancer.answered:
            return replace(verdict, action=Action.STOP, stop="unreachable")
        return replace(verdict, action=Action.FAIL)

    async def _others_tell(self, work: ChunkTask) -> bool:
        """Wait while nothing has been served and requests are in flight that may be. False if the run has stopped."""
        endpoint = work.endpoint
        assert endpoint is not None
        while self._stop_event.stopped is None and not endpoint.served and endpoint.in_flight:
            await self._stop_event.sleep(_LOOK_AGAIN, self._attempt_ended)
        return self._stop_event.stopped is None

    def _confirmed(self, work: ChunkTask) -> bool:
        return work.confirmed or work.charged >= self._group.retry.max_attempts

    async def _once_more(self, work: ChunkTask, ticket: Ticket) -> None:
        verdict = await self._attempt(work, ticket)
        if verdict is None:
            self._note_success(work)
            return
        await self._settle(work, verdict, ticket)

    async def _split(self, work: ChunkTask, verdict: Verdict, ticket: Ticket, *, in_turn: bool) -> None:
        # Halves of a chunk that has its turn need no turn of their own.
        in_turn = in_turn or work.suspect is not None
        turn = None if in_turn else await self._splitting.wait_for_turn(self._proof_for(work, verdict))
        try:
            if self._stop_event.stopped is not None:
                return
            self._refusals.note(work, verdict, failed=False)
            if self._splitting.useful:
                await self._bisect(work, verdict, ticket)
            else:
                self._fail(work, verdict)
        finally:
            self._isolated = True
            if turn is not None:
                turn.release()

    def _proof_for(self, work: ChunkTask, verdict: Verdict) -> Callable[[], bool] | None:
        """For a 403 others have to have succeeded after it: what succeeded before may have had good credentials."""
        if not _forbidden(verdict):
            return None
        seen = self._group.successes if work.successes_seen is None else work.successes_seen
        return lambda: self._group.successes > seen

    async def _bisect(self, work: ChunkTask, verdict: Verdict, ticket: Ticket) -> None:
        self._note_split(work, verdict)
        parts = self._sizing.parts(work) or work.halves()
        whole = await self._send_parts(parts, kind_of(verdict), ticket)
        if whole and (verdict.error_kind is None or verdict.may_be_size):
            self._sizing.too_large(work, verdict)

    async def _send_parts(self, parts: Iterable[ChunkTask], suspect: object, ticket: Ticket) -> bool:
        """Send parts of a work that failed as ``suspect``, and see them through. True if all succeeded at once."""
        left, failed = deque(parts), []
        n_failed = 0
        while left:
            part = left.popleft()
            if smaller := self._sizing.parts(part):  # the limit has become known in the meantime
                left.extendleft(reversed(smaller))
                continue
            part.suspect = suspect
            verdict = await self._attempt(part, ticket)
            if verdict is None:
                self._note_success(part)
                continue
            n_failed += 1
            if verdict.needs_proof and left:  # which the others may give
                failed.append((part, verdict))
            else:
                await self._settle(part, verdict, ticket)
        for part, verdict in failed:
            await self._settle(part, self._proven(part, verdict), ticket)
        return not n_failed

    def _proven(self, part: ChunkTask, verdict: Verdict) -> Verdict:
        """``verdict`` in the light of others' success since: a part that fails as the whole did is split at once."""
        seen = part.successes_seen
        if (
            verdict.action is Action.RETRY
            and part.n > 1
            and part.suspect == kind_of(verdict)
            and self._group.successes > (seen or 0)
        ):
            return replace(verdict, action=Action.SPLIT)
        return verdict

    def _note_split(self, work: ChunkTask, verdict: Verdict) -> None:
        self._counters.splits += 1
        self._emit(
            Event(
                kind="split", start=work.chunk.start, stop=work.chunk.stop, status=verdict.status, reason=verdict.reason
            )
        )

    def _note_success(self, work: ChunkTask) -> None:
        if work.suspect is not None and not work.held:
            self._splitting.rows_succeeded(work.n)

    def _fail(self, work: ChunkTask, verdict: Verdict) -> None:
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

    def _last(self, work: ChunkTask) -> bool:
        """True if no row is left but those of ``work``: there is nothing that a stop could spare."""
        return self._chunker.left == 0 and self._active == 1 and work.n == len(work.chunk)

    def _only_row(self, work: ChunkTask, verdict: Verdict) -> bool:
        """True for a 403 of the only row that there is: nothing can show whether the row or the credentials are bad."""
        return _forbidden(verdict) and not self._group.successes and self._chunker.left == 0 and len(work.chunk) == 1


def _forbidden(verdict: Verdict) -> bool:
    return verdict.status == 403


def _may_be_size(verdict: Verdict) -> bool:
    return verdict.may_be_size or (verdict.action is Action.SPLIT and not _forbidden(verdict))


def _no_attempts_left(work: ChunkTask, policy: RetryPolicy) -> bool:
    return work.charged >= policy.max_attempts


def _ever_fewer(n_rows: int, attempts: int, *, whole: bool) -> Iterator[slice]:
    """The rows that each of so many attempts sends: all of them while ``whole``, but few at last.

    The last attempts are for the first rows and for the last in turn, since one of both may hold the row to blame.
    """
    for _ in range(attempts - _SMALLER if whole else 0):
        yield slice(0, n_rows)
    few = round(n_rows**0.5) if whole else n_rows // 2
    while True:
        if attempts > 1 or not whole:
            yield slice(0, few)
        few = 1 if whole else max(1, round(few**0.5))
        yield slice(n_rows - few, n_rows)
        few, attempts = max(1, round(few**0.5)), 2
