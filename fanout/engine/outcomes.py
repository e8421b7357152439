"""Where works end: proven answers into their chunk, failed rows onto the list, whole chunks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.classify import classify_error
from fanout.engine.validator import ResponseValidator, Unconfirmed, disagreement
from fanout.types import Action, Array, Chunk, ChunkResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.task import ChunkTask, PartialChunk
    from fanout.upstream.group import EndpointGroup


class Outcomes:
    """Takes the outcome of every work, and delivers each chunk once all of its rows have theirs.

    Args:
        deliver: takes a whole chunk.
        refuse: takes a work whose answer turned out to be unlike the others, with the verdict on it.
        independent: answers need not be of one form, so none waits for another.
    """

    def __init__(
        self,
        validator: ResponseValidator,
        group: EndpointGroup,
        *,
        deliver: Callable[[ChunkResult], None],
        refuse: Callable[[ChunkTask, Verdict], None],
        independent: bool = False,
    ) -> None:
        self._validator = validator
        self._group = group
        self._deliver = deliver
        self._refuse = refuse
        self._independent = independent
        self._open: dict[Chunk, PartialChunk] = {}

    def succeed(self, work: ChunkTask, outputs: dict[str, Array]) -> None:
        """Take in answers that passed the proof. They wait here for as long as the form of answers is not known."""
        if self._validator.settled or self._independent:
            self._accept(work, outputs)
        else:
            work.held = True
            self._sort(*self._validator.offer(work, outputs))

    def fail(self, work: ChunkTask, verdict: Verdict) -> None:
        """The rows of ``work`` get no answer."""
        endpoint = work.endpoint or self._group.balancer.endpoints[0]
        reason = self._group.balancer.conceal(verdict.reason)
        failures = work.failures(reason, verdict.status, endpoint.transport.shown_url)
        if work.assembly is None:
            chunk = work.chunk
            self._deliver(
                ChunkResult(start=chunk.start, stop=chunk.stop, outputs=None, failures=failures, ids=chunk.ids)
            )
        else:
            work.assembly.fail(work, failures)
            self._deliver_if_whole(work.assembly)

    def leave(self, work: ChunkTask) -> None:
        """The rows of ``work`` are sent again by another run."""
        if work.assembly is not None:
            work.assembly.leave(work)
            self._deliver_if_whole(work.assembly)

    def close(self) -> bool:
        """No other answer will come: judge those that wait. True if some were refused and go another way."""
        accepted, refused, retry = self._validator.close()
        if retry:
            self._sort(accepted, refused)
            return bool(refused)
        for held in refused:
            self.fail(held.work, _unlike(held))
        self._sort(accepted, [])
        return False

    def flush(self) -> None:
        """Deliver chunks that a stop has left in parts, so that nothing that succeeded is lost."""
        for assembly in self._open.values():
            self._deliver(assembly.done())
        self._open.clear()

    def _sort(self, accepted: list[Unconfirmed], refused: list[Unconfirmed]) -> None:
        for held in (*accepted, *refused):
            held.work.held = False
        for held in accepted:
            self._accept(held.work, held.outputs)
        for held in refused:
            self._refuse(held.work, held.work.in_context(_unlike(held)))

    def _accept(self, work: ChunkTask, outputs: dict[str, Array]) -> None:
        if work.assembly is None:
            chunk = work.chunk
            self._deliver(ChunkResult(start=chunk.start, stop=chunk.stop, outputs=outputs, ids=chunk.ids))
        else:
            work.assembly.add(work, outputs)
            self._deliver_if_whole(work.assembly)

    def _deliver_if_whole(self, assembly: PartialChunk) -> None:
        self._open[assembly.chunk] = assembly
        if assembly.complete:
            del self._open[assembly.chunk]
            self._deliver(assembly.done())


def _unlike(held: Unconfirmed) -> Verdict:
    verdict = classify_error(disagreement(held))
    assert verdict.action is Action.RETRY
    return verdict
