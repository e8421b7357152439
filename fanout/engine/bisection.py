"""Bisection: a failed chunk is sent in ever smaller parts, until the row or the size to blame is known.

`Bisection` is the way of one failed task to its end. `Evidence` holds back tasks that may fail for the same reason as
others. `fanout.engine.bisection_budget` bounds the requests of all bisections together.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from fanout.engine.history import kind_of
from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fanout.engine.chunker import ChunkTask
    from fanout.engine.request_sizes import RequestSizes
    from fanout.upstream.group import EndpointGroup

    Step = Callable[["Bisection", ChunkTask, Verdict], bool]

SAMPLES = 2
"""Last attempts of a chunk that send only a few of its rows: if these are answered, the size or a row is to blame."""

# Step with which successive samples spread evenly over a chunk.
_GOLDEN = (5**0.5 - 1) / 2

# Parked tasks that one success releases: if all of them were sent at once, and failed, the circuit would open.
_RELEASED_BY_A_SUCCESS = 2


class Split:
    """Parts of one task that are still to be sent.

    Args:
        kind: the kind of failure for which they are isolated.
        whole: the task with its verdict, where it was cut because of its size or its rows.
    """

    __slots__ = ("any_failed", "kind", "parts", "whole")

    def __init__(
        self, parts: Iterable[ChunkTask], kind: object, whole: tuple[ChunkTask, Verdict] | None = None
    ) -> None:
        self.parts = deque(parts)
        self.kind = kind
        self.whole = whole
        self.any_failed = False


class Bisection:
    """The way of one failed task to its end: attempts to repeat it, then its parts, depth first.

    At most one of its requests is under way: depth first, the first bad row is found after few requests, and a request
    that is wrong as a whole costs few.
    """

    __slots__ = (
        "charged_alone",
        "confirming",
        "failure",
        "has_looked_elsewhere",
        "repeated",
        "root",
        "sample",
        "samples",
        "since",
        "splits",
        "suspicious",
    )

    def __init__(self, root: ChunkTask, since: float) -> None:
        self.root = root
        self.since = since
        """Time of the loop at which the attempt that failed first was sent."""
        self.splits: list[Split] = []
        self.repeated: ChunkTask | None = None
        """The task that is being repeated, whole or in samples of its rows."""
        self.failure: Verdict | None = None
        """The verdict for which it is repeated."""
        self.samples: Iterator[slice] | None = None
        """The rows that the next attempts send; None: all of them."""
        self.sample = slice(0, 0)
        """The rows that were sent last, if they were not all."""
        self.charged_alone: dict[int, int] = {}
        """Attempts that single rows have used up in samples."""
        self.confirming = False
        self.has_looked_elsewhere = False
        self.suspicious = False

    def repeat(self, task: ChunkTask) -> ChunkTask:
        """Return the task of the next attempt: ``task``, or a sample of its rows."""
        self.repeated = task
        if self.samples is None or (rows := next(self.samples)) == slice(0, task.n):
            return task
        sample = task.part(rows)
        # A sample avoids the endpoints that have failed its task: else one that is gone could use up all attempts.
        sample.history.tried = task.tried
        sample.bisection, self.sample = self, rows
        return sample

    def charge(self, task: ChunkTask, sample: ChunkTask, *, failed: bool) -> None:
        """Charge the attempts of a sample to all rows of ``task``, which has used them up."""
        charged = task.charged + sample.charged
        task.sent += sample.sent
        task.charged = charged
        task.endpoint = sample.endpoint
        if failed and sample.n == 1:
            self.charged_alone[sample.first_row] = self.charged_alone.get(sample.first_row, 0) + sample.charged

    def send_around(self, task: ChunkTask, sample: ChunkTask, *, in_halves: bool) -> None:
        """Send the other rows of ``task`` next, since ``sample`` did not fail as all of them did together."""
        assert self.failure is not None
        kind, rows = kind_of(self.failure), self.sample
        sample.history.suspect = kind
        around = slice(0, rows.start), slice(rows.stop, task.n)
        others = [task.part(part) for part in around if part.start < part.stop]
        if in_halves and len(others) == 1 and others[0].n > 1:
            others = list(others[0].halves())
        self.splits.append(Split(others, kind, (task, self.failure)))

    def look_elsewhere(self) -> None:
        """Make the last part of the chunk the next one; if that has been tried, the last row of it, alone."""
        outermost = next(split for split in self.splits if split.parts)
        split = self.splits[-1] if self.has_looked_elsewhere else outermost
        last = split.parts.pop()
        if self.has_looked_elsewhere and last.n > 1:
            rest, last = last.parts([last.n - 1, 1])
            split.parts.append(rest)
        self.has_looked_elsewhere = True
        self.splits[-1].parts.appendleft(last)


def samples_of(n_rows: int, attempts: int, *, whole: bool) -> Iterator[slice]:
    """The rows that each of so many ``attempts`` sends: all of them while ``whole``, but few in the last ones.

    They are the first rows and the last in turn, since one of both may hold the row to blame, and then single rows from
    all over the chunk.
    """
    for _ in range(attempts - SAMPLES if whole else 0):
        yield slice(0, n_rows)
    few = 1 if whole else max(1, n_rows // 2)
    for number in count(0 if attempts > 1 or not whole else 1):
        # Multiples of the golden ratio never fall close together, however many samples there are.
        if number >= SAMPLES and few == 1:
            row = int(n_rows * (number * _GOLDEN % 1))
            yield slice(row, row + 1)
        else:
            yield slice(n_rows - few, n_rows) if number % 2 else slice(0, few)
        # Each sample has far fewer rows than the one before: two of them distinguish a large request from a bad row.
        few = max(1, round(few**0.5))


class Parked(NamedTuple):
    """A failed task that waits until other requests explain its failure."""

    bisection: Bisection
    task: ChunkTask
    verdict: Verdict
    step: Step
    """The next step."""
    proven: Callable[[], bool]
    """True once the others have shown it."""
    after_others: bool = False
    """The next step is taken after all requests in flight, which may show it yet."""
    needs_proof: bool = False
    """The next step is taken once it is shown, and not before."""


class Evidence:
    """Decides which failed tasks may go on, as long as it is unclear why they failed.

    Chunks that fail before any has succeeded may all fail for one reason: an endpoint that is down, a limit on size, a
    wrong request. So one of them at a time has the turn, no new chunk is taken, and the others wait.
    """

    def __init__(self, group: EndpointGroup, sizes: RequestSizes) -> None:
        self._group = group
        self._sizes = sizes
        self.active: dict[Bisection, None] = {}
        self.withheld: list[tuple[ChunkTask, Verdict]] = []
        """Rows that were forbidden since the last success. The next success shows that the credentials are good, so
        the rows have failed. If the run stops before, they stay pending."""
        self._turn: Bisection | None = None
        self.parked: list[Parked] = []
        self._n_releases = 0
        self._n_suspicious = 0
        self.unexplained: ChunkTask | None = None
        """The first chunk that failed before any had succeeded, as long as it is not clear why."""
        self._any_isolated = False
        """A chunk has been split down to the row or the size to blame."""

    @property
    def holds_back(self) -> bool:
        """True while new chunks would probably fail as others did."""
        if self.unexplained is None:
            return False
        # Both are needed: a split alone may have isolated rows of a request that is wrong as a whole.
        explained = self._any_isolated and self._group.answered.chunks > 0
        if not self._n_suspicious or explained or self._sizes.clears(self.unexplained):
            self.unexplained = None
        return self.unexplained is not None

    def begin(self, bisection: Bisection, verdict: Verdict) -> None:
        """Take a failed task into account."""
        task = bisection.root
        self.active[bisection] = None
        if task.n > 1 and may_be_size(verdict):
            bisection.suspicious = True
            self._n_suspicious += 1
            self._sizes.suspected(task)
            # After a success the request is right in general, so that one failure is no reason to hold chunks back.
            if not self._group.answered.chunks and self.unexplained is None:
                self.unexplained = task

    def succeeded(self) -> None:
        """Take a success into account."""
        self._n_releases = _RELEASED_BY_A_SUCCESS

    def end(self, bisection: Bisection) -> None:
        """All rows of a failed task are answered or have failed."""
        del self.active[bisection]
        # The next parked task may have the turn; it is looked for after each outcome.
        if self._turn is bisection:
            self._turn = None
        if bisection.suspicious:
            self._n_suspicious -= 1
            self._sizes.ended(bisection.root)

    def is_only(self, bisection: Bisection) -> bool:
        """True if no other task has failed and still has rows open."""
        return len(self.active) == 1 and bisection in self.active

    @property
    def waits_for_others(self) -> bool:
        """True while a task waits for requests in flight."""
        return any(parked.after_others for parked in self.parked)

    def isolated(self) -> None:
        """The parts of a chunk have been sent."""
        self._any_isolated = True

    def may_go_on(self, parked: Parked) -> bool:
        """True if the next step may be taken now, which may take the turn. Otherwise `released` gives it later."""
        # The common case: nothing else has failed, so that the task takes the turn at once.
        if self._goes_on(parked):
            return True
        self.parked.append(parked)
        return False

    def released(self) -> Parked | None:
        """The task parked longest that may go on now, if there is one."""
        for parked in self.parked:
            if self._goes_on(parked):
                # Below zero it means no more than zero; a success sets it anew.
                self._n_releases -= 1
                self.parked.remove(parked)
                return parked
        return None

    def known_at_failure(self, task: ChunkTask, verdict: Verdict) -> bool:
        """True once it is clear whether a chunk that failed with ``verdict`` is to blame for that itself."""
        if task.history.successes_seen:
            # A request that succeeded may have been smaller, so it proves little.
            succeeds = self._n_releases > 0 and self._group.answered.chunks > task.history.successes_seen
            return succeeds or self._sizes.beyond(task)
        refused = verdict.action is Action.SPLIT
        return self._sizes.knows(task) or (refused and self._any_isolated and self._group.answered.chunks > 0)

    def succeeds_beside(self, task: ChunkTask, verdict: Verdict) -> bool:
        """True once requests succeed, so that more chunks than one may be split.

        For a 403 they have to succeed after it: earlier ones may have had good credentials.
        """
        if not verdict.forbidden:
            return self._group.answered.chunks > 0
        return self._group.answered.chunks > (task.history.successes_seen or 0)

    def credentials_accepted(self, task: ChunkTask) -> bool:
        """True once the endpoint that has forbidden ``task`` has answered other rows."""
        return task.endpoint is not None and task.endpoint.served

    def _goes_on(self, parked: Parked) -> bool:
        # The task that has the turn keeps it through all of its parts, without a proof for each.
        if parked.proven() or (self._turn is parked.bisection and not parked.needs_proof):
            return True
        endpoint = parked.task.endpoint
        others = parked.after_others and endpoint is not None and endpoint.in_flight
        if self._turn is not None or parked.needs_proof or others:
            return False
        self._turn = parked.bisection
        return True


def may_be_size(verdict: Verdict) -> bool:
    """True for a failure that the size of the request, or one of its rows, may be to blame for."""
    return verdict.may_be_size or (verdict.action is Action.SPLIT and not verdict.forbidden)


def could_be_outage(verdict: Verdict) -> bool:
    """True for a failure that an endpoint in trouble gives to every request."""
    return verdict.error_kind is None and (verdict.unreachable or verdict.overload or (verdict.status or 0) >= 500)


def may_be_rows(verdict: Verdict) -> bool:
    """True for a failure that rows can cause: a crash, say, but no refused connection."""
    return verdict.broke_off or not (verdict.unreachable or verdict.no_room)
