"""About how many rows there are, where only reading to the end would tell: for those who watch a run."""

from __future__ import annotations

import gzip

import pytest

from fanout.io.readers import open_source, origins
from fanout.types import count_rows

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
    assert source.rows_about() == rows
    assert source.sliced(slice(1, 2)).rows_about() == max(0, min(rows, 2) - 1)
    assert source.sliced(slice(1, None)).rows_about() == rows - 1


def test_several_files_have_a_head_each(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(TEXTS["x.csv"])
    assert open_source(tmp_path, "a").rows_about() == 4


def test_a_large_file_is_reckoned_from_its_first_part(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_bytes(b"0123456\n" * 10_000)
    monkeypatch.setattr(origins, "_COUNTED_BYTES", 8_000)
    monkeypatch.setattr("fanout.io.readers.base.BLOCK_BYTES", 800)
    assert open_source(tmp_path / "x.txt").rows_about() == 10_000


def test_of_what_is_packed_nothing_is_known(tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(TEXTS["x.csv"]))
    assert open_source(tmp_path / "x.csv.gz", "a").rows_about() is None
