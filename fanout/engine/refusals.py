"""Refusals in the same words, again and again: the cause is not in the rows, whatever the words mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.work import Work
    from fanout.types import Verdict

_ROWS = 20
_CHUNKS = 3
_MOST = 64
"""Different words that are remembered; more of them are no sign of anything."""

_IDENTIFIER = re.compile(r"[\w-]*\d[\w-]*")
_SHORT = 8
"""Characters of a number that may be part of the message; identifiers of requests are longer."""


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
        self._rows: dict[str, int] = {}
        self._chunks: dict[str, set[int]] = {}

    def note(self, work: Work, verdict: Verdict, *, failed: bool) -> None:
        """Take note of a refusal: of a single row that has ``failed``, or of a chunk that is to be split."""
        if verdict.status is None or verdict.status < 400 or verdict.about_rows:
            return
        if self._successes() != self._seen or len(self._rows) >= _MOST:
            self._seen = self._successes()
            self._rows.clear()
            self._chunks.clear()
        words = _comparable(verdict.reason)
        self._rows[words] = self._rows.get(words, 0) + (failed and work.n == 1)
        self._chunks.setdefault(words, set()).add(work.chunk.start)

    def hopeless(self, verdict: Verdict) -> bool:
        """True if so many rows of several chunks have been refused in the words of ``verdict``, and none succeeded."""
        if self._successes() != self._seen:
            return False
        words = _comparable(verdict.reason)
        return self._rows.get(words, 0) >= _ROWS and len(self._chunks[words]) >= _CHUNKS


def _comparable(reason: str) -> str:
    """``reason`` without the identifiers of requests, which differ in every answer."""
    return _IDENTIFIER.sub(lambda found: found[0] if len(found[0]) < _SHORT else "#", reason[:500])
