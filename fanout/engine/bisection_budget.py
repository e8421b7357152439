"""The budget of bisections: it ends a search that saves too few rows, and a run whose requests must be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fanout._lazy import pattern
from fanout.rows import RowSet
from fanout.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.chunker import ChunkTask
    from fanout.types import StopKind, Verdict

_ENOUGH_ISOLATED = 64
_HOPELESS_ALONE = 2

# The same where an earlier run of the same codec and path has answers: the last rows may well be the bad ones.
_HOPELESS_LATER = 64

_SAME_WORDS_ROWS = 20
_SAME_WORDS_CHUNKS = 3

# Refused chunks that count as much, where too few of their rows are sent alone.
_SAME_WORDS_WHOLE_CHUNKS = 16

# Different wordings that are remembered; more of them mean that the refusals have no common cause.
_MOST_WORDINGS = 64

_IDENTIFIER = pattern(r"[\w-]*\d[\w-]*")

# Characters of a number that may be part of a message; identifiers of requests are longer.
_SHORT_NUMBER = 8


@dataclass(slots=True, eq=False, repr=False)
class _SameWords:
    """Refusals in one and the same words."""

    rows: int = 0
    chunks_of_rows: set[int] = field(default_factory=set)
    """First rows of the chunks whose rows were refused alone."""
    chunks: set[int] = field(default_factory=set)


class BisectionBudget:
    """Bounds the requests that isolate rows, where the rows are not to blame or where too few are saved.

    Until something has succeeded, two failed single rows end the run, the first and the last of a chunk, for bad rows
    often stand together. Later, splitting ends when more than half of at least 64 rows that were isolated, alone or
    with others, have failed. The run also ends when many single rows are refused in the same words and none succeeds in
    between: a closed account is refused in words that no table knows, while rows that really are bad have others beside
    them that succeed.

    Args:
        successes: gives the number of requests that have succeeded.
        failed_alone: rows that failed alone in an earlier run: if they fail again, that says nothing of the endpoint.
        answered_before: an earlier run has answers.
    """

    def __init__(
        self, successes: Callable[[], int], *, failed_alone: RowSet | None = None, answered_before: bool = False
    ) -> None:
        self._successes = successes
        self._failed_alone = failed_alone or RowSet()
        self._hopeless = _HOPELESS_LATER if answered_before else _HOPELESS_ALONE
        self._isolated = 0
        self._failed = 0
        self._seen = 0
        self._refused: dict[str, _SameWords] = {}

    def rows_succeeded(self, n_rows: int) -> None:
        """Count rows of a split chunk that have their answers."""
        self._isolated += n_rows

    def row_failed(self) -> None:
        """Count a single row that was isolated and has failed."""
        self._isolated += 1
        self._failed += 1

    def is_known_bad(self, task: ChunkTask) -> bool:
        """True for a single row that failed alone in an earlier run."""
        if task.n > 1 or not self._failed_alone:
            return False
        # Earlier runs record failures in ranges, so the row is looked up as a range of one.
        row = task.first_row
        return self._failed_alone.gap(row, row + 1) is None

    @property
    def useful(self) -> bool:
        """False once isolating rows has turned out to save too few of them."""
        # Fewer rows than that may be the bad ones of one part of the input.
        return self._isolated < _ENOUGH_ISOLATED or 2 * self._failed <= self._isolated

    @property
    def next_decides(self) -> bool:
        """True while one more single row that fails would make the run hopeless."""
        return self._failed == self._hopeless - 1 and not self._successes()

    @property
    def hopeless(self) -> bool:
        """True when single rows fail and nothing has ever succeeded: the request itself must be wrong."""
        return self._failed >= self._hopeless and not self._successes()

    def refused(self, task: ChunkTask, verdict: Verdict) -> None:
        """Count a refusal of rows that have failed: of a single one, or of several that are not split."""
        is_error = verdict.without_values or (verdict.status is not None and verdict.status >= 400)
        if not is_error or verdict.about_rows:
            return
        # A success in between shows that the refusals are about rows: the count begins anew.
        if self._successes() != self._seen or len(self._refused) >= _MOST_WORDINGS:
            self._seen = self._successes()
            self._refused.clear()
        same = self._refused.setdefault(_wording(verdict.reason), _SameWords())
        same.chunks.add(task.chunk.start)
        if task.n == 1:
            same.rows += 1
            same.chunks_of_rows.add(task.chunk.start)

    def stop_for(self, verdict: Verdict, *, only_row: bool, spares_nothing: bool) -> Stop | None:
        """Return the stop of a run after a failure of rows by themselves; None while the rows may be to blame.

        Args:
            only_row: there is no other row, which could show whether this one or the credentials are refused.
            spares_nothing: the run has no further request that a stop would save.
        """
        kind: StopKind = "refused" if verdict.forbidden else "rejected"
        if self.hopeless or only_row:
            return Stop(kind, f"the endpoint accepts no row at all, not even alone: {verdict.reason}")
        if self.refused_too_often(verdict) and not spares_nothing:
            reason = "the endpoint has refused many single rows in the same words, and accepted none in between"
            return Stop(kind, f"{reason}: {verdict.reason}")
        return None

    def refused_too_often(self, verdict: Verdict) -> bool:
        """True if many rows of several chunks were refused in the words of ``verdict``, and none succeeded since."""
        same = self._refused.get(_wording(verdict.reason))
        if same is None or self._successes() != self._seen:
            return False
        # A 403 most often means the credentials, so fewer chunks prove it.
        whole_chunks = _SAME_WORDS_CHUNKS if verdict.forbidden else _SAME_WORDS_WHOLE_CHUNKS
        several = len(same.chunks_of_rows) >= _SAME_WORDS_CHUNKS or len(same.chunks) >= whole_chunks
        return same.rows >= _SAME_WORDS_ROWS and several


def _wording(reason: str) -> str:
    """``reason`` without the identifiers of requests, which differ in every answer."""
    return _IDENTIFIER.sub(lambda found: found[0] if len(found[0]) < _SHORT_NUMBER else "#", reason[:500])
