"""The journal of one run, as the process that owns it writes it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import orjson

from fanout.errors import ConfigError
from fanout.files import PRIVATE, START_FRESH, make_folder, open_locked, sync_folder, write_at
from fanout.io.journal.records import Damaged, record
from fanout.io.journal.state import (
    COMPLETE,
    State,
    again_payload,
    end_payload,
    group_payload,
    head_payload,
    identity_payload,
    read_digests,
    read_state,
    sent_payload,
    successor_payload,
)
from fanout.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from fanout.files import Publication
    from fanout.types import Array, ChunkResult, Failure, Schema

_KEY = "output.path"
_GO_ON = "put that back to go on with it, or"
_CARRY = "keep its answers to rows of the same id and content with fanout run --carry (carry=True), or"
_INPUT = "input"
_GROUP_ROWS = 2**17
"""The digests of more rows than these are written in several records: one that is torn has a bounded length."""


class Rows(Protocol):
    """The rows of the input as it is now."""

    @property
    def n_rows(self) -> int | None:
        """How many there are, if that is known."""

    def differing(self, known: RowSet, digests: Array) -> RowSet:
        """Those of the rows in ``known`` that do not have the digest ``digests[row]``. Blocking."""


class Journal:
    """An append-only file of what is done, believed after a kill or a crash, and owned by one process at a time.

    Args:
        path: the journal's file; see `journal_path`.
        identity: identifies the run; JSON. Rows that are done for one identity are no use to another.
        fresh: forget what is there.
        rows: the input's rows, to be compared with those that were sent where the identity of the input is another:
            if only times of change are, and no row that is done differs, it is the same input.
        carry: do not refuse another input, so that answers to equal rows can be carried over. See `carrying`.

    Raises:
        ConfigError: another process has it; it is of an unfinished run with another identity; it is damaged; it cannot
            be written.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        fresh: bool = False,
        rows: Rows | None = None,
        carry: bool = False,
    ) -> None:
        self.path = path.resolve()
        self.earlier = 0
        """Rows that were done when it was opened."""
        self.state: State
        self.retry: State | None = None
        """Beside the state of a complete run: how far sending its failed rows again has come."""
        self.carrying: Mapping[str, Any] | None = None
        """The identity of the run that the answers of `state`, a run of another input, are to be carried over to."""
        self.digest_of: Callable[[int, int], bytes] | None = None
        """Gives the digests of some rows as they are committed, `DIGEST_BYTES` each."""
        self._fd = -1
        self._broken = False
        try:
            make_folder(self.path.parent)
            self._fd = open_locked(self.path, PRIVATE)
            identity = orjson.loads(orjson.dumps(identity))  # as it will be read: a tuple becomes a list
            self._open(identity, fresh=fresh, rows=rows, carry=carry)
        except OSError as error:
            self.close()
            raise self._refusal(error) from None
        except BaseException:
            self.close()
            raise

    def begin(self, identity: Mapping[str, Any] | None = None) -> None:
        """Forget all rows: a run from the first one, of another identity if one is given.

        What is on the disk stays until a row of the new run is done; but rows that are not published yet are forgotten
        there too, before anything is written over them.
        """
        old, lost = self.state, not self.state.complete and self.state.number > 0
        replaced = old.files(self.path.parent)
        # The same identity is that of an input of as many rows, which `fanout status` shows.
        fresh = State(old.identity, n_rows=old.n_rows) if identity is None else State(identity)
        self.state, self.earlier = replace(fresh, replaced=replaced), 0
        self.carrying = None
        if lost:
            self._rewrite([head_payload(self.state)])
        elif self.retry is not None:
            self._rewrite_complete(old)
            self.state = State(self.state.identity, replaced=replaced)
        self.retry = None

    def begin_again(self, notes: Sequence[Any]) -> None:
        """Forget the failures alone: their rows are to be sent again. ``notes`` are the sink's, of the other rows.

        Until they have been, the run counts as complete to all who do not ask for this.
        """
        old = self.state
        self._append(again_payload(notes))
        self.state = State(
            old.identity, old.ok, schema=old.schema, n_rows=old.n_rows, before=old, size=old.size, number=old.number
        )
        self.earlier = len(self.state.resolved)

    def go_on_again(self) -> None:
        """Go on with sending the failed rows of a complete run again."""
        assert self.retry is not None
        self.state = replace(self.retry, size=self.state.size, number=self.state.number)
        self.retry = None
        self.earlier = len(self.state.resolved)

    def forget_retry(self) -> None:
        """Become complete again, as before the failed rows were sent again. Raises `OSError`."""
        before = self.state.before
        assert before is not None
        self._rewrite_complete(before)
        self.state = replace(before, size=self.state.size, number=self.state.number)

    def _rewrite_complete(self, state: State) -> None:
        assert state.publication is not None
        whole = [end_payload(state.n_rows or 0, state.publication, self.path.parent), COMPLETE]
        self._rewrite([*_payloads(state, [], self.digests()), *whole])

    def carry(self, state: State, notes: Sequence[Any], digests: Array | None, files: Publication) -> None:
        """Become the journal of another run, some rows of which are done. Durable on return.

        Args:
            state: of the other run.
            notes: the sink's.
            digests: of its rows; only those of rows that are done count. None: they are not known.
            files: take their names in one step with this journal.

        Raises `OSError`.
        """
        pieces = () if digests is None else _pieces(state.resolved)
        known = ((start, stop, digests[start:stop].tobytes()) for start, stop in pieces if digests is not None)
        self._rewrite(_payloads(state, notes, known), files)
        size, number = self.state.size, self.state.number
        self.state, self.carrying, self.earlier = replace(state, size=size, number=number), None, len(state.resolved)
        self.retry = None

    def commit(self, done: Sequence[ChunkResult], note: Any, schema: Schema | None) -> None:
        """Note that chunks are done: their data must be on the disk. Durable on return. Raises `OSError`, finally."""
        rows = RowSet()
        failures: list[Failure] = []
        for chunk in done:
            rows.add(chunk.start, chunk.stop)
            for pending in chunk.pending:
                rows.remove(pending.start, pending.stop)
            failures += chunk.failures
        news = schema if self.state.schema is None else None
        self._append(group_payload(rows, failures, note, news, self._digests_of(rows)))
        self.state.schema = self.state.schema or schema
        for start, stop in rows:
            self.state.resolved.add(start, stop)
        self.state.failures += failures

    def notes(self) -> list[Any]:
        """What the sink noted, in order. Read from the file: in the long run they are too many to be kept."""
        there = read_state(self.path) if self.state.number else None
        if there is not None and self.state.complete:
            there = there.before or there
        return there.notes if there else []

    def digests(self) -> Iterator[tuple[int, int, bytes]]:
        """Start, stop and digests of rows that were sent, in the order of the journal. Read from the file."""
        return read_digests(self.path) if self.state.number else iter(())

    def sent(self) -> tuple[Array, RowSet]:
        """The digests of rows that were sent, shape (rows, 2), and which rows have one. Read from the file."""
        return _sent(self.state, self.path) if self.state.number else (np.zeros((0, 2), np.uint64), RowSet())

    def compared(self, rows: Rows) -> Comparison:
        """The rows that are done, beside those of the input as it is now. Blocking."""
        return Comparison(self.state, self.sent(), rows)

    @property
    def replaced(self) -> list[Path]:
        """Files of earlier runs that have to go where this one has no such file."""
        return [self.path.parent / name for name in self.state.replaced]

    def publish(self, n_rows: int, publication: Publication) -> None:
        """All rows are done: give the files their names. Durable on return, and taken up again after a kill."""
        self._append(end_payload(n_rows, publication, self.path.parent))
        self.state.n_rows, self.state.publication = n_rows, publication
        self.finish()

    def finish(self) -> None:
        """Carry the publication out that was begun."""
        assert self.state.publication is not None
        self.state.publication.carry_out()
        self._append(COMPLETE)
        self.state.complete, self.state.before = True, None

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            if not os.fstat(self._fd).st_size:  # nothing has come of the run
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<Journal {self.path.name} {len(self.state.resolved):,} rows done>"

    def _open(self, identity: Mapping[str, Any], *, fresh: bool, rows: Rows | None, carry: bool) -> None:
        self.state = State(identity)
        try:
            there = read_state(self.path)
        except (Damaged, ValueError, KeyError, TypeError) as error:
            if not fresh:
                raise ConfigError(f"{self.path} is damaged: {error}; {START_FRESH}", key=_KEY) from None
            there = State(identity, number=1)
        if there is None:
            return
        if there.successor is not None:
            self._succeed(there.successor)
            self._open(identity, fresh=fresh, rows=rows, carry=carry)
        elif fresh:
            self.state = replace(there, identity=identity, n_rows=there.n_rows if there.identity == identity else None)
            self.begin()
        elif there.identity == identity:
            self._take_over(there)
        else:
            self._open_other(there, identity, rows, carry=carry)

    def _open_other(self, there: State, identity: Mapping[str, Any], rows: Rows | None, *, carry: bool) -> None:
        """Open a journal whose identity is another one."""
        what = _difference(there.identity, identity)
        finished = there.complete or (there.before is not None and there.publication is None)
        comparable = what == _INPUT and rows is not None
        touched = comparable and same_but_for_times(there.identity, identity)
        compared = None
        if rows is not None and (touched or (comparable and not finished and not carry)):
            compared = Comparison(there.before or there, _sent(there, self.path), rows)
        if touched and compared is not None and compared.same:
            self._take_over(there)
            self._append(identity_payload(identity))
            self.state = replace(self.state, identity=identity)
        elif carry:
            self._require_carriable(what, comparable=comparable)
            self._take_over(there)
            self.carrying = identity
        elif finished:
            self._take_over(there)
            self.begin(identity)
        else:
            refused = f"{self.path} is of an unfinished run with another {what}"
            detail = f" ({compared.text})" if compared is not None else ""
            remedies = " ".join([_GO_ON, *([_CARRY] if compared is not None else []), START_FRESH])
            raise ConfigError(f"{refused}{detail}; {remedies}", key=_KEY)

    def _require_carriable(self, what: str, *, comparable: bool) -> None:
        if not comparable:
            reason = f"it is of a run with another {what}" if what != _INPUT else "these rows can be read only once"
            raise ConfigError(f"answers of {self.path} cannot be carried over: {reason}; {START_FRESH}", key=_KEY)

    def _take_over(self, there: State) -> None:
        os.ftruncate(self._fd, there.size)  # a torn end may be longer than the record that is written over it
        if not there.complete:
            # Who wrote it may have been killed before its own fsync: what is believed from now on has to stay true.
            os.fsync(self._fd)
            sync_folder(self.path.parent)
        there = replace(there, notes=[])
        if there.before is not None and there.publication is None:
            self.retry, there = (
                there,
                replace(there.before, identity=there.identity, notes=[], size=there.size, number=there.number),
            )
        self.state, self.earlier = there, len(there.resolved)

    def _succeed(self, files: Publication) -> None:
        """Let the new journal, which is whole, take the place of this one, and the files with it take their names."""
        files.carry_out()
        fd = open_locked(self._new_path, PRIVATE)
        self._new_path.replace(self.path)
        os.close(self._fd)
        self._fd = fd
        sync_folder(self.path.parent)

    @property
    def _new_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.new")

    def _refusal(self, error: OSError) -> ConfigError:
        if isinstance(error, BlockingIOError):
            return ConfigError(f"another run is writing {self.path} at this moment", key=_KEY)
        return ConfigError(f"{self.path} cannot be written: {error.strerror or error}", key=_KEY)

    def _digests_of(self, rows: RowSet) -> bytes:
        """The digests to write into the record of some rows; too many have records of their own, which come first."""
        if self.digest_of is None:
            return b""
        if len(rows) <= _GROUP_ROWS:
            return b"".join(self.digest_of(start, stop) for start, stop in rows)
        for start, stop in _pieces(rows):
            self._append(sent_payload(start, stop, self.digest_of(start, stop)))
        return b""

    def _append(self, payload: bytes) -> None:
        if self._broken:
            raise OSError(errno.EIO, "an earlier write to it has failed", str(self.path))
        self._broken = True  # until this write is proven
        if not self.state.number:
            self._rewrite([head_payload(self.state)])
        try:
            size = write_at(self._fd, record(self.state.number, payload), self.state.size)
            os.fsync(self._fd)
        except OSError:
            # It would be read from memory for as long as the machine is up, and be gone later.
            with suppress(OSError):
                os.ftruncate(self._fd, self.state.size)
            raise
        self.state.size = size
        self.state.number += 1
        self._broken = False

    def _rewrite(self, payloads: Iterable[bytes], files: Publication | None = None) -> None:
        """Another content in one step, and other ``files`` with it: after a crash all are the old ones or the new."""
        fd, size, number = open_locked(self._new_path, PRIVATE), 0, 0
        try:
            os.ftruncate(fd, 0)
            for number, payload in enumerate(payloads, 1):
                size = write_at(fd, record(number - 1, payload), size)
            os.fsync(fd)
            if files is not None and files.moves:
                sync_folder(self.path.parent)
                self._append(successor_payload(files, self.path.parent))
                files.carry_out()
            self._new_path.replace(self.path)
        except OSError:
            if files is None or not files.moves:  # else it may be the successor already
                self._new_path.unlink(missing_ok=True)
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self.state.number, self.state.size = number, size
        sync_folder(self.path.parent)


