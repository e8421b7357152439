"""Rows from columns of Arrow files."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import feather, ipc

from fanout.io.readers.opening import open_source
from tests.io.readers.reading import TINY, holds_in_parts, ids, refusal, refused_at_once

TABLE = pa.table({"n": pa.array([1, 2, 3, 4, 5], pa.int32()), "text": list("abcde"), "key": [9, 8, 7, 6, 5]})


@pytest.fixture(params=["file", "stream"])
def file(request, tmp_path):
    write = ipc.new_file if request.param == "file" else ipc.new_stream
    with write(tmp_path / "x.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)
    return tmp_path / "x.arrow"


def test_any_part_can_be_read(file):
    holds_in_parts(open_source(file, "n"), [1, 2, 3, 4, 5])
    holds_in_parts(open_source(file, columns=["text", "n"]), TABLE.select(["text", "n"]).to_pylist())


def test_a_column_holds_the_ids(file):
    assert ids(open_source(file, "n", id="key")) == [9, 8, 7, 6, 5]


def test_a_file_knows_its_rows_and_a_stream_does_not(tmp_path):
    for write, n_rows in ((ipc.new_file, 5), (ipc.new_stream, None)):
        with write(tmp_path / "x.arrow", TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=2)
        assert open_source(tmp_path / "x.arrow", "n").n_rows == n_rows


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_is_read(tmp_path, compression):
    feather.write_feather(TABLE, tmp_path / "x.feather", compression=compression)
    holds_in_parts(open_source(tmp_path / "x.feather", "text"), list("abcde"))


def test_the_first_version_of_feather_is_refused(tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1 and more")
    assert "first version of Feather" in str(refused_at_once(tmp_path / "x.feather"))


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"ARROW1\0\0 and nothing more"])
def test_a_file_that_is_not_arrow_is_refused(tmp_path, content):
    (tmp_path / "x.arrow").write_bytes(content)
    assert "cannot be read as an Arrow file" in str(refused_at_once(tmp_path / "x.arrow"))


def test_a_stream_cut_short_is_refused(tmp_path):
    with ipc.new_stream(tmp_path / "x.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)
    (tmp_path / "x.arrow").write_bytes((tmp_path / "x.arrow").read_bytes()[:-200])
    assert "cannot be read as an Arrow file" in str(refusal(tmp_path / "x.arrow", "n"))


def test_the_fingerprint_changes_with_the_column(file):
    assert open_source(file, "n").fingerprint() != open_source(file, "key").fingerprint()


@pytest.mark.parametrize("size", [1, TINY, 10**6])
def test_a_missing_id_is_an_error_that_names_its_row(tmp_path, monkeypatch, size):
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", size)
    table = pa.table({"n": [1, 2, 3, 4, 5], "key": ["a", "b", "c", None, "e"]})
    with ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert 'x.arrow: row 3 has no id: "key" is missing there' in str(refusal(tmp_path / "x.arrow", "n", id="key"))
