"""The journal of a run: after a stop it holds the rows that are done, of that run and no other."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout.errors import ConfigError
from fanout.io.journal import format as format_module
from fanout.io.journal import journal as journal_module
from fanout.io.journal import opening as opening_module
from fanout.io.journal.format import read_state
from fanout.io.journal.journal import Journal
from fanout.io.journal.records import Damaged, record
from fanout.io.journal.state import JournalState, RecordedJob
from fanout.io.publication import Publication
from fanout.results import ChunkResult, Failure
from fanout.rows import RowSet
from fanout.types import Chunk
from tests.devices import like_null
from tests.support import records

if TYPE_CHECKING:
    from pathlib import Path

    from fanout.io.journal.comparison import SentDigests

IDENTITY = {"input": {"size": 3}, "codec": "json", "path": "/v1"}
FORM = {"": (np.dtype("f4"), (10,)), "text": (np.dtypes.StringDType(), ())}


def done(start: int, stop: int, **extra: Any) -> ChunkResult:
    return ChunkResult(start=start, stop=stop, outputs=None, **extra)


def failure(start: int, stop: int, **extra: Any) -> Failure:
    return Failure(
        start=start, stop=stop, reason="no", status=422, attempts=2, endpoint="http://host/", **{"ids": (), **extra}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "y.npy.journal"


def begun(path: Path) -> None:
    journal = Journal(path, IDENTITY)
    journal.state.n_rows = 100
    journal.commit([done(0, 10), done(20, 30, pending=(Chunk(25, 26),))], [1, 2], FORM)
    journal.commit([done(10, 20, failures=(failure(12, 14, ids=("a", 7)),))], [3], FORM)
    journal.close()


def test_the_next_process_knows_the_rows_that_are_done(path: Path) -> None:
    begun(path)
    journal = Journal(path, IDENTITY)
    state = journal.state
    assert list(state.resolved) == [(0, 25), (26, 30)]
    assert list(state.ok) == [(0, 12), (14, 25), (26, 30)]
    assert state.failures == [failure(12, 14, ids=("a", 7))]
    assert (state.schema, journal.notes(), state.n_rows, journal.resumed_rows) == (FORM, [[1, 2], [3]], 100, 29)
    assert repr(journal) == "<Journal y.npy.journal 29 rows done>"
    journal.close()


def test_a_journal_in_which_nothing_was_done_leaves_no_file(path: Path) -> None:
    Journal(path, IDENTITY).close()
    assert not path.exists()
    assert read_state(path) is None


def test_a_second_process_is_refused(path: Path) -> None:
    journal = Journal(path, IDENTITY)
    code = (
        f"from pathlib import Path; from fanout.io.journal.journal import Journal; Journal(Path({str(path)!r}), {{}})"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another run is writing" in second.stderr
    journal.commit([done(0, 1)], None, None)  # the file is a new one from here on
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another run is writing" in second.stderr
    journal.close()


def test_another_identity_under_an_unfinished_run_is_refused_with_the_keys_that_differ(path: Path) -> None:
    begun(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"unfinished run with another input and path; put that back.* --fresh"):
        Journal(path, {**IDENTITY, "input": {"size": 4}, "path": "/v2"})
    assert path.read_bytes() == before
    journal = Journal(path, {**IDENTITY, "path": "/v2"}, fresh=True)
    assert (len(journal.state.resolved), journal.resumed_rows) == (0, 0)
    journal.close()


def test_a_fresh_run_forgets_on_the_disk_before_its_output_is_touched(path: Path) -> None:
    begun(path)
    Journal(path, IDENTITY, fresh=True).close()
    state = read_state(path)
    assert state is not None
    assert len(state.resolved) == 0


@pytest.mark.parametrize(("identity", "n_rows"), [(IDENTITY, 100), ({**IDENTITY, "input": {"size": 4}}, None)])
def test_a_fresh_run_of_the_same_input_keeps_its_number_of_rows(path: Path, identity: Any, n_rows: int | None) -> None:
    begun(path)
    Journal(path, identity, fresh=True).close()
    state = read_state(path)
    assert state is not None
    assert state.n_rows == n_rows


def test_damage_is_refused_and_a_fresh_run_gets_over_it(path: Path) -> None:
    begun(path)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"y\.npy\.journal is damaged: record 0.* --fresh"):
        Journal(path, IDENTITY)
    Journal(path, IDENTITY, fresh=True).close()
    journal = Journal(path, IDENTITY)
    assert journal.resumed_rows == 0
    journal.close()


def test_records_of_a_killed_process_are_made_durable_before_they_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(path)
    synced = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    journal = Journal(path, IDENTITY)
    assert path.stat().st_ino in synced
    journal.close()


def test_a_torn_end_is_cut_and_written_over(path: Path) -> None:
    begun(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal(path, IDENTITY)
        assert journal.resumed_rows in (0, 19, 29)
        journal.commit([done(50, 60)], None, FORM)
        journal.close()
        state = read_state(path)
        assert state is not None
        assert len(state.resolved) == journal.resumed_rows + 10


def test_a_publication_that_was_broken_off_is_carried_out_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, final = path.with_name("y.npy.partial"), path.with_name("y.npy")
    temporary.write_bytes(b"whole")
    begun(path)
    journal = Journal(path, IDENTITY)
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "carry_out", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O")))
        with pytest.raises(OSError, match="I/O"):
            journal.publish(100, Publication(((temporary, final),)))
    assert not journal.state.complete
    journal.close()
    moved = path.parent / "moved"
    moved.mkdir()
    for file in (path, temporary):
        file.rename(moved / file.name)
    journal = Journal(moved / path.name, IDENTITY)
    assert not journal.state.complete
    journal.finish_publication()
    assert (moved / "y.npy").read_bytes() == b"whole"
    journal.close()
    state = read_state(moved / path.name)
    assert state is not None
    assert state.complete


def test_a_complete_run_stays_known_until_a_row_of_another_is_done(path: Path) -> None:
    begun(path)
    journal = Journal(path, IDENTITY)
    journal.publish(100, Publication())
    journal.close()
    other = Journal(path, {"input": "another"})
    other.close()
    state = read_state(path)
    assert state is not None
    assert (state.identity, state.complete) == (IDENTITY, True)
    other = Journal(path, {"input": "another"})
    other.commit([done(0, 5)], None, None)
    other.close()
    state = read_state(path)
    assert state is not None
    assert (state.identity, len(state.resolved)) == ({"input": "another"}, 5)


def test_the_failures_alone_can_be_forgotten(path: Path) -> None:
    begun(path)
    journal = Journal(path, IDENTITY)
    journal.publish(30, Publication())
    journal.begin_retry([[9]])
    journal.close()
    state = read_state(path)
    assert state is not None
    assert (list(state.resolved), state.failures) == ([(0, 12), (14, 25), (26, 30)], [])
    assert (state.notes, state.schema, state.complete, state.n_rows) == ([[9]], FORM, False, 30)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        Journal(tmp_path / "file" / "y.journal", IDENTITY)


class Rows:
    """Rows of an input whose digests are given."""

    def __init__(self, digests: np.ndarray) -> None:
        self.now = digests
        self.n_rows = len(digests)

    def fingerprint(self, method: str) -> Any:
        raise AssertionError("the journal is not of an earlier release")

    def differing(self, known: RowSet, sent: SentDigests, n_rows: int | None = None) -> RowSet:
        rows = [row for a, b in known for row in range(a, b)]
        return RowSet((r, r + 1) for r in rows if r >= len(self.now) or (self.now[r] != sent.digests[r]).any())


DIGESTS = np.arange(200, dtype=np.uint64).reshape(100, 2)
FILE = {"size": 3, "mtime_ns": 1, "sample": "a"}


def sent(path: Path) -> None:
    journal = Journal(path, {**IDENTITY, "input": FILE})
    journal.state.n_rows = 100
    journal.digests_of = lambda start, stop: DIGESTS[start:stop].tobytes()
    journal.commit([done(20, 30), done(0, 10, failures=(failure(3, 4),))], None, FORM)
    journal.commit([done(10, 20, pending=(Chunk(12, 14),))], None, FORM)
    journal.close()


def test_the_digests_of_rows_are_read_as_they_were_written(path: Path) -> None:
    sent(path)
    journal = Journal(path, {**IDENTITY, "input": FILE})
    digests, known, _ = journal.sent()
    assert list(known) == [(0, 12), (14, 30)]
    assert np.array_equal(digests[0:12], DIGESTS[0:12])
    assert np.array_equal(digests[14:30], DIGESTS[14:30])
    journal.close()


def test_digests_of_a_method_that_only_a_later_release_knows_are_refused(path: Path) -> None:
    sent(path)
    payloads = records(path.read_bytes())[0]
    payloads[0] = payloads[0].replace(b'"method":"xxh3"', b'"method":"xxh9"')
    path.write_bytes(b"".join(record(number, payload) for number, payload in enumerate(payloads)))
    with pytest.raises(ConfigError, match=r"a later release of fanout wrote it \(digests by xxh9\)"):
        Journal(path, {**IDENTITY, "input": FILE})


def test_the_digests_of_many_rows_have_records_of_a_bounded_length(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "DIGESTS_PER_RECORD", 7)
    monkeypatch.setattr(format_module, "DIGESTS_PER_RECORD", 7)
    sent(path)
    journal = Journal(path, {**IDENTITY, "input": FILE})
    digests, known, _ = journal.sent()
    assert list(known) == [(0, 12), (14, 30)]
    assert np.array_equal(digests[14:30], DIGESTS[14:30])
    assert max(map(len, records(path.read_bytes())[0])) < 400
    journal.close()


def test_a_file_may_be_touched_if_no_row_changes(path: Path) -> None:
    sent(path)
    touched = {**IDENTITY, "input": {**FILE, "mtime_ns": 2}}
    with pytest.raises(ConfigError, match="unfinished run with another input; put that back"):
        Journal(path, touched)
    edited = DIGESTS.copy()
    edited[[3, 13, 25], 1] += 1
    with pytest.raises(
        ConfigError, match=r"another input \(of the 28 rows that are done, these differ: 3, 25\).* --carry"
    ):
        Journal(path, touched, rows=Rows(edited))
    edited = DIGESTS.copy()
    edited[13] = 0  # not sent yet: it is as it is now
    journal = Journal(path, touched, rows=Rows(edited))
    assert journal.resumed_rows == 28
    journal.close()
    journal = Journal(path, touched)
    assert journal.resumed_rows == 28
    journal.close()


def test_a_complete_run_with_failed_rows_that_are_sent_again_is_complete_to_all_others(path: Path) -> None:
    sent(path)
    identity = {**IDENTITY, "input": FILE}
    journal = Journal(path, identity)
    journal.publish(30, Publication())
    journal.begin_retry([[9]])
    journal.commit([done(3, 4)], [10], None)
    journal.close()
    other = Journal(path, identity)
    assert (other.state.complete, [f.start for f in other.state.failures], other.resumed_rows) == (True, [3], 28)
    assert other.notes() == []
    other.resume_retry()
    assert (other.state.complete, other.state.failures, other.resumed_rows) == (False, [], 28)
    assert other.notes() == [[9], [10]]
    other.publish(30, Publication())
    other.close()
    state = read_state(path)
    assert state is not None
    assert (state.complete, state.failures, state.complete_run) == (True, [], None)


def test_the_publication_of_rows_that_were_sent_again_is_carried_out_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, final = path.with_name("y.npy.partial"), path.with_name("y.npy")
    sent(path)
    identity = {**IDENTITY, "input": FILE}
    journal = Journal(path, identity)
    journal.publish(30, Publication())
    journal.begin_retry([])
    journal.commit([done(3, 4)], None, None)
    temporary.write_bytes(b"with the row")
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "carry_out", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O")))
        with pytest.raises(OSError, match="I/O"):
            journal.publish(30, Publication(((temporary, final),)))
    journal.close()
    journal = Journal(path, identity)
    assert (journal.retry, journal.state.complete, journal.state.failures) == (None, False, [])
    journal.finish_publication()
    journal.close()
    assert final.read_bytes() == b"with the row"


def test_failed_rows_may_change_before_they_are_sent_again_and_no_others(path: Path) -> None:
    sent(path)
    journal = Journal(path, {**IDENTITY, "input": FILE})
    journal.publish(30, Publication())
    journal.close()
    changed = DIGESTS[:30].copy()
    changed[3] = 0
    identity = {**IDENTITY, "input": {**FILE, "size": 4}}
    journal = Journal(path, identity, rows=Rows(changed), only_failed=True)
    assert (journal.state.complete, journal.corrected_to) == (True, identity)
    journal.begin_retry([])
    journal.digests_of = lambda start, stop: changed[start:stop].tobytes()
    journal.commit([done(3, 4)], [10], None)
    journal.close()
    state = read_state(path)
    assert state is not None
    assert state.complete_run is not None
    assert (state.identity, state.complete_run.identity) == (identity, {**IDENTITY, "input": FILE})
    # The row that was sent again changes once more: it has to be sent a third time.
    changed[3] = 1
    third = {**IDENTITY, "input": {**FILE, "size": 5}}
    journal = Journal(path, third, rows=Rows(changed), only_failed=True)
    assert (journal.retry, [f.start for f in journal.state.failures]) == (None, [3])
    journal.close()
    for rows, named in ((np.delete(changed, 3, 0), "29 rows in place of 30"), (changed + 1, "differ: 0:3, 4:12")):
        with pytest.raises(ConfigError, match=named):
            Journal(path, {**IDENTITY, "input": {**FILE, "size": 6}}, rows=Rows(rows), only_failed=True)


def test_beginning_anew_forgets_rows_that_were_sent_again_but_not_the_complete_run(path: Path) -> None:
    sent(path)
    journal = Journal(path, {**IDENTITY, "input": FILE})
    journal.publish(30, Publication())
    journal.begin_retry([[9]])
    journal.close()
    Journal(path, {"input": "another"}).close()
    state = read_state(path)
    assert state is not None
    assert (state.complete, state.complete_run, [f.start for f in state.failures]) == (True, None, [3])
    assert state.identity == {**IDENTITY, "input": FILE}


@pytest.mark.parametrize("finished", [False, True])
def test_the_journal_of_another_input_takes_over_in_one_step(
    path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was interrupted after its record is finished by the next process that opens the journal."""
    sent(path)
    old, new = path.with_name("y.npy.partial"), path.with_name("y.npy.rebuilt")
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    identity = {**IDENTITY, "input": {**FILE, "size": 4}}
    journal = Journal(path, identity, rows=Rows(DIGESTS), carry=True)
    assert journal.carry_to == identity
    other = JournalState(identity, RowSet([(0, 5), (7, 9)]), schema=FORM, n_rows=9)
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(Publication, "carry_out", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O")))
            with pytest.raises(OSError, match="I/O"):
                journal.replace_with(other, [[1]], DIGESTS[:9], Publication(((new, old),)))
        else:
            journal.replace_with(other, [[1]], DIGESTS[:9], Publication(((new, old),)))
    journal.close()
    again = Journal(path, identity)
    assert (list(again.state.resolved), again.notes(), again.resumed_rows) == ([(0, 5), (7, 9)], [[1]], 7)
    assert list(again.sent()[1]) == [(0, 5), (7, 9)]
    assert old.read_bytes() == b"new"
    again.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["y.npy.journal", "y.npy.partial"]


def test_a_journal_that_is_no_regular_file_is_not_read(path: Path) -> None:
    """The device would give bytes without end to the status of its job."""
    like_null(path.parent / "null")
    path.symlink_to("null")
    with pytest.raises(Damaged, match="is not a regular file"):
        read_state(path)


def test_the_last_job_of_some_rows_replaces_all_before_it(path: Path) -> None:
    journal = Journal(path, IDENTITY)
    for start, stop, url in ((0, 8, "/whole"), (8, 16, "/others"), (0, 4, "/part"), (0, 8, "/again")):
        journal.record_job(start, stop, RecordedJob(url))
    journal.close()
    state = read_state(path)
    assert state is not None
    assert state.jobs_under_way == {(0, 8): RecordedJob("/again"), (8, 16): RecordedJob("/others")}


@pytest.mark.parametrize("problem", ["damage", "disk"])
def test_a_journal_that_cannot_be_opened_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "y.journal"
    path.write_bytes(b"not a journal at all, and long enough for a header" * 9 if problem == "damage" else b"")
    with monkeypatch.context() as patch:
        if problem == "disk":
            patch.setattr(opening_module, "load_journal", broken)
        with pytest.raises(ConfigError, match="damaged" if problem == "damage" else "Input/output error") as caught:
            Journal(path, {"input": 1})
    path.write_bytes(b"")
    Journal(path, {"input": 1}).close()
    assert caught.value.key == "output.path", "the first journal is in the traceback until here"
