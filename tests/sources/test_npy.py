"""Rows from ``.npy`` files."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.sources import open_source
from tests.sources.test_sources import refusal


def test_the_rows_are_mapped_and_not_read(tmp_path):
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", array)
    rows = open_source(tmp_path / "x.npy")
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, array)


def test_an_empty_array_has_no_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 3)))
    assert open_source(tmp_path / "x.npy").shape == (0, 3)


def test_a_suffix_in_capitals_is_known(tmp_path):
    with (tmp_path / "X.NPY").open("wb") as file:
        np.save(file, np.zeros(2))
    assert len(open_source(tmp_path / "X.NPY")) == 2


def test_an_array_of_objects_is_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1], None], object))
    error = refusal(tmp_path / "x.npy")
    assert "array of objects" in str(error)
    assert "np.stack(rows)" in str(error)
    assert error.key == "input.path"


def test_a_single_value_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.float32(3))
    assert "single value" in str(refusal(tmp_path / "x.npy"))


def test_records_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3, [("a", "f4")]))
    assert "no request can be made" in str(refusal(tmp_path / "x.npy"))


def test_a_column_is_refused_because_there_are_no_names(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert refusal(tmp_path / "x.npy", "images").key == "input.column"


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_what_is_no_npy_file_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    assert "cannot be read as a .npy file" in str(refusal(tmp_path / "x.npy"))


def test_a_file_cut_short_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    assert "cannot be read as a .npy file" in str(refusal(tmp_path / "x.npy"))


def test_an_archive_called_npy_is_told_its_right_suffix(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    assert ".npz" in str(refusal(tmp_path / "x.npy"))
