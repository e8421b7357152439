"""Fingerprints of files and rows: a change of what they cover changes them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fanout.io.fingerprint import of_file, of_rows


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x").write_bytes(bytes(1_000_000))
    os.utime(tmp_path / "x", ns=(0, 0))
    return tmp_path / "x"


def changed(file, place):
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(b"\1")
    os.utime(file, ns=(0, 0))
    return of_file(file)


@pytest.mark.parametrize("place", [0, 4095, 1_000_000 - 4096, 1_000_000 - 1, 995_904 // 17, 995_904 * 16 // 17])
def test_a_change_at_a_sampled_place_changes_the_fingerprint_even_with_the_old_time(file, place):
    assert of_file(file) != changed(file, place)


def test_eighteen_samples_are_read_of_a_file_of_any_size(file, monkeypatch):
    sizes = []
    pread = os.pread

    def counted(fd: int, n: int, offset: int) -> bytes:
        sizes.append(n)
        return pread(fd, n, offset)

    monkeypatch.setattr(os, "pread", counted)
    of_file(file)
    assert sizes == [4096] * 18


def test_size_and_time_change_the_fingerprint(file):
    first = of_file(file)
    os.utime(file, ns=(0, 1))
    assert of_file(file) != first
    with file.open("ab") as opened:
        opened.write(b"\0")
    os.utime(file, ns=(0, 0))
    assert of_file(file) != first


def test_name_and_folder_do_not_change_the_fingerprint(file, tmp_path):
    first = of_file(file)
    (tmp_path / "a").mkdir()
    file.rename(tmp_path / "a" / "y")
    assert of_file(tmp_path / "a" / "y") == first


def test_an_empty_file_has_a_fingerprint(tmp_path):
    (tmp_path / "x").touch()
    assert of_file(tmp_path / "x")["size"] == 0


@pytest.mark.parametrize(
    "other",
    [
        np.arange(4, dtype=np.float32),
        np.arange(4).reshape(2, 2),
        np.array([0, 1, 2, 4]),
        [0, 1, 2, None],
        [np.int64(0), None, 2, 3],
        {"a": np.arange(4, dtype=np.int8)},
        ["0", "1", "2", "3"],
        np.array(["0", "1", "2", "3"], np.dtypes.StringDType()),
        [b"0", {1, 2}, 2, 3],
    ],
)
def test_other_values_dtypes_and_shapes_change_the_fingerprint(other):
    assert of_rows([other]) == of_rows([other])
    assert of_rows([other]) != of_rows([np.arange(4)])
