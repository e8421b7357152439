"""Rows from ``.npy`` files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, blocks, holds_in_parts, read, refusal, refused_at_once

DTYPES = st.one_of(
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays.boolean_dtypes(),
    arrays.unicode_string_dtypes(endianness="?", max_len=4),
    arrays.byte_string_dtypes(max_len=4),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("npy") / "x.npy"


@given(
    array=arrays.arrays(DTYPES, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)),
    order=st.sampled_from("CF"),
    start=st.integers(0, 7),
)
def test_any_array_is_read_as_it_was_written(file, array, order, start):
    np.save(file, np.asarray(array, order=order))
    source = open_source(file)
    assert source.n_rows == len(array)
    rows = read(source, TINY, start)
    if start < len(array):
        assert rows.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(rows, array[start:])
    else:
        assert rows == []


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_part_can_be_read(tmp_path, order):
    array = np.arange(42.0).reshape(7, 2, 3)
    np.save(tmp_path / "x.npy", np.asarray(array, order=order))
    holds_in_parts(open_source(tmp_path / "x.npy"), array.tolist())


def test_blocks_have_about_half_a_mebibyte(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3000, 64)))
    assert [len(block.rows) for block in blocks(open_source(tmp_path / "x.npy"))] == [1024, 1024, 952]


def test_a_row_larger_than_a_block_is_a_block(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 10)))
    assert [len(block.rows) for block in blocks(open_source(tmp_path / "x.npy"), TINY)] == [1, 1, 1]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(tmp_path, version):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(5), version=version)
    np.testing.assert_array_equal(read(open_source(tmp_path / "x.npy")), np.arange(5))


def test_an_empty_array_has_no_rows(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 3)))
    source = open_source(tmp_path / "x.npy")
    assert (source.n_rows, blocks(source)) == (0, [])


def test_a_suffix_in_capitals_is_known(tmp_path):
    with (tmp_path / "X.NPY").open("wb") as file:
        np.save(file, np.zeros(2))
    assert open_source(tmp_path / "X.NPY").n_rows == 2


def test_an_array_of_objects_is_refused_with_the_remedy(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1], None], object))
    error = refused_at_once(tmp_path / "x.npy")
    assert "array of objects" in str(error)
    assert "np.stack(rows)" in str(error)
    assert error.key == "input.path"


def test_a_single_value_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.float32(3))
    assert "single value" in str(refused_at_once(tmp_path / "x.npy"))


def test_records_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3, [("a", "f4")]))
    assert "no request can hold" in str(refused_at_once(tmp_path / "x.npy"))


def test_a_column_is_refused_because_there_are_no_names(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert refused_at_once(tmp_path / "x.npy", "images").key == "input.column"
    assert refused_at_once(tmp_path / "x.npy", id="key").key == "input.id"


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_a_file_that_is_not_npy_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    assert "cannot be read as a .npy file" in str(refused_at_once(tmp_path / "x.npy"))


@pytest.mark.parametrize(("order", "whole"), [("C", 2), ("F", 0)])
def test_a_file_cut_short_is_refused_with_the_rows_that_it_has(tmp_path, order, whole):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), order=order))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    error = refused_at_once(tmp_path / "x.npy")
    assert f"cut short: its header says 3 rows, but only {whole} are whole" in str(error)


def test_a_file_cut_short_as_it_is_read_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(30))
    source = open_source(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="ends before its last row"):
        blocks(source, TINY)


def test_an_archive_called_npy_is_refused_with_its_right_suffix(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    assert ".npz" in str(refusal(tmp_path / "x.npy"))


def test_the_fingerprint_changes_with_the_file(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    first = open_source(tmp_path / "x.npy").fingerprint()
    assert open_source(tmp_path / "x.npy").fingerprint() == first
    np.save(tmp_path / "x.npy", np.ones(3))
    assert open_source(tmp_path / "x.npy").fingerprint() != first


READS_ALL = """
import resource, sys
from fanout.io.readers.opening import open_source
source = open_source(sys.argv[1])
blocks = source.blocks()
next(blocks)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(len(block.rows) for block in blocks)
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_hundred_megabytes_take_no_memory(tmp_path, name):
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (400_000, 64))
    array.flush()
    if name == "x.npz":
        np.savez(tmp_path / "x.npz", a=array)
    command = [sys.executable, "-c", READS_ALL, str(tmp_path / name)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    n_rows, growth = int(words[0]), int(words[1])
    assert n_rows > 390_000
    assert growth < 8 * 1024  # KiB
