"""Isolation: rows of one request that belong to different callers of `predict`, and must not affect each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.chunker import ChunkTask
    from fanout.engine.first_attempts import Begun
    from fanout.types import Verdict
    from fanout.upstream.group import EndpointGroup


class Isolation:
    """Rows of one run that belong to different callers, and leave it if they fail together.

    They are sent again in smaller requests, so that no caller waits or fails for another's row.

    Args:
        hand_over: takes the numbers of the rows, the attempts that held them, and whether each is to be sent alone.
        begun: an attempt that was made before the run.
    """

    def __init__(
        self, group: EndpointGroup, hand_over: Callable[[list[int], int, bool], None], begun: Begun | None = None
    ) -> None:
        self._group = group
        self._hand_over = hand_over
        self._successes_before = group.answered.chunks if begun is None else begun.successes_before
        self.n_rows = 0
        """Rows that have left."""

    def concerns(self, task: ChunkTask, verdict: Verdict) -> bool:
        """True if the rows of ``task`` should go on in smaller requests, since one of them may be to blame for all.

        Not for a fault of the endpoint: it would get more requests in vain. A 403 is split within the run,
        one half after the other, until a success shows that the credentials are good.
        """
        if task.n == 1 or verdict.error_kind == "model" or verdict.forbidden:
            return False
        if verdict.action is Action.SPLIT or verdict.status == 500 or verdict.error_kind is not None:
            return True
        others_succeed = self._group.answered.chunks > self._successes_before
        if verdict.action is Action.RETRY:
            return others_succeed and not verdict.no_room
        return others_succeed or not (verdict.unreachable or verdict.no_room or (verdict.status or 0) > 500)

    def leave(self, task: ChunkTask, verdict: Verdict) -> None:
        """Hand the rows of ``task`` over."""
        self.n_rows += task.n
        # Answers of another shape may each be right, and only together make no array; rows that cannot be encoded
        # together each have a reason of their own.
        alone = task.payload is None or verdict.error_kind == "shape"
        self._hand_over((task.chunk.start + task.positions()).tolist(), task.attempts, alone)
