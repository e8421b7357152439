"""URLs in the place of paths."""

from pathlib import Path

import pytest

from fanout.errors import ConfigError
from fanout.io.remote import staged_path, url_of


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
