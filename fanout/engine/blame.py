"""Decides whether the rows or the endpoint are to blame for a failure, which one attempt alone does not show.

A row fails for an error of the server, a broken connection or a timeout only once the endpoint has answered other
requests between its failures. Such an answer is the proof that an outage is not to blame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fanout.engine.bisection import could_be_outage, may_be_rows
from fanout.types import Action

if TYPE_CHECKING:
    from fanout.engine.bisection import Bisection
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.control import ControlRequests
    from fanout.engine.scheduler import Scheduler
    from fanout.types import Verdict
    from fanout.upstream.group import EndpointGroup

# Part of the time to a stall after which the last chunk is split, though nothing shows that the endpoint works.
_SPLIT_AFTER = 0.1

# The same for a last row that fails alone, until the row is to blame rather than the endpoint.
_OUTAGE = 0.4


class Blame:
    """Decides for one run whether failures may be an outage of the endpoint.

    Args:
        isolated: the rows belong to several callers, each of whom waits for its own.
    """

    def __init__(self, group: EndpointGroup, scheduler: Scheduler, control: ControlRequests, *, isolated: bool) -> None:
        self._group = group
        self._scheduler = scheduler
        self._control = control
        self._isolated = isolated

    def may_be_outage(self, task: ChunkTask, verdict: Verdict) -> bool:
        """True for a failure that shows nothing of the rows, as the endpoint has answered no other request since."""
        if not self._is_ambiguous(verdict):
            return False
        return not (self._endpoint_works(task) or (verdict.no_room and task.history.others_served))

    def needs_control(self, task: ChunkTask, verdict: Verdict) -> bool:
        """True for a failure that only a control request can explain, if one is possible."""
        # The last chunk is split without a proof; one that others follow is not, and these may all hold a bad row.
        waits = task.n == 1 or not self._scheduler.no_new_chunk
        return waits and may_be_rows(verdict) and self._is_ambiguous(verdict) and self._control.possible

    def without_proof(self, bisection: Bisection, task: ChunkTask, verdict: Verdict) -> Verdict | None:
        """Return the verdict that ends a long wait for a proof that cannot come; None before that.

        Parts of the task may show what is to blame; a single row has to end at some time.
        """
        if not (self._scheduler.no_new_chunk and may_be_rows(verdict)):
            return None
        since, part = (bisection.since, _SPLIT_AFTER) if task.n > 1 else (task.history.proofs.failing_since, _OUTAGE)
        if self._scheduler.progress.now() - since < part * self._group.retry.stall:
            return None
        return replace(verdict, action=Action.SPLIT if task.n > 1 else Action.FAIL)

    def without_attempts(self, task: ChunkTask, verdict: Verdict) -> Verdict:
        """Change a verdict to retry when no attempts are left."""
        endpoint, balancer = task.endpoint, self._group.balancer
        if verdict.error_kind == "model" and not (endpoint is not None and balancer.has_alternative(endpoint)):
            return replace(verdict, action=Action.STOP, stop="rejected")
        if verdict.status == 500 or verdict.error_kind is not None:  # most servers answer 500 for ever to one bad row
            return replace(verdict, action=Action.SPLIT)
        if verdict.unreachable and not balancer.answered:
            return replace(verdict, action=Action.STOP, stop="unreachable")
        others_succeed = self._endpoint_works(task) or task.history.others_served
        return replace(verdict, action=Action.SPLIT if task.n > 1 and others_succeed else Action.FAIL)

    def _is_ambiguous(self, verdict: Verdict) -> bool:
        """True for a failure that fails rows only if the endpoint answers others."""
        if not could_be_outage(verdict) or self._group.retry.stop is not None or self._group.retry.max_attempts == 1:
            return False
        if self._isolated and may_be_rows(verdict):  # a caller waits, and has only this row
            return False
        if not self._group.balancer.answered:
            return False
        # Before the first success nothing shows that an endpoint which breaks can do its work, so its attempts decide.
        return self._group.answered.chunks > 0 or not (verdict.status == 500 or verdict.broke_off)

    def _endpoint_works(self, task: ChunkTask) -> bool:
        """True if the endpoint has answered others between the failures of ``task``, and so is not to blame for them.

        One such answer may lie between two outages. It has to do once no new chunk can give another.
        """
        return task.history.proofs.n >= (1 if self._scheduler.no_new_chunk else 2)
