"""Where works end: proven answers into their chunk, failed rows onto the list, whole chunks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.classify import classify_error
from fanout.engine.proof import Held, Proof, disagreement
from fanout.types import Action, Array, Chunk, Done, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.link import Link
    from fanout.engine.work import Assembly, Work


class Outcomes:
    """Takes the outcome of every work, and delivers each chunk once all of its rows have theirs.

    Args:
        deliver: takes a whole chunk.
        refuse: takes a work whose answer turned out to be unlike the others, with the verdict on it.
        independent: answers need not be of one form, so none waits for another.
    """

    def __init__(
        self,
        proof: Proof,
        link: Link,
        *,
        deliver: Callable[[Done], None],
        refuse: Callable[[Work, Verdict], None],
        independent: bool = False,
    ) -> None:
        self._proof = proof
        self._link = link
        self._deliver = deliver
        self._refuse = refuse
        self._independent = independent
        self._open: dict[Chunk, Assembly] = {}

    def succeed(self, work: Work, outputs: dict[str, Array]) -> None:
        """Take in answers that passed the proof. They wait here for as long as the form of answers is not known."""
        if self._proof.settled or self._independent:
            self._accept(work, outputs)
        else:
            work.held = True
            self._sort(*self._proof.offer(work, outputs))

    def fail(self, work: Work, verdict: Verdict) -> None:
        """The rows of ``work`` get no answer."""
        host = work.host or self._link.pool.hosts[0]
        reason = self._link.pool.conceal(verdict.reason)
        failures = work.failures(reason, verdict.status, host.transport.shown_url)
        if work.assembly is None:
            chunk = work.chunk
            self._deliver(Done(start=chunk.start, stop=chunk.stop, outputs=None, failures=failures, ids=chunk.ids))
        else:
            work.assembly.fail(work, failures)
            self._deliver_if_whole(work.assembly)

    def leave(self, work: Work) -> None:
        """The rows of ``work`` are sent again by another run."""
        if work.assembly is not None:
            work.assembly.leave(work)
            self._deliver_if_whole(work.assembly)

    def close(self) -> bool:
        """No other answer will come: judge those that wait. True if some were refused and go another way."""
        accepted, refused, retry = self._proof.close()
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

    def _sort(self, accepted: list[Held], refused: list[Held]) -> None:
        for held in (*accepted, *refused):
            held.work.held = False
        for held in accepted:
            self._accept(held.work, held.outputs)
        for held in refused:
            self._refuse(held.work, held.work.in_context(_unlike(held)))

    def _accept(self, work: Work, outputs: dict[str, Array]) -> None:
        if work.assembly is None:
            chunk = work.chunk
            self._deliver(Done(start=chunk.start, stop=chunk.stop, outputs=outputs, ids=chunk.ids))
        else:
            work.assembly.add(work, outputs)
            self._deliver_if_whole(work.assembly)

    def _deliver_if_whole(self, assembly: Assembly) -> None:
        self._open[assembly.chunk] = assembly
        if assembly.complete:
            del self._open[assembly.chunk]
            self._deliver(assembly.done())


def _unlike(held: Held) -> Verdict:
    verdict = classify_error(disagreement(held))
    assert verdict.action is Action.RETRY
    return verdict
