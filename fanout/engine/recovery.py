"""Recovery decides how a failed task goes on.

The decisions are a state machine without a wait in it. `Recovery.handle` takes a task and the verdict on its last
attempt, and the task is repeated later, split, parked until other requests explain its failure, or failed; or the
run stops.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fanout.engine.bisection import (
    SAMPLES,
    Bisection,
    Evidence,
    Parked,
    Split,
    could_be_outage,
    may_be_size,
    samples_of,
)
from fanout.engine.blame import Blame
from fanout.engine.control import BEFORE_ALL_OTHERS, ControlRequests
from fanout.engine.history import kind_of
from fanout.stop import Stop
from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.bisection_budget import BisectionBudget
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.events import EventEmitter
    from fanout.engine.isolation import Isolation
    from fanout.engine.request_sizes import RequestSizes
    from fanout.engine.results import ResultCollector
    from fanout.engine.scheduler import Scheduler
    from fanout.stop import StopEvent
    from fanout.upstream.group import EndpointGroup

# New chunks that an endpoint is tried with, however many tasks wait, until one succeeds.
_MOST_LET_THROUGH = 8

# The same where a control request can show whether it works: each of the chunks may hold a bad row of its own, and
# takes up to 30 s while the circuit is open, so that eight would last longer than the time to a stall.
_MOST_BEFORE_CONTROL = 3

# Seconds after which an endpoint's requests in flight are counted again: those of other runs are not reported here.
_LOOK_AGAIN = 1.0


class Recovery:
    """Settles the tasks of one run.

    Args:
        scheduler: takes the tasks that are sent again.
        collector: takes rows that fail.
        sizes: learns the largest requests that the endpoint takes.
        budget: bounds the requests that isolate rows.
        emit: takes the events of retries and splits.
        isolation: takes tasks out of the run whose rows belong to several callers; None if they belong to one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        group: EndpointGroup,
        collector: ResultCollector,
        sizes: RequestSizes,
        evidence: Evidence,
        budget: BisectionBudget,
        stop_event: StopEvent,
        *,
        emit: EventEmitter,
        isolation: Isolation | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._group = group
        self._collector = collector
        self._sizes = sizes
        self._evidence = evidence
        self._budget = budget
        self._stop_event = stop_event
        self._emit = emit
        self.isolation = isolation
        self._now = scheduler.progress.now
        self._control = ControlRequests(group, scheduler.progress)
        self._blame = Blame(group, scheduler, self._control, isolated=isolation is not None)

    def close(self) -> None:
        """End the run: a row is kept for the control requests of the next one."""
        self._control.close(keep=self.isolation is None)  # a call of `predict` has no time to spare

    def finish(self, task: ChunkTask, *, succeeded: bool = True) -> None:
        """Act on a task that the scheduler has closed: its success may explain the failures of others."""
        if succeeded:
            if self._group.answered.sizes.watching:
                self._sizes.succeeded(task)
            if self._evidence.withheld:
                self.release_withheld()
            if self._evidence.parked:
                self._evidence.succeeded()
        if task.bisection is not None:
            self._advance(task.bisection, task, None)
        if self._evidence.active or self._evidence.unexplained is not None:
            self._release_parked()

    def handle(self, task: ChunkTask, verdict: Verdict, sent_at: float | None) -> None:
        """Decide how a task goes on whose last attempt, sent at ``sent_at``, ended with ``verdict``."""
        self._scheduler.progress.last_failure = verdict.reason
        if task.is_control:
            self.end_control(verdict)
            return
        # A success of others counts as a proof only if it was sent after this moment.
        task.history.proofs.on_failure(self._now())
        if verdict.error_kind == "shape":  # another chunk shows more of it than the same rows again
            self._let_one_through()
        bisection = task.bisection
        if bisection is None:
            bisection = task.bisection = Bisection(task, self._now() if sent_at is None else sent_at)
            self._evidence.begin(bisection, verdict)
            if self._judge(bisection, task, verdict):
                self._send_next_part(bisection)
        else:
            self._advance(bisection, task, verdict)
        self._release_parked()

    def end_control(self, verdict: Verdict | None) -> None:
        """Let the rows go on that wait for a control request; ``verdict`` is None if it was answered."""
        self._control.end(verdict)
        if verdict is None:  # the endpoint works, so the rows that wait come to their end: this is no stall
            self._scheduler.progress.note()
        self._scheduler.close_one()
        self._release_parked()

    def reopen(self, task: ChunkTask, verdict: Verdict) -> None:
        """Take a task up again whose answer was held, and turned out to be unlike the others."""
        # Its task was closed as answered, so that it begins anew, with the attempts that it has made.
        task.bisection = None
        self._scheduler.opened(task)
        self.handle(task, verdict, self._now())

    def fail_unsent(self, task: ChunkTask, verdict: Verdict) -> None:
        """Fail rows that cannot be encoded; those of several callers alone, so that each has a reason of its own."""
        if task.is_control:
            self._control.end(verdict)
        elif self.isolation is None or self._scheduler.chunker.total == 1:
            self._collector.fail(task, verdict)
        else:
            self._isolate(task, verdict)

    def release_withheld(self) -> None:
        """Fail the rows that are withheld: others succeed, or all have been tried."""
        withheld, self._evidence.withheld = self._evidence.withheld, []
        for task, verdict in withheld:
            self._collector.fail(task, verdict)

    def _advance(self, bisection: Bisection, task: ChunkTask, verdict: Verdict | None) -> None:
        """Go on with a bisection after an attempt; ``verdict`` is None if it succeeded."""
        if bisection.repeated is not None:
            settled = self._after_repetition(bisection, task, verdict)
        elif bisection.confirming:
            bisection.confirming = False
            settled = self._succeeded(task) if verdict is None else self._judge(bisection, task, verdict)
        else:
            settled = self._after_part(bisection, task, verdict)
        if settled:
            self._send_next_part(bisection)

    def _release_parked(self) -> None:
        while (parked := self._evidence.released()) is not None:
            if parked.step(parked.bisection, parked.task, parked.verdict):
                self._send_next_part(parked.bisection)
        self._scheduler.look_again()

    # The steps below return True if the rows of the task are settled, or are left to its parts, so that the bisection
    # goes on with its next part; False if the task waits in the heap or is parked.

    def _judge(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        """Decide on a task that failed. Chunks that failed while none succeeded take turns."""
        needs_none = (
            task.n == 1
            or self.isolation is not None
            or not may_be_size(verdict)
            or (task.history.suspect is not None and not verdict.needs_proof)
            or (verdict.action is Action.SPLIT and task.history.successes_seen)
        )
        if needs_none:
            return self._repeat_or_decide(bisection, task, verdict)
        proven = partial(self._evidence.known_at_failure, task, verdict)
        return self._in_turn(bisection, task, verdict, self._repeat_or_decide, proven)

    def _in_turn(
        self,
        bisection: Bisection,
        task: ChunkTask,
        verdict: Verdict,
        step: Callable[[Bisection, ChunkTask, Verdict], bool],
        proven: Callable[[], bool],
        *,
        after_others: bool = False,
    ) -> bool:
        parked = Parked(bisection, task, verdict, step, proven, after_others=after_others)
        return self._evidence.may_go_on(parked) and step(bisection, task, verdict)

    def _repeat_or_decide(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        verdict = self._split_early(task, verdict)
        if verdict.action is not Action.RETRY:
            return self._decide(bisection, task, verdict)
        # Samples of an earlier failure say nothing of one of another kind.
        bisection.samples = None
        if verdict.may_be_size and task.n > 1 and self.isolation is None:
            if self._sizes.beyond(task):
                return self._decide(bisection, task, replace(verdict, action=Action.SPLIT))
            # Only the last of the attempts that are left are samples; without a suspicion the first ones send all rows.
            left = self._group.retry.max_attempts - task.charged
            bisection.samples = samples_of(task.n, left, whole=task.history.suspect is None)
        bisection.failure = verdict
        self._emit.retry(task, verdict)
        return self._repeat(bisection, task, verdict)

    def _repeat(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        delay, bisection.repeated = self._delay(bisection, task, verdict), None
        is_open = task.endpoint is not None and task.endpoint.breaker.is_open
        outage = (delay is None or is_open) and self._blame.may_be_outage(task, verdict)
        # Another request shows whether the endpoint or the rows are to blame, and its answer closes an open circuit.
        alone = (outage or is_open) and not self._let_one_through()
        if alone and (outage or delay is not None) and self._blame.needs_control(task, verdict):
            return self._await_control(bisection, task, verdict)
        if outage:
            # Two answers of others have to lie between two more attempts.
            task.charged = min(task.charged, self._group.retry.max_attempts - 2)
            if (blamed := self._blame.without_proof(bisection, task, verdict)) is not None:
                return self._decide(bisection, task, blamed)
            delay = self._delay(bisection, task, verdict)
        if delay is None:
            return self._decide(bisection, task, self._blame.without_attempts(task, verdict))
        # The backoff spares the endpoint that failed; another one need not wait for it.
        if self._fails_over(task):
            delay = 0.0
        self._scheduler.put(bisection.repeat(task), delay)
        return False

    def _let_one_through(self) -> bool:
        # If the last control request failed too, its row may be refused by now: further chunks have to show it.
        may_control = self._control.possible and not self._control.failed
        return self._scheduler.let_one_through(_MOST_BEFORE_CONTROL if may_control else _MOST_LET_THROUGH)

    def _delay(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> float | None:
        return self._group.backoff(verdict, sent=task.sent, charged=task.charged, seconds=self._now() - bisection.since)

    def _after_repetition(self, bisection: Bisection, sent: ChunkTask, verdict: Verdict | None) -> bool:
        task, bisection.repeated = bisection.repeated, None
        assert task is not None
        if verdict is not None:
            verdict = self._split_early(task, verdict)
            if verdict.action is Action.RETRY:
                self._emit.retry(sent, verdict)
        if sent is not task:
            return self._after_sample(bisection, task, sent, verdict)
        if verdict is None:
            return self._succeeded(task)
        if verdict.action is not Action.RETRY:
            return self._decide(bisection, task, verdict)
        # Where others succeed, no sample is needed to show that its size or a row is to blame.
        others_succeed = verdict.may_be_size and task.n > 1 and task.history.others_served
        samples_are_next = bisection.samples is not None and task.charged >= self._group.retry.max_attempts - SAMPLES
        if others_succeed and (samples_are_next or self._sizes.near_limit(task)):
            return self._decide(bisection, task, replace(verdict, action=Action.SPLIT))
        return self._repeat(bisection, task, verdict)

    def _after_sample(self, bisection: Bisection, task: ChunkTask, sent: ChunkTask, verdict: Verdict | None) -> bool:
        """Go on after an attempt with a few rows of ``task``: if they do not fail as it did, send the others."""
        fails_alike = verdict is not None and verdict.action is Action.RETRY
        bisection.charge(task, sent, failed=fails_alike)
        if verdict is not None and fails_alike:
            return self._repeat(bisection, task, verdict)
        # All rows together have failed several times, so a row among the others is to blame, or the size. Near a known
        # limit the others may be within it; else they would most probably fail together once more.
        bisection.send_around(task, sent, in_halves=self._group.answered.sizes.limits is None)
        return True if verdict is None else self._judge(bisection, sent, verdict)

    def _after_part(self, bisection: Bisection, part: ChunkTask, verdict: Verdict | None) -> bool:
        if verdict is None:
            return self._succeeded(part)
        bisection.splits[-1].any_failed = True
        if part.n == 1 and could_be_outage(verdict) and self._blame.may_be_outage(part, verdict):
            return self._detach(bisection, part, verdict)
        return self._judge(bisection, part, verdict)

    def _detach(self, bisection: Bisection, part: ChunkTask, verdict: Verdict) -> bool:
        """Let a row go its own way that has failed alone, so that the other parts can show whether it is to blame."""
        own = part.bisection = Bisection(part, bisection.since)
        # The parent goes on and ends by itself, so the run has to wait for the row on its own account.
        self._scheduler.progress.open += 1
        self._evidence.begin(own, verdict)
        if self._judge(own, part, verdict):
            self._send_next_part(own)
        return True

    def _send_next_part(self, bisection: Bisection) -> None:
        """Send the next part of a bisection, or end it."""
        while bisection.splits and not bisection.splits[-1].parts:
            self._end_split(bisection, bisection.splits.pop())
        if bisection.splits:
            if self._budget.next_decides:
                bisection.look_elsewhere()
            self._send_part(bisection, bisection.splits[-1])
            return
        self._evidence.end(bisection)
        self._scheduler.close_one()

    def _send_part(self, bisection: Bisection, split: Split) -> None:
        part = split.parts.popleft()
        while smaller := self._sizes.parts(part):  # the limit has become known in the meantime
            # In order, and before all others: rows are sent depth first, as `Bisection` says.
            split.parts.extendleft(reversed(smaller))
            part = split.parts.popleft()
        part.history.suspect, part.bisection = split.kind, bisection
        if part.n == 1:
            part.charged += bisection.charged_alone.get(part.first_row, 0)
        self._scheduler.put(part)

    def _end_split(self, bisection: Bisection, split: Split) -> None:
        if split.whole is None:
            return
        task, verdict = split.whole
        if not split.any_failed and (verdict.error_kind is None or verdict.may_be_size):
            self._sizes.too_large(task, verdict)
        self._evidence.isolated()

    def _decide(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        """Settle a task that is not to be repeated as it is."""
        if verdict.action is Action.STOP:
            self._stop_event.stop(Stop(verdict.stop, verdict.reason))
            return False
        if self.isolation is not None and self.isolation.concerns(task, verdict):
            self._note_split(task, verdict)
            self._isolate(task, verdict)
            return True
        if verdict.action is Action.SPLIT and verdict.forbidden:
            # Requests in flight may show that the credentials are good.
            proven = partial(self._evidence.credentials_accepted, task)
            if not self._evidence.waits_for_others:
                asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look_again)
            return self._in_turn(bisection, task, verdict, self._split_or_fail, proven, after_others=True)
        return self._split_or_fail(bisection, task, verdict)

    def _look_again(self) -> None:
        self._release_parked()
        if self._stop_event.stopped is None and self._evidence.waits_for_others:
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look_again)

    def _split_or_fail(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        if verdict.action is Action.SPLIT and task.n > 1:
            if verdict.needs_proof:
                return self._in_turn(bisection, task, verdict, self._split, partial(self._sizes.beyond, task))
            if task.history.suspect is not None:  # the chunk that it is a part of has been split already
                return self._split(bisection, task, verdict)
            proven = partial(self._evidence.succeeds_beside, task, verdict)
            return self._in_turn(bisection, task, verdict, self._split, proven)
        if verdict.action is Action.SPLIT and not self._confirmed(task):
            task.history.confirmed = bisection.confirming = True
            task.bisection = bisection
            self._scheduler.put(task)
            return False
        self._fail(bisection, task, verdict)
        return True

    def _split(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        # Rows that wait for their turn stay pending after a stop, and are sent by the next run.
        if self._stop_event.stopped is not None:
            return False
        # Splitting on would cost more requests than it saves rows.
        if not self._budget.useful:
            self._fail(bisection, task, verdict)
            return True
        self._note_split(task, verdict)
        parts = self._sizes.parts(task) or task.halves()
        bisection.splits.append(Split(parts, kind_of(verdict), (task, verdict)))
        return True

    def _isolate(self, task: ChunkTask, verdict: Verdict) -> None:
        assert self.isolation is not None
        self._collector.leave(task)
        self.isolation.leave(task, verdict)

    def _succeeded(self, task: ChunkTask) -> bool:
        if task.history.suspect is not None and not task.history.held:
            self._budget.rows_succeeded(task.n)
        return True

    def _fail(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> None:
        is_news = not self._budget.is_known_bad(task)
        if is_news and task.n == 1 and verdict.action is Action.SPLIT:
            self._budget.row_failed()
        if is_news:
            self._budget.refused(task, verdict)
        if verdict.forbidden:
            # It may be the credentials that are forbidden: the rows fail once others show that these are good.
            self._evidence.withheld.append((task, verdict))
        else:
            self._collector.fail(task, verdict)
        # Rows of other callers show nothing of this one's request, but all of them have the same credentials.
        if is_news and (self.isolation is None or verdict.forbidden):
            self._stop_if_hopeless(bisection, task, verdict)

    def _stop_if_hopeless(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> None:
        nothing_left = self._scheduler.chunker.remaining == 0
        only_row = verdict.forbidden and not self._group.answered.chunks and nothing_left and len(task.chunk) == 1
        spares_nothing = nothing_left and self._evidence.is_only(bisection) and task.n == len(task.chunk)
        stop = self._budget.stop_for(verdict, only_row=only_row, spares_nothing=spares_nothing)
        if stop is not None:
            self._stop_event.stop(stop)

    def _split_early(self, task: ChunkTask, verdict: Verdict) -> Verdict:
        """Change a retry into a split if some callers would wait for another caller's row."""
        if verdict.action is Action.RETRY and self.isolation is not None and self.isolation.concerns(task, verdict):
            return replace(verdict, action=Action.SPLIT)
        return verdict

    def _await_control(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        """Repeat a task after a control request, whose answer counts as that of another row."""
        # The row keeps one attempt, which the control's answer is to decide about.
        task.charged = min(task.charged, self._group.retry.max_attempts - 1)
        bisection.repeated = task
        if not self._control.under_way:
            delay = self._delay(bisection, task, verdict) if self._control.failed else None
            self._scheduler.put(
                self._scheduler.opened(self._control.begin()), BEFORE_ALL_OTHERS if delay is None else delay
            )
        after = Parked(bisection, task, verdict, self._after_control, self._control.over, needs_proof=True)
        self._evidence.parked.append(after)
        return False

    def _after_control(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> bool:
        # Without an answer, the row itself may be answered by now.
        delay = self._delay(bisection, task, verdict) if self._control.failed else None
        self._scheduler.put(task, delay or 0.0)
        return False

    def _confirmed(self, task: ChunkTask) -> bool:
        return task.history.confirmed or task.charged >= self._group.retry.max_attempts

    def _fails_over(self, task: ChunkTask) -> bool:
        """True if another endpoint can take the task at once. When all have failed, it is time to wait."""
        if not self._group.balancer.several or task.endpoint is None:
            return False
        # Remembered before the look for another one, so that the endpoint does not count as its own alternative.
        task.history.tried = (*task.tried, task.endpoint)
        if self._group.balancer.has_available(task.tried, self._now()):
            return True
        task.history.tried = ()
        return False

    def _note_split(self, task: ChunkTask, verdict: Verdict) -> None:
        self._collector.counters.splits += 1
        self._emit.split(task, verdict)
