"""The opening of a journal: a new run, one that goes on, or one whose answers another input takes over."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import safe_json
from fanout.errors import ConfigError
from fanout.files import START_FRESH, make_folder
from fanout.io.journal.comparison import (
    Comparison,
    DigestReader,
    difference,
    read_sent,
    same_but_for_times,
    unfinished_run,
)
from fanout.io.journal.format import (
    LoadedJournal,
    head_payload,
    job_payloads,
    load_journal,
    payload,
    read_state,
    state_payloads,
)
from fanout.io.journal.records import Damaged, RecordFile
from fanout.io.journal.state import JournalState, RecordedJob, Spending, Spent
from fanout.io.row_digests import METHOD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fanout.client.identity import Content

_KEY = "output.path"
_INPUT = "input"
_CORRECTED = "only rows that failed may change: put the others back, or send the rows that differ, too, with fanout run"


class OpenedJournal:
    """A journal's file, and the state of the run whose rows count from now on."""

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        fresh: bool = False,
        rows: Content | None = None,
        carry: bool = False,
        only_failed: bool = False,
    ) -> None:
        self.path = path.resolve()
        self.state = JournalState(identity)
        self.resumed_rows = 0
        self.retry: JournalState | None = None
        self.carry_to: Mapping[str, Any] | None = None
        self.corrected_to: Mapping[str, Any] | None = None
        self.digest_method = METHOD
        self.digests_of: Callable[[int, int], bytes] | None = None
        self.spent: Callable[[], Spent] | None = None
        # Answers are committed while a larger allowance is recorded.
        self._lock = Lock()
        try:
            make_folder(self.path.parent)
            self._file = RecordFile(self.path)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._open(_as_read(identity), rows, fresh=fresh, carry=carry, only_failed=only_failed)
        except OSError as error:
            self.close()
            raise self._unwritable(error) from None
        except BaseException:
            self.close()
            raise

    def restart(
        self,
        identity: Mapping[str, Any] | None = None,
        *,
        spent: Spent | None = None,
        jobs: Mapping[tuple[int, int], RecordedJob] | None = None,
    ) -> None:
        """Forget all rows: begin a run at its first row, with another identity if one is given.

        ``spent`` is the spending that counts for the new run, ``jobs`` are those that it goes on waiting for.
        The journal of a complete run stays on the disk until a row of the new run is done. Rows that are not published
        yet are forgotten there at once, before the sink writes over them.
        """
        old, is_unpublished = self.state, not self.state.complete and self._file.number > 0
        # The same identity means an input with the same number of rows, which `fanout status` shows.
        new = JournalState(old.identity, n_rows=old.n_rows) if identity is None else JournalState(identity)
        self.state = replace(new, replaced=old.files(self.path.parent), spending=Spending(spent), jobs=dict(jobs or ()))
        self.resumed_rows, self.carry_to = 0, None
        # The sink is about to overwrite the rows of an unfinished run, which must not count then.
        if is_unpublished:
            self._file.rewrite([head_payload(self.state, self.digest_method), *job_payloads(self.state)])
        else:
            # The rows that were sent again are overwritten too, but the complete run stays.
            if self.retry is not None:
                self._rewrite(old)
            self._file.number = 0
        self.retry = None

    def close(self) -> None:
        """Close the file; remove it if no row was done."""
        self._file.close()

    def __repr__(self) -> str:
        return f"<Journal {self.path.name} {len(self.state.resolved):,} rows done>"

    def _open(
        self, identity: Mapping[str, Any], rows: Content | None, *, fresh: bool, carry: bool, only_failed: bool
    ) -> None:
        self.state = JournalState(identity)
        loaded = self._load(fresh=fresh)
        if loaded is None:
            return
        old = loaded.state
        if fresh:
            self._file.number = loaded.number
            self.state = replace(old, identity=identity, n_rows=old.n_rows if old.identity == identity else None)
            self.restart()
            return
        if rows is not None and loaded.method != METHOD and _INPUT in identity:
            # An earlier release wrote the journal, and identified rows in memory by the digests of that time.
            identity = {**identity, _INPUT: _as_read(rows.fingerprint(loaded.method))}
        self.digest_method = loaded.method
        if old.identity == identity:
            self._resume(loaded)
        else:
            self._open_other(loaded, identity, rows, carry=carry, only_failed=only_failed)

    def _load(self, *, fresh: bool) -> LoadedJournal | None:
        try:
            loaded = load_journal(self.path)
        except (Damaged, ValueError, KeyError, TypeError) as error:
            if not fresh:
                raise ConfigError(f"{self.path} is damaged: {error}; {START_FRESH}", key=_KEY) from None
            # The damaged records count as one of an unfinished run, which is replaced at once.
            return LoadedJournal(self.state, 1, 0)
        if loaded is None or loaded.successor is None:
            return loaded
        # A kill has interrupted `replace_with` after its files were recorded: finish it.
        loaded.successor.carry_out()
        self._file.adopt_rewritten()
        return self._load(fresh=fresh)

    def _open_other(
        self,
        loaded: LoadedJournal,
        identity: Mapping[str, Any],
        rows: Content | None,
        *,
        carry: bool,
        only_failed: bool,
    ) -> None:
        """Open a journal with another identity."""
        old = loaded.state
        other = difference(old.identity, identity)
        if not old.resolved and not old.is_retry and not old.complete:
            # Only an allowance or jobs were recorded, and no answer contradicts the new identity.
            self._resume(loaded)
            if other == _INPUT and rows is not None and old.jobs:
                self.carry_to = identity
            else:
                self.restart(identity, spent=old.charged)
            return
        is_finished = old.complete or old.is_retry
        is_comparable = other == _INPUT and rows is not None
        is_touched = is_comparable and same_but_for_times(old.identity, identity)
        comparison = None
        # Comparing reads the whole input, so it is done only if the result can decide.
        if rows is not None and (is_touched or (is_comparable and not is_finished and not carry)):
            # In a retry, failed rows that are still to be sent may have been corrected: those that are done decide.
            comparison = Comparison(old, read_sent(self.path, old.resolved), rows)
        if is_touched and comparison is not None and comparison.is_same:
            self._resume(loaded)
            self._append(identity=identity)
            self.state = replace(self.state, identity=identity)
        elif carry:
            if not is_comparable:
                reason = "these rows can be read only once"
                if other != _INPUT:
                    reason = f"it is of a run with another {other}"
                problem = f"answers of {self.path} cannot be carried over: {reason}"
                raise ConfigError(f"{problem}; {START_FRESH}", key=_KEY)
            self._resume(loaded)
            self.carry_to = identity
        elif only_failed and is_finished and is_comparable and rows is not None:
            self._open_corrected(loaded, identity, rows)
        elif is_finished:
            self._resume(loaded)
            self.restart(identity)
        else:
            raise unfinished_run(self.path, other, comparison)

    def _open_corrected(self, loaded: LoadedJournal, identity: Mapping[str, Any], rows: Content) -> None:
        """Open the journal of a complete run for an input in which its failed rows have changed."""
        complete_run = loaded.state.complete_run or loaded.state
        sent = read_sent(self.path, complete_run.resolved)
        comparison = Comparison(complete_run, sent, rows, only_ok=True)
        if not comparison.is_same:
            problem = f"the failed rows of {self.path} cannot be sent alone, for the input has changed"
            raise ConfigError(f"{problem} ({comparison.text}); {_CORRECTED} --carry (carry=True)", key=_KEY)
        self._resume(loaded)
        self.corrected_to = identity
        # Rows that were sent again have changed once more: their new answers count no longer.
        if self.retry is not None and not Comparison(self.retry, sent, rows).is_same:
            self.state = replace(complete_run, spending=Spending(self.retry.charged), notes=[])
            self._rewrite(self.state)
            self.retry = None

    def _resume(self, loaded: LoadedJournal) -> None:
        self._file.resume(loaded.number, loaded.size)
        # The process that wrote it may have been killed before its own fsync, and these rows count from now on.
        if not loaded.state.complete:
            self._file.sync()
        # The notes are read again when they are needed.
        state = replace(loaded.state, notes=[])
        if (complete_run := state.in_place) is not state:
            self.retry, state = state, replace(complete_run, identity=state.identity, notes=[])
        # The process that was allowed to spend more has ended, so that its allowance counts as spent.
        self.state = replace(state, spending=Spending(state.charged))
        self.resumed_rows = len(state.resolved)

    def _append(self, behind: bytes = b"", **document: Any) -> None:
        """Append a record with the keys ``document`` and the digests ``behind``; see `payload`."""
        # The first record replaces the journal of an earlier run in one step.
        if not self._file.number:
            self._file.rewrite([head_payload(self.state, self.digest_method)])
        self._file.append(payload(document, behind))

    def _rewrite(self, state: JournalState) -> None:
        """Replace the records by those of a complete run, with its notes and the digests that are there."""
        there, digests = read_state(self.path), DigestReader(self.path)
        notes = [] if there is None else (there.complete_run or there).notes
        self._file.rewrite(state_payloads(state, notes, self.digest_method, digests, self.path.parent))

    def _unwritable(self, error: OSError) -> ConfigError:
        if isinstance(error, BlockingIOError):
            return ConfigError(f"another run is writing {self.path} at this moment", key=_KEY)
        return ConfigError(f"{self.path} cannot be written: {error.strerror or error}", key=_KEY)


def _as_read(value: Any) -> Any:
    """Return a value as it will be read from JSON: a tuple becomes a list."""
    return orjson.loads(safe_json(value))
