"""Refusals in the same words, again and again: the cause is not in the rows, whatever the words mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.task import ChunkTask
    from fanout.types import Verdict

_ROWS = 20
_CHUNKS = 3
"""Chunks that these rows have to be of."""

_WHOLE_CHUNKS = 16
"""Refused chunks that count as much as that, where too few of their rows are sent alone."""

_FORBIDDEN = 403
"""The status that most often means the credentials: fewer chunks prove it."""

_MOST = 64
"""Different words that are remembered; more of them are no sign of anything."""

_IDENTIFIER = re.compile(r"[\w-]*\d[\w-]*")
_SHORT = 8
"""Characters of a number that may be part of the message; identifiers of requests are longer."""


@dataclass(slots=True)
class _Refused:
    """Refusals in one and the same words."""

    rows: int = 0
    """Rows that were refused alone."""

    chunks_of_rows: set[int] = field(default_factory=set)
    chunks: set[int] = field(default_factory=set)


class Refusals:
    """Counts single rows that are refused in the same words while nothing succeeds.

    A closed account is refused in words that no table knows, often with a status that stands for a bad row. Rows that
    really are bad have others beside them that succeed.

    Args:
        successes: number of requests that have succeeded so far.
    """

    def __init__(self, successes: Callable[[], int]) -> None:
        self._successes = successes
        self._seen = 0
        self._refused: dict[str, _Refused] = {}

    def note(self, work: ChunkTask, verdict: Verdict, *, failed: bool) -> None:
        """Take note of a refusal: of rows that have ``failed``, or of a chunk that is to be split."""
        if verdict.status is None or verdict.status < 400 or verdict.about_rows:
            return
        if self._successes() != self._seen or len(self._refused) >= _MOST:
            self._seen = self._successes()
            self._refused.clear()
        refused = self._refused.setdefault(_comparable(verdict.reason), _Refused())
        refused.chunks.add(work.chunk.start)
        if failed and work.n == 1:
            refused.rows += 1
            refused.chunks_of_rows.add(work.chunk.start)

    def hopeless(self, verdict: Verdict) -> bool:
        """True if so many rows of several chunks have been refused in the words of ``verdict``, and none succeeded."""
        refused = self._refused.get(_comparable(verdict.reason))
        if refused is None or self._successes() != self._seen:
            return False
        whole_chunks = _CHUNKS if verdict.status == _FORBIDDEN else _WHOLE_CHUNKS
        several = len(refused.chunks_of_rows) >= _CHUNKS or len(refused.chunks) >= whole_chunks
        return refused.rows >= _ROWS and several


def _comparable(reason: str) -> str:
    """``reason`` without the identifiers of requests, which differ in every answer."""
    return _IDENTIFIER.sub(lambda found: found[0] if len(found[0]) < _SHORT else "#", reason[:500])
