"""Rows from JSON lines."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import Json
from fanout.errors import EncodeError, InputError
from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, blocks, holds_in_parts, ids, read, refusal, refused_at_once

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "one", "n": 1, "deep": {"list": [10, 11], "a/b": True}},
    {"id": "b", "text": "two", "n": 2.5, "deep": {"list": [20], "a/b": False}},
    {"id": "c", "text": None, "deep": {}},
    {"id": "c", "text": "ü\u2028", "n": 4, "more": [1, [2]]},
]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return tmp_path / "x.jsonl"


def test_without_a_column_a_row_is_the_whole_value(file):
    holds_in_parts(open_source(file), ROWS)


def test_a_column_is_a_field_and_none_if_a_row_lacks_it(file):
    holds_in_parts(open_source(file, "n"), [1, 2.5, None, 4])
    assert [type(row) for row in read(open_source(file, "n"))] == [int, float, type(None), int]


def test_a_list_of_columns_makes_dicts_with_these_keys(file):
    expected = [{"text": row["text"], "n": row.get("n")} for row in ROWS]
    holds_in_parts(open_source(file, columns=["text", "n"]), expected)


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("/text", ["one", "two", None, "ü\u2028"]),
        ("/deep/list/0", [10, 20, None, None]),
        ("/deep/list/1", [11, None, None, None]),
        ("/deep/a~1b", [True, False, None, None]),
    ],
)
def test_a_column_may_be_a_json_pointer(file, pointer, expected):
    assert read(open_source(file, pointer)) == expected
    assert read(open_source(file, columns=[pointer])) == [{pointer: value} for value in expected]


def test_a_pointer_goes_into_lists_by_number_alone(tmp_path):
    (tmp_path / "x.jsonl").write_text('[1, {"~": 2}]\n[3]\n')
    assert read(open_source(tmp_path / "x.jsonl", "/1/~0")) == [2, None]
    assert "none of the first 2 rows" in str(refusal(tmp_path / "x.jsonl", "/-1"))


def test_ids_are_a_field_or_a_pointer_and_may_repeat(file):
    assert ids(open_source(file, "text", id="id")) == ["a", "b", "c", "c"]
    assert ids(open_source(file, "text", id="/id")) == ["a", "b", "c", "c"]


def test_a_missing_id_is_an_error_that_names_its_row(file):
    error = refusal(file, "text", id="n")
    assert 'the id of row 1 in "n" is of type float' in str(error)
    assert error.key == "input.id"
    assert "row 2 has no id" in str(refusal(file, "id", id="text"))


def test_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\n1\r\n  \n\t\r\n2\n\n3")
    holds_in_parts(open_source(tmp_path / "x.jsonl"), [1, 2, 3], size=2)


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}')
    assert read(open_source(tmp_path / "x.jsonl", "a")) == [1, 2]


@pytest.mark.parametrize("size", [1, TINY, 10**6])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "x.jsonl, line 4: not JSON ("),
        (b'{"a": NaN}', "x.jsonl, line 4: not JSON ("),
        (b'{"a": 1} {"a": 2}', "x.jsonl, line 4: not JSON ("),
        (b'{"a": "\xff"}', "x.jsonl, line 4: not UTF-8; convert the file first"),
        (b"[1]", 'x.jsonl, line 4: not an object, so it cannot have "a"'),
    ],
)
def test_a_bad_line_is_an_error_that_names_its_number(tmp_path, monkeypatch, line, message, size):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", size)
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\n{"a": 2}\n' + line + b'\n{"a": 3}\n')
    assert message in str(refusal(tmp_path / "x.jsonl", "a"))


def test_the_rows_before_a_bad_line_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", TINY)
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n' * 100 + "oops\n")
    rows_read: list[Any] = []
    source = open_source(tmp_path / "x.jsonl", "a")
    with pytest.raises(InputError, match="line 101"):
        rows_read.extend(block.rows for block in source.blocks())
    assert sum(map(len, rows_read)) > 90


def test_a_field_that_no_row_has_is_misspelt(file):
    error = refusal(file, "txt")
    assert 'none of the first 4 rows has "txt"; did you mean "text"? They have "id", "text", ' in str(error)
    assert error.key == "input.column"
    assert refusal(file, "text", id="key").key == "input.id"
    assert 'none of the first 4 rows has "/deep/x"' in str(refusal(file, columns=["text", "/deep/x"]))


def test_no_column_has_no_name(file):
    assert "columns is an empty list" in str(refused_at_once(file, columns=[]))
    assert 'none of the first 4 rows has ""' in str(refusal(file, ""))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_has_no_rows(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    assert blocks(open_source(tmp_path / "x.jsonl", "text", id="id")) == []


def test_a_gzip_file_is_decompressed(tmp_path):
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write("".join(f"{json.dumps(row)}\n" for row in ROWS))
    holds_in_parts(open_source(tmp_path / "x.jsonl.gz"), ROWS)


def test_a_packed_file_cut_short_is_refused(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-9])
    assert "x.jsonl.gz cannot be unpacked, it is damaged or cut short" in str(refusal(tmp_path / "x.jsonl.gz"))
    (tmp_path / "x.jsonl.gz").write_bytes(b'{"a": 1}\n')
    assert "cannot be unpacked" in str(refusal(tmp_path / "x.jsonl.gz"))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40])
def test_an_integer_beyond_64_bits_is_refused_as_it_is_from_python(tmp_path, number):
    rows = [[1, 2], [0.5, number], {"a": number}, number, 3]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rows_read = read(open_source(tmp_path / "x.jsonl"))
    assert rows_read == rows
    assert [type(row) for row in rows_read] == [type(row) for row in rows]
    for sent in (rows_read, rows):
        with pytest.raises(EncodeError, match="64-bit") as caught:
            Json().encode(sent)
        assert caught.value.rows == (1, 2, 3)


def test_an_id_beyond_64_bits_is_refused_by_its_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": 18446744073709551615}\n{"id": 18446744073709551616}\n')
    error = refusal(tmp_path / "x.jsonl", None, id="id")
    assert error.key == "input.id"
    assert "the id of row 1" in str(error)
    assert "64 bits" in str(error)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("jsonl") / "x.jsonl"


@given(
    values=st.lists(JSON, max_size=12),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    ascii_only=st.booleans(),
    last=st.booleans(),
    size=st.integers(1, 60),
    start=st.integers(0, 12),
)
def test_any_values_are_read_as_they_were_written(scratch, values, end, ascii_only, last, size, start):
    text = end.join(json.dumps(value, ensure_ascii=ascii_only) for value in values) + end * last
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert list(read(open_source(scratch), size, start)) == values[start:]
