"""Rows from lines of text, and the number of lines that a progress bar shows."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io.readers import lines
from fanout.io.readers.opening import open_source
from fanout.rows import count_rows
from tests.io.readers.reading import TINY, blocks, holds_in_parts, read, refusal, refused_at_once


def test_each_line_is_a_row_and_an_empty_one_too(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\n\ntwo \r\n\r\n\rthree\n")
    holds_in_parts(open_source(tmp_path / "x.txt"), ["one", "", "two ", "", "\rthree"], size=3)


def test_the_last_line_needs_no_newline(tmp_path):
    for content in (b"a\nb", b"a\nb\n"):
        (tmp_path / "x.txt").write_bytes(content)
        assert read(open_source(tmp_path / "x.txt"), 1) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "rows"), [(b"", []), (b"\n", [""]), (b"\xef\xbb\xbf", []), (b"\xef\xbb\xbfa\n", ["a"])]
)
def test_the_smallest_files(tmp_path, content, rows):
    (tmp_path / "x.txt").write_bytes(content)
    assert list(read(open_source(tmp_path / "x.txt"))) == rows


@pytest.mark.parametrize("size", [1, 6, TINY, 10**6])
def test_a_line_that_is_not_utf8_is_an_error_that_names_its_number(tmp_path, monkeypatch, size):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", size)
    (tmp_path / "x.txt").write_bytes("ä\nö\n".encode() + "ü\n".encode("latin-1"))
    error = refusal(tmp_path / "x.txt")
    assert "x.txt, line 3: not UTF-8; convert the file first" in str(error)
    assert error.key == "input.path"


def test_lines_have_neither_columns_nor_ids(tmp_path):
    (tmp_path / "x.txt").write_text("a\n")
    assert refused_at_once(tmp_path / "x.txt", "text").key == "input.column"
    assert refused_at_once(tmp_path / "x.txt", id="key").key == "input.id"


def test_a_long_line_is_one_row(tmp_path):
    (tmp_path / "x.txt").write_text("x" * 10_000 + "\ny\n")
    assert [len(text) for text in read(open_source(tmp_path / "x.txt"), TINY)] == [10_000, 1]


def test_blocks_have_about_half_a_mebibyte(tmp_path):
    (tmp_path / "x.txt").write_text(("x" * 63 + "\n") * 20_000)
    sizes = [len(block.rows) for block in blocks(open_source(tmp_path / "x.txt"))]
    assert sum(sizes) == 20_000
    assert max(sizes) <= 8192 + 1


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("txt") / "x.txt"


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", exclude_categories=["Cs"])), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    size=st.integers(1, 30),
    start=st.integers(0, 12),
)
def test_any_lines_are_read_as_they_were_written(scratch, texts, end, size, start):
    scratch.write_bytes("".join(text + end for text in texts).encode())
    assert list(read(open_source(scratch), size, start)) == texts[start:]


TEXTS = {
    "x.csv": b"a,b\n1,2\n3,4\n",
    "open.csv": b"a,b\n1,2\n3,4",
    "quoted.csv": b'a,b\n"1\n\n2",2\n"say ""hi""\n",4\n5,6',
    "head.csv": b'"a\nb",c\n1,2\n',
    "x.tsv": b"a\tb\n1\t2\n",
    "x.jsonl": b'{"a": 1}\n{"a": 2}\n{"a": 3}',
    "x.txt": b"one\ntwo\n\nfour\n",
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("name", TEXTS)
def test_a_small_file_is_counted_exactly(tmp_path, monkeypatch, name, block):
    (tmp_path / name).write_bytes(TEXTS[name])
    column = "c" if name == "head.csv" else None if name == "x.txt" else "a"
    source = open_source(tmp_path / name, column)
    rows = sum(count_rows(one.rows) for one in source.blocks())
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", block)
    assert source.estimate_rows() == rows
    assert source.sliced(slice(1, 2)).estimate_rows() == max(0, min(rows, 2) - 1)
    assert source.sliced(slice(1, None)).estimate_rows() == rows - 1


def test_several_files_have_a_header_each(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(TEXTS["x.csv"])
    assert open_source(tmp_path, "a").estimate_rows() == 4


def test_the_lines_of_a_large_file_are_extrapolated_from_its_first_part(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_bytes(b"0123456\n" * 10_000)
    monkeypatch.setattr(lines, "_COUNTED_BYTES", 8_000)
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", 800)
    assert open_source(tmp_path / "x.txt").estimate_rows() == 10_000


def test_the_lines_of_a_compressed_file_are_unknown(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(TEXTS["x.csv"]))
    assert open_source(tmp_path / "x.csv.gz", "a").estimate_rows() is None
