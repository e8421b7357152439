"""The history of a task that did not end with its first attempt: the failures of its rows, and what others showed.

A failure alone does not show whether the rows or the endpoint are to blame. The history keeps what has to be known of
earlier attempts to decide it. A task whose first attempt succeeds has none.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.types import ErrorKind, Verdict
    from fanout.upstream.group import EndpointState


class EndpointProofs:
    """Counts the proofs that the endpoint works while some rows fail: answers to requests sent after their failures."""

    __slots__ = ("_after", "_failed_at", "failing_since", "n")  # fmt: skip

    def __init__(self) -> None:
        self.n = 0
        """Repetitions before which the endpoint answered requests that were sent after the failure before."""
        self.failing_since = inf
        """Time of the first failure of the rows by themselves."""
        self._failed_at = inf
        self._after = inf
        """Time at which the next proof has to be sent."""

    def on_failure(self, now: float) -> None:
        """Remember the time of a failure."""
        # Only once: what the endpoint answered before the first failure proves nothing.
        if self.failing_since == inf:
            self.failing_since = self._after = now
        self._failed_at = now

    def on_repetition(self, served_at: float) -> None:
        """Look for a proof before the rows are sent again.

        Args:
            served_at: time at which the last of the requests was sent that have been answered.
        """
        if served_at >= self._after:
            self.n += 1
            # One answer proves one thing: the next proof has to be sent later.
            self._after = max(served_at, self._failed_at)


class History:
    """The earlier attempts of one task."""

    __slots__ = ("confirmed", "error_kind", "held", "others_served", "proofs", "reasks", "successes_seen", "suspect",
                 "tried", "uncharged")  # fmt: skip

    def __init__(self) -> None:
        self.uncharged = 0
        """Attempts that do not count against the rows: they were the endpoint's fault. Negative for attempts that count
        although others made them."""
        self.error_kind: ErrorKind | None = None
        """The kind of error of the last answer, if it was invalid."""
        self.reasks = 0
        """Times that the rows were asked for again because their answer was invalid."""
        self.held = False
        """The rows have a valid answer that waits until the schema is known."""
        self.suspect: object = None
        """The kind of failure for which the rows were isolated; the same again splits them at once."""
        self.confirmed = False
        """A single row has failed alone, and is not sent once more to confirm it."""
        self.successes_seen: int | None = None
        """Successes of all runs of the client when the rows last failed."""
        self.others_served = False
        """Others have succeeded between the last two failures of the rows, or of those that they were part of."""
        self.tried: tuple[EndpointState, ...] = ()
        """Endpoints that have failed since the last wait: others are asked first."""
        self.proofs = EndpointProofs()

    def others_succeeded(self, successes: int) -> bool:
        """True if others have succeeded since the rows last failed: the failure says nothing of the endpoint."""
        return self.successes_seen is not None and successes > self.successes_seen

    def note_failure(self, verdict: Verdict, successes: int) -> bool:
        """Remember a failure for the next one. True if others have succeeded since the one before it."""
        self.error_kind = verdict.error_kind
        # Compared before the count is replaced by the present one.
        self.others_served = self.others_succeeded(successes)
        self.successes_seen = successes
        return self.others_served


def kind_of(verdict: Verdict) -> object:
    """Return the kind of a failure; two of one kind are alike."""
    return verdict.error_kind or verdict.status or ("broke off" if verdict.broke_off else verdict.action)
