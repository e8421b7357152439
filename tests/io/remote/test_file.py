"""Files that are read by ranges."""

import io

from hypothesis import given
from hypothesis import strategies as st

from fanout.io.remote.file import RangedFile


def ranged(data, **sizes):
    """A file of these bytes, and the ranges that are fetched of it."""
    fetched = []

    def fetch(start, stop):
        fetched.append((start, stop))
        return data[start:stop]

    return RangedFile(len(data), fetch, **sizes), fetched


DATA = bytes(range(256)) * 8
_STEPS = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(-100, 2200), st.integers(0, 700)), max_size=20)


@given(steps=_STEPS, most=st.integers(1, 64))
def test_any_seeks_and_reads_give_what_a_file_gives(steps, most):
    raw, _ = ranged(DATA, first=8, most=most, kept=100)
    file, expected = io.BufferedReader(raw, 16), io.BytesIO(DATA)
    for whence, offset, size in steps:
        start = {0: 0, 1: expected.tell(), 2: len(DATA)}[whence] + offset
        if start >= 0:
            assert file.seek(offset, whence) == expected.seek(start)
        assert file.read(size) == expected.read(size)
        assert file.tell() == expected.tell()


def test_reading_on_takes_few_requests_and_each_byte_once():
    raw, fetched = ranged(bytes(40 * 2**20))
    while raw.read(300_000):
        pass
    assert len(fetched) < 20
    assert sum(stop - start for start, stop in fetched) == 40 * 2**20
    assert max(stop - start for start, stop in fetched) == 4 * 2**20


def test_columns_that_are_read_side_by_side_are_not_fetched_twice():
    raw, fetched = ranged(bytes(32 * 2**20))
    column = 8 * 2**20
    for place in range(0, column, 2**19):
        for start in range(0, 32 * 2**20, column):
            raw.seek(start + place)
            assert raw.readinto(bytearray(2**19))
    assert sum(stop - start for start, stop in fetched) < 1.6 * 32 * 2**20


def test_what_is_kept_is_bounded():
    raw, fetched = ranged(bytes(400), first=10, most=10, kept=100)
    for start in (*range(0, 400, 20), 380, 0):
        raw.seek(start)
        raw.read(10)
    # The last windows are kept, and the first one is not.
    assert fetched[-2:] == [(380, 390), (0, 10)]
