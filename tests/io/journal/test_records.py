"""A torn end is cut, other damage is an error, and a flipped record is never read."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io.journal.records import Damaged, RecordFile, RecordReader, record
from tests.support import records

if TYPE_CHECKING:
    from pathlib import Path

PAYLOADS = [b'{"a":1}', b"", b"x" * 100, b"last one"]
WHOLE = [record(number, payload) for number, payload in enumerate(PAYLOADS)]
DATA = b"".join(WHOLE)
ENDS = [sum(map(len, WHOLE[: n + 1])) for n in range(len(WHOLE))]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_records_are_read_as_they_were_written(payloads: list[bytes]) -> None:
    data = b"".join(record(number, payload) for number, payload in enumerate(payloads))
    assert records(data) == (payloads, len(data))


def test_a_torn_end_is_cut_at_every_byte() -> None:
    for size in range(len(DATA)):
        whole = sum(end <= size for end in ENDS)
        assert records(DATA[:size]) == (PAYLOADS[:whole], sum(map(len, WHOLE[:whole])))


def test_a_file_that_another_process_appends_to_is_not_damaged(tmp_path: Path) -> None:
    """It is opened while a record is half written, and read to its end when another one lies behind that."""
    path = tmp_path / "x.journal"
    path.write_bytes(DATA[: ENDS[1] - 3])
    with path.open("rb") as file:
        payloads = iter(RecordReader(file))
        assert next(payloads) == PAYLOADS[0]
        path.write_bytes(DATA)
        assert list(payloads) in ([], PAYLOADS[1:2])


def test_a_flipped_bit_is_an_error_before_a_whole_record_and_cuts_the_last_one() -> None:
    for bit in range(8 * len(DATA)):
        flipped = bytearray(DATA)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 < ENDS[-2]:
            with pytest.raises(Damaged):
                records(bytes(flipped))
        else:
            assert records(bytes(flipped)) == (PAYLOADS[:-1], ENDS[-2])


@pytest.mark.parametrize("rest", [b"\0" * 5000, b"garbage", DATA[: ENDS[0] - 1]])
def test_bytes_after_the_last_record_are_cut(rest: bytes) -> None:
    assert records(DATA + rest) == (PAYLOADS, len(DATA))


def test_more_damage_than_a_crash_can_leave_is_an_error() -> None:
    with pytest.raises(Damaged, match="more than a crash can leave"):
        records(DATA + b"\0" * (4 * 2**20 + 1))


def test_a_long_record_may_be_torn_too() -> None:
    long = record(len(PAYLOADS), b"y" * (5 * 2**20))
    assert records(DATA + long[:-1]) == (PAYLOADS, len(DATA))


def test_a_missing_record_is_an_error() -> None:
    with pytest.raises(Damaged, match="record 1, at byte"):
        records(WHOLE[0] + WHOLE[2])


def test_nothing_is_appended_after_a_record_that_may_not_be_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync the kernel may have dropped the pages of earlier records, and a later sync succeeds."""

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = RecordFile(tmp_path / "x.journal")
    file.append(PAYLOADS[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            file.append(PAYLOADS[1])
    with pytest.raises(OSError, match="an earlier write to it has failed"):
        file.append(PAYLOADS[1])
    file.close()
    assert records(file.path.read_bytes()) == (PAYLOADS[:1], ENDS[0])
