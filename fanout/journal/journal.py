"""The journal of one run, as the process that owns it writes it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from fanout.errors import ConfigError
from fanout.files import ANEW, PRIVATE, make_folder, open_locked, sync_folder, write_at
from fanout.journal.records import Damaged, record
from fanout.journal.state import COMPLETE, State, end_payload, group_payload, head_payload, read_state
from fanout.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.files import Publication
    from fanout.types import Done, Failure, Form

_KEY = "output.path"
_GO_ON = "put that back to go on with it, or"


class Journal:
    """An append-only file of what is done, believed after a kill or a crash, and owned by one process at a time.

    Args:
        path: the journal's file; see `journal_path`.
        identity: what the run is of; JSON. Rows that are done for one identity are no use to another.
        fresh: forget what is there.

    Raises:
        ConfigError: another process has it; it is of an unfinished run with another identity; it is damaged; it cannot
            be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path.resolve()
        self.earlier = 0
        """Rows that were done when it was opened."""
        self.state: State
        self._fd = -1
        self._broken = False
        try:
            make_folder(self.path.parent)
            self._fd = open_locked(self.path, PRIVATE)
            self._open(orjson.loads(orjson.dumps(identity)), fresh=fresh)  # as it will be read: a tuple becomes a list
        except OSError as error:
            self.close()
            raise self._refusal(error) from None
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Forget all rows: a run from the first one.

        What is on the disk stays until a row of the new run is done; but rows that are not published yet are forgotten
        there too, before anything is written over them.
        """
        lost = not self.state.complete and self.state.number > 0
        self.state, self.earlier = State(self.state.identity), 0
        if lost:
            self._rewrite([head_payload(self.state)])

    def begin_again(self, notes: Sequence[Any]) -> None:
        """Forget the failures alone: their rows are to be sent again. ``notes`` are the sink's, of the other rows."""
        old, ok = self.state, self.state.ok
        self.state = State(old.identity, resolved=ok, form=old.form, n_rows=old.n_rows)
        noted = [group_payload((), (), note, None) for note in notes]
        self._rewrite([head_payload(self.state), *noted, group_payload(ok, (), None, old.form)])
        self.earlier = len(ok)

    def commit(self, done: Sequence[Done], note: Any, form: Form | None) -> None:
        """Note that chunks are done: their data must be on the disk. Durable on return. Raises `OSError`, finally."""
        rows = RowSet()
        failures: list[Failure] = []
        for chunk in done:
            rows.add(chunk.start, chunk.stop)
            for pending in chunk.pending:
                rows.remove(pending.start, pending.stop)
            failures += chunk.failures
        news = form if self.state.form is None else None
        self._append(group_payload(rows, failures, note, news))
        self.state.form = self.state.form or form
        for start, stop in rows:
            self.state.resolved.add(start, stop)
        self.state.failures += failures

    def notes(self) -> list[Any]:
        """What the sink noted, in order. Read from the file: in the long run they are too many to be kept."""
        there = read_state(self.path) if self.state.number else None
        return there.notes if there else []

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
        self.state.complete = True

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            if not os.fstat(self._fd).st_size:  # nothing has come of the run
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<Journal {self.path.name} {len(self.state.resolved):,} rows done>"

    def _open(self, identity: Mapping[str, Any], *, fresh: bool) -> None:
        self.state = State(identity)
        try:
            there = read_state(self.path)
        except (Damaged, ValueError, KeyError, TypeError) as error:
            if not fresh:
                raise ConfigError(f"{self.path} is damaged: {error}; {ANEW}", key=_KEY) from None
            there = State(identity, number=1)
        if there is None:
            return
        if fresh or (there.complete and there.identity != identity):
            self.state = replace(there, identity=identity)
            self.begin()
        elif there.identity != identity:
            what = _difference(there.identity, identity)
            raise ConfigError(f"{self.path} is of an unfinished run with another {what}; {_GO_ON} {ANEW}", key=_KEY)
        else:
            self._take_over(there)

    def _take_over(self, there: State) -> None:
        os.ftruncate(self._fd, there.size)  # a torn end may be longer than the record that is written over it
        if not there.complete:
            # Who wrote it may have been killed before its own fsync: what is believed from now on has to stay true.
            os.fsync(self._fd)
            sync_folder(self.path.parent)
        self.state, self.earlier = replace(there, notes=[]), len(there.resolved)

    def _refusal(self, error: OSError) -> ConfigError:
        if isinstance(error, BlockingIOError):
            return ConfigError(f"another run is writing {self.path} at this moment", key=_KEY)
        return ConfigError(f"{self.path} cannot be written: {error.strerror or error}", key=_KEY)

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

    def _rewrite(self, payloads: Sequence[bytes]) -> None:
        """Another content in one step: after a crash it is the old one or the new one, whole."""
        anew = self.path.with_name(f"{self.path.name}.new")
        fd = open_locked(anew, PRIVATE)
        try:
            os.ftruncate(fd, 0)
            size = write_at(fd, b"".join(record(number, payload) for number, payload in enumerate(payloads)), 0)
            os.fsync(fd)
            anew.replace(self.path)
        except OSError:
            anew.unlink(missing_ok=True)
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self.state.number, self.state.size = len(payloads), size
        sync_folder(self.path.parent)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return " and ".join(key for key in (*old, *(k for k in new if k not in old)) if old.get(key) != new.get(key))
