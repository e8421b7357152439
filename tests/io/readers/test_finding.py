"""The files that a path selects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fanout.errors import InputError
from fanout.io.readers.finding import in_natural_order
from fanout.io.readers.opening import open_source
from tests.devices import like_null
from tests.io.readers.reading import read, refused_at_once


def write(folder: Path, *names: str) -> None:
    """Text files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")


def test_files_come_in_natural_order():
    names = ["b/1.txt", "part-10.txt", "part-2.txt", "part-02.txt", "b/02.txt", "a-1-10.txt", "a-1-9.txt", "a.txt"]
    expected = ["a-1-9.txt", "a-1-10.txt", "a.txt", "b/1.txt", "b/02.txt", "part-02.txt", "part-2.txt", "part-10.txt"]
    assert [str(path) for path in in_natural_order(map(Path, names))] == expected


def test_a_folder_selects_the_files_in_it(tmp_path):
    write(tmp_path, "part-2.txt", "part-10.txt", "part-1.txt")
    assert read(open_source(tmp_path)) == ["part-1.txt", "part-2.txt", "part-10.txt"]


def test_hidden_and_empty_files_beside_the_data_are_passed_over(tmp_path):
    write(tmp_path, "a.txt", "_SUCCESS", ".a.txt.crc", "_metadata", ".hidden/b.txt")
    (tmp_path / "empty.txt").touch()
    assert read(open_source(tmp_path)) == ["a.txt"]
    assert read(open_source(tmp_path / "**" / "*")) == ["a.txt"]


def test_a_pattern_selects_the_files_that_it_matches_at_any_depth(tmp_path):
    write(tmp_path, "a/1.txt", "a/b/2.txt", "3.txt", "a/4.csv")
    assert read(open_source(tmp_path / "*" / "*.txt")) == ["a/1.txt"]
    assert read(open_source(tmp_path / "**" / "*.txt")) == ["3.txt", "a/1.txt", "a/b/2.txt"]
    assert read(open_source(tmp_path / "a" / "[0-9].txt")) == ["a/1.txt"]
    assert read(open_source(str(tmp_path / "?.txt"))) == ["3.txt"]


def test_a_pattern_may_be_relative(tmp_path, monkeypatch):
    write(tmp_path, "a/1.txt", "2.txt")
    monkeypatch.chdir(tmp_path / "a")
    assert read(open_source("*.txt")) == ["a/1.txt"]
    assert read(open_source("../*.txt")) == ["2.txt"]


def test_an_existing_name_that_looks_like_a_pattern_selects_itself(tmp_path):
    write(tmp_path, "[x]/1.txt", "[x]/b*.txt", "x/3.txt")
    assert read(open_source(tmp_path / "[x]" / "b*.txt")) == ["[x]/b*.txt"]
    assert read(open_source(tmp_path / "[x]" / "[0-9].txt")) == ["[x]/1.txt"]


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    error = refused_at_once(tmp_path / "*.txt")
    assert str(error) == f"no file matches {tmp_path}/*.txt"
    assert error.key == "input.path"


@pytest.mark.parametrize("names", [[], ["_SUCCESS"]])
def test_a_folder_without_files_is_refused(tmp_path, names):
    write(tmp_path, *names)
    (tmp_path / "empty.txt").touch()
    assert "has no file in it that is not empty" in str(refused_at_once(tmp_path))


def test_files_of_several_formats_are_refused_with_their_names(tmp_path):
    write(tmp_path, "a.txt", "b.jsonl", "c.md", "d.txt")
    error = refused_at_once(tmp_path)
    assert "several formats: txt (a.txt), jsonl (b.jsonl), unknown (c.md)" in str(error)
    assert f"choose one with a pattern, such as {tmp_path}/*.txt" in str(error)


def test_the_remedy_names_a_format_that_is_known(tmp_path):
    write(tmp_path, "a.md", "b.jsonl")
    assert f"choose one with a pattern, such as {tmp_path}/*.jsonl" in str(refused_at_once(tmp_path))


def test_a_link_to_nothing_is_named_as_such(tmp_path):
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to("nowhere.txt")
    assert f"{tmp_path}/b.txt is a link to a file that is not there" in str(refused_at_once(tmp_path))


def test_files_of_an_unknown_format_list_the_known(tmp_path):
    write(tmp_path, "a.md", "b.md")
    assert "known are .npy" in str(refused_at_once(tmp_path))
    assert read(open_source(tmp_path, format="txt")) == ["a.md", "b.md"]


def test_a_format_holds_for_all_files(tmp_path):
    write(tmp_path, "a.txt", "b.jsonl")
    assert read(open_source(tmp_path, format="txt")) == ["a.txt", "b.jsonl"]


def test_packed_and_plain_files_may_be_mixed(tmp_path):
    import gzip

    write(tmp_path, "a.txt")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b\n"))
    assert read(open_source(tmp_path)) == ["a.txt", "b"]


def test_a_folder_of_folders_is_refused_with_the_remedy(tmp_path):
    write(tmp_path, "year=2024/a.txt", "b.txt")
    error = refused_at_once(tmp_path)
    assert "holds folders too (year=2024)" in str(error)
    assert f"{tmp_path}/**/*.parquet" in str(error)


def test_a_file_that_was_removed_is_an_error_of_reading_it(tmp_path):
    write(tmp_path, "a.txt")
    source = open_source(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt cannot be read: No such file"):
        list(source.blocks())


@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_before_it_is_opened(tmp_path, kind, where):
    write(tmp_path, "a.txt")
    path = tmp_path / "b.txt"
    if kind == "pipe":
        os.mkfifo(path)
        keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(keeper, b"a row\n")
    else:
        like_null(tmp_path / "null")
        path.symlink_to("null")
        keeper = -1
    try:
        with pytest.raises(InputError, match=r"b\.txt is not a regular file: .* stdin \(path \"-\"\)") as caught:
            open_source(path if where == "file" else tmp_path)
    finally:
        if keeper >= 0:
            os.close(keeper)
    assert caught.value.key == "input.path"
