"""A file that is being written belongs to one run, and takes its final name in one step."""

from __future__ import annotations

import errno
import fcntl

import pytest

from fanout.files import PartialFile
from fanout.io.publication import Publication


def publish(partial: PartialFile) -> None:
    Publication(((partial.path, partial.final),)).carry_out()
    partial.close()


def test_it_takes_its_final_name_when_published(tmp_path):
    partial = PartialFile(tmp_path / "x")
    partial.append(b"ab")
    partial.write_at(b"c", 1)
    assert not (tmp_path / "x").exists()
    publish(partial)
    assert (tmp_path / "x").read_bytes() == b"ac"
    assert not (tmp_path / "x.partial").exists()


def test_a_second_writer_is_refused(tmp_path):
    partial = PartialFile(tmp_path / "x")
    with pytest.raises(BlockingIOError):
        PartialFile(tmp_path / "x")
    partial.close()
    PartialFile(tmp_path / "x").close()


def test_the_rest_of_a_killed_run_is_overwritten(tmp_path):
    (tmp_path / "x.partial").write_bytes(b"left over, and longer")
    partial = PartialFile(tmp_path / "x")
    partial.append(b"new")
    publish(partial)
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_file_published_between_open_and_lock_is_not_touched(tmp_path, monkeypatch):
    (tmp_path / "x.partial").write_bytes(b"whole")
    lock = fcntl.flock

    def publish_first(fd: int, operation: int) -> None:
        lock(fd, operation)
        if (tmp_path / "x.partial").exists() and not (tmp_path / "x").exists():
            (tmp_path / "x.partial").rename(tmp_path / "x")

    monkeypatch.setattr(fcntl, "flock", publish_first)
    partial = PartialFile(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"whole"
    partial.close()


def test_a_file_system_without_locks_is_taken_as_it_is(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    PartialFile(tmp_path / "x").close()


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "real" / "x")
    partial = PartialFile(tmp_path / "x")
    partial.append(b"new")
    publish(partial)
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "real" / "x").read_bytes() == b"new"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    import os

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:3], offset))
    partial = PartialFile(tmp_path / "x")
    assert partial.append(b"0123456789") == 0
    assert partial.append(b"abcd") == 10
    publish(partial)
    assert (tmp_path / "x").read_bytes() == b"0123456789abcd"


def test_closing_twice_is_harmless(tmp_path):
    partial = PartialFile(tmp_path / "x")
    partial.append(b"x")
    partial.close()
    partial.close()
    assert (tmp_path / "x.partial").exists()


def test_bytes_of_an_earlier_process_are_kept_up_to_the_given_size(tmp_path):
    (tmp_path / "x.partial").write_bytes(b"whole, and torn")
    partial = PartialFile(tmp_path / "x", size=5)
    assert partial.append(b"!") == 5
    partial.close()
    assert (tmp_path / "x.partial").read_bytes() == b"whole!"


@pytest.mark.parametrize("there", [None, b"whol"])
def test_less_than_an_earlier_process_wrote_is_refused(tmp_path, there):
    if there is not None:
        (tmp_path / "x.partial").write_bytes(there)
    with pytest.raises(FileNotFoundError, match=r"x\.partial"):
        PartialFile(tmp_path / "x", size=5)
    assert (tmp_path / "x.partial").exists() == (there is not None)


def test_room_that_is_not_to_be_had_is_given_back(tmp_path, monkeypatch):
    partial = PartialFile(tmp_path / "x")
    partial.append(b"abc")

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        partial.reserve(10)
    assert (tmp_path / "x.partial").read_bytes() == b"abc"
    partial.close()
