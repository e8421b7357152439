"""Rows from columns of Parquet files."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, blocks, holds_in_parts, ids, plain, read, refusal, refused_at_once

TABLE = pa.table(
    {
        "text": ["a", "b", None, "d", "e"],
        "vector": pa.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]], pa.list_(pa.float32(), 2)),
        "key": [10, 11, 12, 13, 13],
        "document": [{"title": {"en": t}} for t in "vwxyz"],
    }
)


@pytest.fixture
def file(tmp_path):
    parquet.write_table(TABLE, tmp_path / "x.parquet", row_group_size=2)
    return tmp_path / "x.parquet"


def test_any_part_of_a_column_can_be_read(file):
    holds_in_parts(open_source(file, "text"), ["a", "b", None, "d", "e"])
    holds_in_parts(open_source(file, "vector"), TABLE["vector"].to_pylist())
    holds_in_parts(open_source(file, columns=["text", "key"]), TABLE.select(["text", "key"]).to_pylist())


def test_several_columns_are_arrays_by_name_if_no_value_is_missing(file):
    rows = blocks(open_source(file, columns=["text", "vector"]).sliced(slice(0, 2)), TINY)[0].rows
    assert rows["text"].dtype == np.dtypes.StringDType()
    assert rows["vector"].shape[1:] == (2,)


def test_a_missing_value_makes_dicts_of_the_rows(file):
    rows = read(open_source(file, columns=["text", "key"]))
    assert rows[2] == {"text": None, "key": 12}


def test_fields_of_structs_are_named_with_dots(file):
    assert read(open_source(file, "document.title.en"), TINY) == list("vwxyz")
    assert read(open_source(file, columns=["document.title.en", "key"]))["document.title.en"].tolist() == list("vwxyz")


def test_a_dot_may_be_in_a_name(tmp_path):
    parquet.write_table(pa.table({"a.b": [1, 2], "c": [3, 4]}), tmp_path / "x.parquet")
    assert plain(read(open_source(tmp_path / "x.parquet", "a.b"))) == [1, 2]


def test_a_column_holds_the_ids_and_may_repeat_them(file):
    assert ids(open_source(file, "text", id="key")) == [10, 11, 12, 13, 13]
    assert ids(open_source(file, "key", id="document.title.en")) == list("vwxyz")


@pytest.mark.parametrize("size", [1, TINY, 10**6])
def test_a_missing_id_is_an_error_that_names_its_row(file, monkeypatch, size):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", size)
    error = refusal(file, "key", id="text")
    assert 'x.parquet: row 2 has no id: "text" is missing there' in str(error)
    assert error.key == "input.id"


def test_the_only_column_needs_no_name(tmp_path):
    parquet.write_table(TABLE.select(["text", "key"]), tmp_path / "x.parquet")
    assert read(open_source(tmp_path / "x.parquet", id="key")) == ["a", "b", None, "d", "e"]
    assert 'holds 2 columns: name the one to read ("text", "key")' in str(refused_at_once(tmp_path / "x.parquet"))


def test_the_index_of_a_frame_is_no_column(tmp_path):
    table = pa.table({"a": [1, 2], "__index_level_0__": [5, 6]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert plain(read(open_source(tmp_path / "x.parquet"))) == [1, 2]


def test_a_misspelt_column_gets_the_nearest_name(file):
    assert 'x.parquet has no column "txt"; did you mean "text"?' in str(refused_at_once(file, "txt"))
    assert 'did you mean "document.title"?' in str(refused_at_once(file, "document.titel"))
    assert refused_at_once(file, "text", id="kee").key == "input.id"


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    parquet.write_table(table, tmp_path / "x.parquet")
    assert '2 columns "a"' in str(refused_at_once(tmp_path / "x.parquet", "a"))


@pytest.mark.parametrize("content", [b"PAR1", b"hello, this is text", b"PAR1\x00\x00\x00\x00PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content):
    (tmp_path / "x.parquet").write_bytes(content)
    error = refused_at_once(tmp_path / "x.parquet")
    assert "x.parquet cannot be read as a Parquet file" in str(error)
    assert error.key == "input.path"


def test_a_damaged_page_is_an_error_of_reading_it(tmp_path):
    table = pa.table({"a": np.random.default_rng(0).integers(0, 2**60, 1000)})
    parquet.write_table(table, tmp_path / "x.parquet", write_page_checksum=True)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[1000:1010] = bytes(10)
    (tmp_path / "x.parquet").write_bytes(content)
    assert "cannot be read as a Parquet file" in str(refusal(tmp_path / "x.parquet"))


def test_without_pyarrow_the_error_names_the_remedy(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'fanout-ml[arrow]'" in str(refused_at_once(file, "text"))


def test_values_that_are_stored_once_do_not_swell_a_block(tmp_path):
    parquet.write_table(pa.table({"a": ["x" * 1000] * 5000}), tmp_path / "x.parquet")
    sizes = [len(block.rows) for block in blocks(open_source(tmp_path / "x.parquet"))]
    assert sum(sizes) == 5000
    assert max(sizes) <= 525


def test_columns_that_are_not_read_do_not_shrink_a_block(tmp_path):
    wide = np.random.default_rng(0).bytes(10_000)
    table = pa.table({"n": range(2000), "wide": [wide[i:] for i in range(2000)], "s": [{"a": i} for i in range(2000)]})
    parquet.write_table(table, tmp_path / "x.parquet")
    for column in ("n", "s.a", "s"):
        assert len(blocks(open_source(tmp_path / "x.parquet", column))) == 1
    assert len(blocks(open_source(tmp_path / "x.parquet", "wide"))) > 10


def test_a_file_without_rows_has_none(tmp_path):
    for table in (pa.table({"a": pa.array([], pa.int8())}), pa.table({"a": [1]}).slice(1)):
        parquet.write_table(table, tmp_path / "x.parquet")
        source = open_source(tmp_path / "x.parquet")
        assert (source.n_rows, blocks(source)) == (0, [])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet") / "x.parquet"


@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=1, max_size=30),
    group=st.integers(1, 9),
    start=st.integers(0, 9),
    size=st.integers(1, 200),
)
def test_any_texts_are_read_as_they_were_written(scratch, texts, group, start, size):
    table = pa.table({"text": pa.array(texts, pa.string()), "n": range(len(texts))})
    parquet.write_table(table, scratch, row_group_size=group)
    rows = plain(read(open_source(scratch, columns=["text", "n"]), size, start))
    assert rows == table.slice(start).to_pylist()


def test_the_fingerprint_changes_with_columns_ids_and_slices(file):
    prints = [
        open_source(file, column, id=key).sliced(rows).fingerprint()
        for column, key, rows in [
            ("text", None, slice(None)),
            ("key", None, slice(None)),
            ("text", "key", slice(None)),
            ("text", None, slice(1, None)),
        ]
    ]
    assert all(prints.count(one) == 1 for one in prints)
    assert str(file.parent) not in str(prints)
