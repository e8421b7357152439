"""Rows from comma-separated values."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, blocks, holds_in_parts, ids, plain, read, refusal, refused_at_once

PEOPLE = 'key,name,age,zip,note\n7,Ann,30,01234,"a, ""b""\nc"\n8,Bo,,99999,\n9,"",1.5,10115,x\n'


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x.csv").write_text(PEOPLE, newline="")
    return tmp_path / "x.csv"


def test_texts_are_as_they_were_quoted(file):
    holds_in_parts(open_source(file, "note"), ['a, "b"\nc', "", "x"])
    holds_in_parts(open_source(file, "name"), ["Ann", "Bo", ""])


def test_numbers_are_numbers_and_a_missing_one_is_none(file):
    rows = read(open_source(file, "age"))
    assert plain(rows) == [30.0, None, 1.5]
    assert {row.dtype for row in rows if row is not None} == {np.dtype(np.float64)}
    assert read(open_source(file, "key")).dtype == np.int64


def test_codes_with_leading_zeros_stay_texts(file):
    assert read(open_source(file, "zip")) == ["01234", "99999", "10115"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0"], "i"),
        (["9223372036854775807", "-9223372036854775808"], "i"),
        (["1", "2.0", "-3e5"], "f"),
        (["0.5", "9007199254740992"], "f"),
        (["0.5", "9007199254740993"], None),
        (["9223372036854775808"], None),
        (["1e999"], None),
        (["NaN"], None),
        (["+49"], None),
        (["1 "], None),
        (["1", "NA"], None),
        (["true"], None),
        (["٣"], None),
    ],
)
def test_a_column_holds_numbers_if_its_values_are_numbers_in_json(tmp_path, values, kind):
    (tmp_path / "x.csv").write_text("a\n" + "".join(f"{value}\n" for value in values))
    rows = read(open_source(tmp_path / "x.csv"))
    assert (rows.dtype.kind if isinstance(rows, np.ndarray) else None) == kind
    python = {"i": int, "f": float, None: str}[kind]
    assert plain(rows) == [python(value) for value in values]


def test_several_columns_are_arrays_by_name(file):
    rows = read(open_source(file, columns=["name", "key"]))
    assert rows["name"].tolist() == ["Ann", "Bo", ""]
    assert rows["key"].tolist() == [7, 8, 9]


def test_a_missing_number_makes_dicts_of_the_rows(file):
    assert plain(read(open_source(file, columns=["key", "age"])))[1] == {"key": 8, "age": None}


def test_a_column_holds_the_ids(file):
    assert ids(open_source(file, "note", id="key")) == [7, 8, 9]
    assert ids(open_source(file, "note", id="zip")) == ["01234", "99999", "10115"]


def test_an_empty_id_is_an_error_that_names_its_row(file):
    assert "row 2 has no id" in str(refusal(file, "note", id="name"))
    assert 'the id of row 0 in "age" is of type float' in str(refusal(file, "note", id="age"))


def test_a_later_value_of_another_kind_is_an_error_that_names_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", 8)
    (tmp_path / "x.csv").write_text('n,t\n1,a\n2,"b\nc"\n3,d\n4.5,e\n')
    error = refusal(tmp_path / "x.csv", "n")
    assert 'x.csv, line 6: the value of "n" is not of the integers that the first rows hold' in str(error)
    assert "Parquet or JSON lines" in str(error)
    assert read(open_source(tmp_path / "x.csv", "t")) == ["a", "b\nc", "d", "e"]


def test_the_only_column_needs_no_name(tmp_path):
    (tmp_path / "x.csv").write_text("key,text\n1,a\n")
    assert read(open_source(tmp_path / "x.csv", id="key")) == ["a"]
    assert 'holds 2 columns: name the one to read ("key", "text")' in str(refused_at_once(tmp_path / "x.csv"))


def test_a_misspelt_column_gets_the_nearest_name(file):
    assert 'did you mean "note"?' in str(refused_at_once(file, "notes"))
    assert refused_at_once(file, "note", id="ky").key == "input.id"


@pytest.mark.parametrize(("ends", "last"), [("\n", True), ("\r\n", True), ("\n", False), ("\n\n", True)])
def test_any_ends_of_lines_will_do(tmp_path, ends, last):
    text = ends.join(["a,b", "1,x", "2,y"]) + ends * last
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    holds_in_parts(open_source(tmp_path / "x.csv", "b"), ["x", "y"], size=1)


def test_tabs_separate_in_tsv(tmp_path):
    (tmp_path / "x.tsv").write_text("a\tb\n1,5\tx\n")
    assert read(open_source(tmp_path / "x.tsv", "a")) == ["1,5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n\n3\n", "line 4: 1 values, but the header names 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3: 3 values, but the header names 2"),
        ('a,b\n1,2\n3,"x\n', "line 3: not readable as separated values: unexpected end of data"),
        ('a,b\n1,2\n3,"x"y\n', "line 3: not readable as separated values: "),
        (f"a,b\n1,2\n3,{'x' * 200_000}\n", "line 3: not readable as separated values: field larger"),
        ("a,b\r1,2\r", "line 1: not readable as separated values: "),
    ],
)
def test_a_bad_line_is_an_error_that_names_its_number(tmp_path, text, message):
    (tmp_path / "x.csv").write_bytes(text.encode())
    error = refusal(tmp_path / "x.csv", "a")
    assert f"x.csv, {message}" in str(error)
    assert error.key == "input.path"


def test_a_line_that_is_not_utf8_is_an_error_that_names_its_number(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,x\n2,\xff\n")
    assert "x.csv, line 3: not UTF-8" in str(refusal(tmp_path / "x.csv", "a"))


def test_a_file_without_a_header_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("\n")
    assert "x.csv is empty: its first line must name the columns" in str(refused_at_once(tmp_path / "x.csv"))


def test_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n")
    assert blocks(open_source(tmp_path / "x.csv", "a")) == []


def test_another_delimiter_is_an_error_that_names_it(tmp_path):
    (tmp_path / "x.csv").write_text("a;b\n1;2\n")
    error = refused_at_once(tmp_path / "x.csv", "a")
    assert "its first line has ';' in it, but no ','" in str(error)
    assert error.key == "input.format"
    (tmp_path / "x.csv").write_text("a\tb\n1\t2\n")
    assert 'set format = "tsv"' in str(refused_at_once(tmp_path / "x.csv", "a"))


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,a\n1,2\n")
    assert '2 columns "a"' in str(refused_at_once(tmp_path / "x.csv", "a"))


def test_the_first_file_decides_the_kinds_of_the_columns_of_all(tmp_path):
    (tmp_path / "1.csv").write_text("n,t\n1.5,007\n")
    (tmp_path / "2.csv").write_text("t,n\n8,2\n")
    assert read(open_source(tmp_path, "n")).tolist() == [1.5, 2.0]
    assert read(open_source(tmp_path, "t")) == ["007", "8"]
    (tmp_path / "2.csv").write_text("t,n\nx,y\n")
    assert "2.csv, line 2: " in str(refusal(tmp_path, "n"))
    (tmp_path / "2.csv").write_text("t\nx\n")
    assert '2.csv has no column "n"' in str(refused_at_once(tmp_path, "n"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("csv") / "x.csv"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6)


@given(
    rows=st.lists(st.tuples(TEXTS, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))), max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    size=st.integers(1, 60),
    start=st.integers(0, 12),
)
def test_any_values_are_read_as_they_were_written(scratch, rows, quoting, size, start):
    written = io.StringIO()
    csv.writer(written, quoting=quoting).writerows([("t", "n"), ("text", 0), *((f"-{t}", n) for t, n in rows)])
    scratch.write_bytes(written.getvalue().encode())
    expected = [{"t": "text", "n": 0}, *({"t": f"-{t}", "n": n} for t, n in rows)]
    assert plain(read(open_source(scratch, columns=["t", "n"]), size, start)) == expected[start:]


def test_the_fingerprint_changes_with_columns_and_files(file):
    prints = [
        open_source(file, "note").fingerprint(),
        open_source(file, columns=["note"]).fingerprint(),
        open_source(file, "note", id="key").fingerprint(),
    ]
    file.write_text(PEOPLE + "1,2,3,4,5\n")
    prints.append(open_source(file, "note").fingerprint())
    assert all(prints.count(one) == 1 for one in prints)


def test_tiny_blocks_have_few_records(file):
    assert len(blocks(open_source(file, "note"), TINY)) > 1


def test_a_column_of_endless_integers_is_texts(tmp_path):
    (tmp_path / "x.csv").write_text(f"x\n{'1' * 5000}\n")
    assert read(open_source(tmp_path / "x.csv")) == ["1" * 5000]