def _sent(state: State, path: Path) -> tuple[Array, RowSet]:
    end = max((stop for _, stop in state.resolved), default=0)
    digests, known = np.zeros((end, 2), np.uint64), RowSet()
    for start, stop, data in read_digests(path):
        if stop <= end:
            digests[start:stop] = np.frombuffer(data, "<u8").reshape(-1, 2)
            known.add(start, stop)
    return digests, known


class Comparison:
    """The rows that a run has sent, beside those that the input has now.

    Args:
        state: of the run.
        sent: the digests of rows that were sent, and which rows these are.
        rows: the input's.
    """

    def __init__(self, state: State, sent: tuple[Array, RowSet], rows: Rows) -> None:
        digests, known = sent
        self._done = state.resolved
        self._complete = all(known.gap(start, stop) is None for start, stop in state.resolved)
        self._n_rows = state.n_rows, rows.n_rows
        self._differing = rows.differing(state.resolved, digests) if self._complete else RowSet()

    @property
    def same(self) -> bool:
        """True if no row that was sent differs, and there are as many rows as before, as far as that is known."""
        before, now = self._n_rows
        return self._complete and not self._differing and (None in (before, now) or before == now)

    @property
    def text(self) -> str:
        """The rows that differ, for people."""
        before, now = self._n_rows
        lengths = (
            f"it has {now:,} rows in place of {before:,}, and " if None not in (before, now) and before != now else ""
        )
        if not self._complete:
            return f"{lengths}which rows differ is not known"
        if self._differing:
            return f"{lengths}of the {len(self._done):,} rows that are done {self._differing.listed()} differ"
        rest = "" if lengths else f"; it differs in rows that are not: {_rest(self._done, now).listed()}"
        return f"{lengths}the {len(self._done):,} rows that are done are the same{rest}"


