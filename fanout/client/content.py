"""The rows of a run with a journal, by their digests: which of them are those that an earlier run has sent."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.engine import as_rows
from fanout.errors import InputError
from fanout.io.fingerprint import DIGEST_BYTES, of_rows, row_digests
from fanout.io.readers import Source, as_source
from fanout.io.writers import Move
from fanout.rowset import RowSet
from fanout.types import Block, count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.engine import Chunker
    from fanout.io.journal import Journal
    from fanout.types import Array, Rows

_BLOCK_ROWS = 4096


class Found(NamedTuple):
    """Rows of an input that an earlier run has answered under other numbers, or the same."""

    moves: list[Move]
    digests: Array
    """Of all rows of the input."""


class Content:
    """Rows that can be read more than once, and their digests.

    Args:
        rows: a source, of which some are read at a time, or rows in memory, whose digests are kept: 16 bytes a row.
    """

    def __init__(self, rows: Source | Rows) -> None:
        self.rows = rows

    @property
    def n_rows(self) -> int | None:
        """The number of rows; None where only reading to the end shows it."""
        return self.rows.n_rows if isinstance(self.rows, Source) else count_rows(self.rows)

    def fingerprint(self) -> dict[str, Any] | None:
        """What tells these rows from others; see `Source.fingerprint`. All rows in memory count."""
        if isinstance(self.rows, Source):
            return self.rows.fingerprint()
        digest = blake2b(self._in_memory.data, digest_size=DIGEST_BYTES)
        digest.update(of_rows([take_rows(self.rows, slice(0, 0))]).encode())  # the dtype and shape of no rows
        return {"rows": self.n_rows, "digest": digest.hexdigest()}

    def digests(self) -> Iterator[Array]:
        """The digests of all rows in order, some at a time. Raises `InputError` for what cannot be read."""
        if not isinstance(self.rows, Source):
            yield self._in_memory
            return
        for block in self.rows.blocks():
            yield row_digests(block.rows, block.ids)

    def digests_of(self, start: int, stop: int) -> bytes:
        """Those of some rows in memory."""
        return self._in_memory[start:stop].tobytes()

    @cached_property
    def _in_memory(self) -> Array:
        assert not isinstance(self.rows, Source)
        rows, n_rows = self.rows, count_rows(self.rows)
        parts = (take_rows(rows, slice(start, start + _BLOCK_ROWS)) for start in range(0, n_rows, _BLOCK_ROWS))
        digests: Array = np.concatenate([row_digests(take_rows(rows, slice(0, 0))), *map(row_digests, parts)])
        return digests

    def differing(self, known: RowSet, digests: Array) -> RowSet:
        """Those of the rows in ``known`` that do not have the digest ``digests[row]``, or that are not there."""
        found, row = RowSet(), 0
        mask, end = known.mask(len(digests)), max((stop for _, stop in known), default=0)
        for block in self.digests():
            stop = min(row + len(block), len(digests))
            other = mask[row:stop] & (digests[row:stop] != block[: stop - row]).any(axis=1)
            for place in np.flatnonzero(other).tolist():
                found.add(row + place, row + place + 1)
            row += len(block)
            if row >= end:
                break
        for start, stop in known:
            found.add(max(start, row), stop)
        return found

    def found_in(self, answered: RowSet, digests: Array) -> Found:
        """The rows that are among those in ``answered``, whose digests are ``digests[row]``.

        A row that has kept its number is looked for there first. It takes 64 bytes a row, of this input and of that.
        """
        now = np.concatenate([np.empty((0, 2), np.uint64), *self.digests()])
        old = np.flatnonzero(answered.mask(len(digests)))
        old = old[np.lexsort((digests[old, 1], digests[old, 0]))]
        places = np.searchsorted(digests[old, 0], now[:, 0])
        candidates = np.append(old, 0)[places] if len(old) else np.zeros(len(now), int)
        same_number = np.arange(min(len(now), len(digests)))
        stays = answered.mask(len(digests))[same_number] & (digests[same_number] == now[same_number]).all(axis=1)
        candidates[same_number[stays]] = same_number[stays]
        if not len(old):
            return Found([], now)
        new = np.flatnonzero((digests[candidates] == now).all(axis=1) & answered.mask(len(digests))[candidates])
        return Found(sorted(_runs(candidates[new], new)), now)


def _runs(old: Array, new: Array) -> Iterator[Move]:
    """Row ``old[i]`` has become row ``new[i]``: in unbroken ranges."""
    if len(new):
        breaks = np.flatnonzero((np.diff(old) != 1) | (np.diff(new) != 1)) + 1
        for begin, end in pairwise([0, *breaks.tolist(), len(new)]):
            yield Move(int(old[begin]), int(old[end - 1]) + 1, int(new[begin]))


def content_of(rows: object) -> Content | None:
    """The content of what a user gave as rows; None for an iterator, which can be read only once."""
    if isinstance(rows, Content):
        return rows
    source = rows if isinstance(rows, Source) else as_source(rows)
    if source is not None:
        return Content(source) if source.repeatable else None
    sized = as_rows(rows)
    return None if sized is None else Content(sized)


def require_unchanged(chunker: Chunker, rows: object = None, journal: Journal | None = None) -> None:
    """Raise `InputError` if the input is another one than that whose rows were sent. Blocking.

    With a journal the content decides: a file that was only touched, or replaced by one of the same rows, will do.
    """
    changed = chunker.changed_file(strict=journal is not None)
    again = "run again"
    if journal is not None:
        content = content_of(rows)
        if content is not None and isinstance(content.rows, Source) and changed is None:
            files = content.rows.files
            changed = files[0] if files and not _is_of(journal, content) else None
        if changed is None or content is None:
            return
        compared = journal.compare(content)
        if compared.is_same:
            return
        again = f"{compared.text}; put it back, or send the rows that differ with fanout run --carry (carry=True)"
    if changed is not None:
        raise InputError(f"{changed} was changed while it was read: {again}", key="input.path")


def _is_of(journal: Journal, content: Content) -> bool:
    """False if the fingerprint of the input has changed since the journal was opened."""
    noted = journal.state.identity.get("input")
    return noted is None or noted == content.fingerprint()


class DigestTap:
    """Notes the digests of rows as they are sent, for their record in the journal.

    Args:
        content: the rows.
        done: rows that are not sent.

    Of a source, the memory is that of the digests of rows that are read and not yet committed.
    """

    def __init__(self, content: Content, done: RowSet) -> None:
        self._content = content
        self._done = RowSet(done)
        self._parts: dict[int, tuple[int, Array, int]] = {}
        """First row of a block: its end, its digests, and how many of them are yet to be taken."""
        self._lock = Lock()
        rows = content.rows
        self.rows: Source | Rows = _Tapped(rows, self._put) if isinstance(rows, Source) else rows
        """To be sent."""

    def take(self, start: int, stop: int) -> bytes:
        """The digests of some rows, once."""
        if not isinstance(self.rows, Source):
            return self._content.digests_of(start, stop)
        with self._lock:
            return b"".join(self._taken(start, stop))

    def _put(self, row: int, block: Block) -> None:
        end = row + count_rows(block.rows)
        if left := sum(stop - start for start, stop in self._done.gaps(row, end)):
            digests = row_digests(block.rows, block.ids)
            with self._lock:
                self._parts[row] = (end, digests, left)

    def _taken(self, start: int, stop: int) -> Iterator[bytes]:
        # Few blocks are open at a time: those that the window of the run spans.
        for first, (end, digests, left) in sorted(self._parts.items()):
            a, b = max(first, start), min(end, stop)
            if a < b:
                yield digests[a - first : b - first].tobytes()
                if left == b - a:
                    del self._parts[first]
                else:
                    self._parts[first] = (end, digests, left - (b - a))


class _Tapped(Source):
    """A source that shows its blocks to somebody else as they are read."""

    def __init__(self, source: Source, put: Any) -> None:
        self._source, self._put = source, put
        self.n_rows, self.uniform, self.files = source.n_rows, source.uniform, source.files

    def blocks(self) -> Iterator[Block]:
        return self.blocks_from(0)

    def blocks_from(self, row: int) -> Iterator[Block]:
        for block in self._source.blocks_from(row):
            self._put(row, block)
            row += count_rows(block.rows)
            yield block

    def fingerprint(self) -> dict[str, Any] | None:
        return self._source.fingerprint()
