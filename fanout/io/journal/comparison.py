"""Comparison of a journal with the input and the identity of a run that is to go on with it, by digests of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.errors import ConfigError
from fanout.files import START_FRESH
from fanout.io.journal.format import method_of, parse
from fanout.io.journal.records import RecordReader
from fanout.io.row_digests import DIGEST_BYTES, METHOD
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout.client.identity import Content
    from fanout.io.journal.state import JournalState
    from fanout.types import Array


class SentDigests(NamedTuple):
    """Digests of rows that were sent.

    Attributes:
        digests: shape (rows, 2), uint64; zeros for rows without one.
        known: rows that have one.
        method: name of their method.
    """

    digests: Array
    known: RowSet
    method: str = METHOD


class DigestReader:
    """Iterates over start, stop and digests of rows in a journal, in the order of the records; the last one counts.

    Attributes:
        method: name of their method, once the iteration has begun.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.method = METHOD

    def __iter__(self) -> Iterator[tuple[int, int, bytes]]:
        with self._path.open("rb") as file:
            for number, payload in enumerate(RecordReader(file)):
                document, digests = parse(payload)
                if not number:
                    self.method = method_of(document)
                at = 0
                for start, stop in (document.get("digests") or document["rows"]) if digests else ():
                    yield start, stop, digests[at : at + (stop - start) * DIGEST_BYTES]
                    at += (stop - start) * DIGEST_BYTES


def read_sent(path: Path, resolved: RowSet) -> SentDigests:
    """Return the digests in a journal of rows up to the last resolved one."""
    end = max((stop for _, stop in resolved), default=0)
    digests, known, reader = np.zeros((end, 2), np.uint64), RowSet(), DigestReader(path)
    for start, stop, data in reader:
        # Rows beyond the end were sent by a process that was killed before their commit, or have failed before a retry.
        last = min(stop, end)
        if start < last:
            digests[start:last] = np.frombuffer(data, "<u8").reshape(-1, 2)[: last - start]
            known.add(start, last)
    return SentDigests(digests, known, reader.method)


class Comparison:
    """The rows that a run has sent, compared with those that the input has now.

    Args:
        state: of the run.
        sent: the digests of rows that were sent.
        rows: the input's.
        only_ok: compare the answered rows alone, of a run that is complete: failed ones may have been corrected.
    """

    def __init__(self, state: JournalState, sent: SentDigests, rows: Content, *, only_ok: bool = False) -> None:
        self._done = state.ok if only_ok else state.resolved
        self._kind = "answered" if only_ok else "done"
        # Without the digest of a row it cannot be compared.
        self._is_complete = all(sent.known.gap(start, stop) is None for start, stop in self._done)
        # The number of rows is unknown for a stream that has not come to its end.
        self._before, self._now = state.n_rows, rows.n_rows
        end = state.n_rows if only_ok else None
        self._differing = rows.differing(self._done, sent, end) if self._is_complete else RowSet()

    @property
    def is_same(self) -> bool:
        """True if no row that was sent differs, and the number of rows is the same or unknown."""
        return self._is_complete and not self._differing and not self._has_other_length

    @property
    def _has_other_length(self) -> bool:
        return None not in (self._before, self._now) and self._before != self._now

    @property
    def text(self) -> str:
        """The rows that differ, for a message."""
        lengths = f"it has {self._now:,} rows in place of {self._before:,}, and " if self._has_other_length else ""
        if not self._is_complete:
            return f"{lengths}which rows differ is not known"
        done = f"the {len(self._done):,} rows that are {self._kind}"
        if self._before is not None and not lengths and any(stop > self._before for _, stop in self._differing):
            return f"it has more than the {self._before:,} rows that were sent"
        if self._differing:
            return f"{lengths}of {done}, these differ: {self._differing.listed()}"
        if lengths:
            return f"{lengths}{done} are the same"
        end = max((stop for _, stop in self._done), default=0)
        rest = RowSet(self._done.gaps(0, end + 1 if self._now is None else self._now))
        later = " and later" if self._now is None else ""
        return f"{done} are the same; it differs in rows that are not: {rest.listed()}{later}"


def same_but_for_times(identity: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if two identities differ at most in the times of change of their files."""
    return bool(_without_times(identity) == _without_times(other))


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        # Sampled bytes and the size stay: they change with the content.
        return {key: _without_times(part) for key, part in value.items() if key != "mtime_ns"}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the keys whose values differ, for a message."""
    return " and ".join(key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key))


def unfinished_run(path: Path, other: str, comparison: Comparison | None) -> ConfigError:
    """Return the error for the journal of an unfinished run whose ``other`` keys differ from those of this run."""
    details, carry = "", ""
    # Only an input that can be compared row by row has answers that can be kept.
    if comparison is not None:
        details = f" ({comparison.text})"
        carry = "keep its answers to rows of the same id and content with fanout run --carry (carry=True), or "
    problem = f"{path} is of an unfinished run with another {other}{details}"
    return ConfigError(f"{problem}; put that back to go on with it, or {carry}{START_FRESH}", key="output.path")
