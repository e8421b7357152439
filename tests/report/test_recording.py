"""A recording survives kills and stays small, however often its run is restarted."""

from __future__ import annotations

import asyncio
import stat

import msgspec
import pytest

from fanout import Statistics
from fanout.report import RunRecorder
from fanout.report.recording import (
    BYTES_PER_HOUR,
    Note,
    RecordingFile,
    Sample,
    Session,
    Totals,
    read_recording,
)
from fanout.statistics import Latencies

HEAD = Session(1000.0, 10, 0, {"Job": {"input": "x.npy"}})
SAMPLE = Sample(0.5, 4, 0, 0, 0, 0, 2, 16, (0.1, 0.2, 0.3), (3,), {"tokens": 5})
TOTALS = Totals(1.0, 10, 0, 0, [(3, 1)], 2, 5, 6, [], [], {}, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "y.npy.report.jsonl"


def record(path, *lines, fresh=True, now=1000.0):
    file = RecordingFile(path, fresh=fresh, now=now)
    file.append(*lines)
    file.close()


def test_sessions_are_read_as_they_were_written(path):
    record(path, HEAD, SAMPLE, Note(0.6, "pause", 1.0, "HTTP 429"), TOTALS)
    record(path, msgspec.structs.replace(HEAD, earlier=10), SAMPLE, fresh=False)
    first, second = read_recording(path)
    assert (first.session, first.samples, first.totals) == (HEAD, [SAMPLE], TOTALS)
    assert first.notes == [Note(0.6, "pause", 1.0, "HTTP 429")]
    assert (second.session.earlier, second.samples, second.totals) == (10, [SAMPLE], None)


def test_a_new_run_begins_a_new_recording(path):
    record(path, HEAD, SAMPLE)
    record(path, HEAD)
    (session,) = read_recording(path)
    assert session.samples == []


def test_a_torn_line_costs_itself_alone(path):
    record(path, HEAD, SAMPLE, TOTALS)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        record(path, HEAD, SAMPLE, fresh=False)
        sessions = read_recording(path)
        assert sessions[-1].session == HEAD
        assert sessions[-1].samples == [SAMPLE]


DEEP = b"[[" * 100_000


@pytest.mark.parametrize(
    "line", [b"null", b"[]", b'["sample"]', b'["other",1]', b"{", b"\xff", b'["note",1,2,3,4]', DEEP]
)
def test_lines_of_another_form_are_left_out(path, line):
    record(path, HEAD)
    path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")
    (session,) = read_recording(path)
    assert session.session == HEAD


def test_it_is_for_its_owner_alone_and_follows_no_link(path, tmp_path):
    record(path, HEAD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        RecordingFile(tmp_path / "link", fresh=True, now=0.0)


def test_a_run_that_is_restarted_every_second_stays_within_64_kib_an_hour(path):
    for n in range(600):
        file = RecordingFile(path, fresh=not n, now=1000.0 + n)
        file.append(msgspec.structs.replace(HEAD, began=1000.0 + n, facts={"Job": {"input": "x" * 300}}), SAMPLE)
        if file.has_room(1000.0 + n):
            file.append(*[SAMPLE] * 10)
        file.append(TOTALS)
        file.close()
        assert path.stat().st_size < BYTES_PER_HOUR + 2**12
    assert read_recording(path)[-1].totals == TOTALS


class Quick:
    """A client with a row more at each look at it."""

    n = 0

    def statistics(self):
        self.n += 1
        return Statistics(rows=self.n, ok=self.n)

    def latencies(self):
        return Latencies()


@pytest.mark.virtual_time
async def test_samples_that_come_quickly_are_written_together(path, monkeypatch):
    writes = []
    write = RecordingFile.append

    def counted(file, *lines):
        writes.append(lines)
        write(file, *lines)

    monkeypatch.setattr(RecordingFile, "append", counted)
    recorder = RunRecorder(path, str, facts={}, limit=1)
    async with recorder.session(Quick(), rows=None, earlier=0):
        await asyncio.sleep(4.05)
    (session,) = read_recording(path)
    assert len(session.samples) == 41  # one in 0.1 s, and the last
    assert session.totals is not None
    assert len(writes) <= 6
