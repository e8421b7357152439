"""Files that are read by ranges."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import ConfigError
from fanout.io.remote.file import RangedFile, staged_path, url_of


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


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://data/x.npy", "s3://data/x.npy"),
        ("S3://data/a b?#.csv", "s3://data/a b?#.csv"),
        (Path("s3://data/x.npy"), "s3://data/x.npy"),
        ("gcs://data/*.csv", "gs://data/*.csv"),
        ("az://container/x", "az://container/x"),
        ("https://host/x.csv?sig=1", "https://host/x.csv?sig=1"),
        (Path("https://host/x.csv"), "https://host/x.csv"),
        ("x.csv", None),
        ("-", None),
        ("/data/s3/x.csv", None),
        ("C:/x.csv", None),
        ("odd:/x.csv", None),
        (Path("odd:/x.csv"), None),
        ("s3:/x.csv", None),
    ],
)
def test_a_url_is_told_from_a_path(path, url):
    assert url_of(path) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x.csv", "ftp:// is the scheme of no file"),
        ("http2://host/x.csv", "did you mean http?"),
        ("s3:///x.csv", "names no bucket"),
        ("az://", "names no container"),
        ("https:///x.csv", "names no host"),
        ("s3://da ta/x.csv", "the name of a bucket"),
        ("az://data?x/x.csv", "the name of a container"),
        ("s3://user:pass-word@data/x.csv", "s3://***@data/x.csv does not begin with"),
        ("s3://data/in//x.csv", "is not the name of a file"),
        ("s3://data/../x.csv", "is not the name of a file"),
        ("gs://data/x\x01.csv", "a control character"),
    ],
)
def test_a_url_that_names_nothing_is_an_error_with_its_key(url, problem):
    with pytest.raises(ConfigError) as caught:
        url_of(url, "output.path")
    assert problem in str(caught.value)
    assert caught.value.key == "output.path"


def test_an_output_has_a_local_file_that_no_other_url_has():
    folder = Path("jobs")
    assert staged_path("s3://data/a/y.npy", folder) == folder / "fanout-uploads" / "s3" / "data" / "a" / "y.npy"
    urls = ["s3://data/a/y.npy", "gs://data/a/y.npy", "s3://data/a%2Fy.npy", "s3://data/y.npy", "s3://data/a/y\n.npy"]
    assert len({staged_path(url, folder) for url in urls}) == len(urls)
    assert "\n" not in str(staged_path(urls[-1], folder))


@pytest.mark.parametrize(
    "url", ["s3://data/../y.npy", "s3://data//y.npy", "s3://data/a/", "s3://../y.npy", "s3://data"]
)
def test_an_output_cannot_leave_its_folder(url):
    with pytest.raises(ConfigError, match="not the name of a file"):
        staged_path(url, Path())


def test_nothing_is_written_to_a_web_server():
    with pytest.raises(ConfigError, match=r"https://host/y\.npy cannot be written"):
        staged_path("https://host/y.npy", Path())