def _rest(done: RowSet, n_rows: int | None) -> RowSet:
    end = max((stop for _, stop in done), default=0)
    return RowSet(done.gaps(0, end + 1 if n_rows is None else n_rows))


def _payloads(state: State, notes: Sequence[Any], digests: Iterable[tuple[int, int, bytes]]) -> Iterator[bytes]:
    """The records of a journal that has come to ``state``."""
    yield head_payload(state)
    for note in notes:
        yield group_payload((), note=note)
    for start, stop, data in digests:
        yield sent_payload(start, stop, data)
    yield group_payload(state.resolved, state.failures, schema=state.schema)


def _pieces(rows: RowSet) -> Iterator[tuple[int, int]]:
    for start, stop in rows:
        for at in range(start, stop, _GROUP_ROWS):
            yield at, min(at + _GROUP_ROWS, stop)


def same_but_for_times(identity: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if two identities are the same, or differ in the times of change of their files alone."""
    return bool(_without_times(identity) == _without_times(other))


def _without_times(value: Any) -> Any:
    """An identity less the times of change of files."""
    if isinstance(value, Mapping):
        return {key: _without_times(part) for key, part in value.items() if key != "mtime_ns"}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return " and ".join(key for key in (*old, *(k for k in new if k not in old)) if old.get(key) != new.get(key))
