"""Every problem of an input is an error of one line that names the key to change."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from fanout.errors import InputError
from fanout.io.readers.opening import open_source
from tests.io.readers.reading import blocks, holds_in_parts, read, refused_at_once


def test_a_missing_file_is_named_in_full_with_its_nearest_neighbour(tmp_path, monkeypatch):
    np.save(tmp_path / "digits.npy", np.zeros(3))
    monkeypatch.chdir(tmp_path)
    error = refused_at_once(Path("digit.npy"))
    assert str(tmp_path / "digit.npy") in str(error)
    assert 'did you mean "digits.npy"?' in str(error)
    assert error.key == "input.path"


def test_a_missing_folder_is_named_as_the_cause(tmp_path):
    assert "nor its folder" in str(refused_at_once(tmp_path / "no" / "x.npy"))


def test_a_missing_file_among_others_unlike_it_gets_no_suggestion(tmp_path):
    np.save(tmp_path / "weather.npy", np.zeros(3))
    assert "did you mean" not in str(refused_at_once(tmp_path / "digits.npz"))


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path):
    assert "cannot be read" in str(refused_at_once(tmp_path / ("x" * 300 + ".npy")))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.parquet", "x.arrow", "x.jsonl", "x.csv", "x.txt"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", fail)
    with pytest.raises(InputError, match=rf"{name} cannot be read.*: Permission denied"):
        list(open_source(tmp_path / name).blocks())


def test_an_unknown_suffix_lists_the_known(tmp_path):
    (tmp_path / "x.xlsx").touch()
    error = refused_at_once(tmp_path / "x.xlsx")
    assert ".npy, .npz, .parquet" in str(error)
    assert "or set format" in str(error)


def test_the_format_counts_before_the_suffix(tmp_path):
    (tmp_path / "x.dat").write_text("1\n2\n")
    assert read(open_source(tmp_path / "x.dat", format="jsonl")) == [1, 2]
    (tmp_path / "x.jsonl").write_text("1\n2\n")
    assert read(open_source(tmp_path / "x.jsonl", format="txt")) == ["1", "2"]


def test_an_unknown_format_lists_the_known(tmp_path):
    error = refused_at_once(tmp_path, format="xlsx")
    assert "format must be one of npy, npz, parquet, arrow, jsonl, csv, tsv, txt" in str(error)
    assert error.key == "input.format"


@pytest.fixture
def stdin(monkeypatch):
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


@pytest.mark.parametrize(
    ("kind", "content", "rows"),
    [("jsonl", b'{"a": 1}\n{"a": 2}\n', [1, 2]), ("csv", b"a,b\n1,x\n2,y\n", [1, 2]), ("tsv", b"a\tb\n1\tx\n", [1])],
)
def test_stdin_is_read_once_in_the_format_that_is_set(stdin, kind, content, rows):
    stdin(content)
    source = open_source("-", "a", format=kind)
    assert (source.repeatable, source.n_rows, source.fingerprint()) == (False, None, None)
    part = source.sliced(slice(0, 1))
    assert (part.repeatable, part.n_rows, part.fingerprint()) == (False, None, None)
    assert list(read(source)) == rows
    with pytest.raises(InputError, match="stdin can be read only once"):
        blocks(source)


def test_a_misspelt_column_of_stdin_is_an_error_of_reading_it(stdin):
    stdin(b"text,b\n1,x\n")
    with pytest.raises(InputError, match='stdin has no column "txt"; did you mean "text"'):
        blocks(open_source("-", "txt", format="csv"))


@pytest.mark.parametrize(("kind", "message"), [(None, "has no suffix"), ("parquet", "cannot be read as parquet")])
def test_stdin_needs_a_format_of_lines(kind, message):
    error = refused_at_once("-", format=kind)
    assert f"stdin {message}: set format to jsonl, csv, tsv, txt" in str(error)
    assert error.key == "input.format"


def write_npy(path: Path, rows: list[int]) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(rows))


def write_npz(path: Path, rows: list[int]) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.array(rows))


def write_parquet(path: Path, rows: list[int]) -> None:
    parquet.write_table(pa.table({"a": rows}), path, row_group_size=2)


def write_arrow(path: Path, rows: list[int]) -> None:
    with ipc.new_file(path, pa.schema([("a", pa.int64())])) as writer:
        writer.write_table(pa.table({"a": rows}), max_chunksize=2)


def write_stream(path: Path, rows: list[int]) -> None:
    with ipc.new_stream(path, pa.schema([("a", pa.int64())])) as writer:
        writer.write_table(pa.table({"a": rows}), max_chunksize=2)


def write_jsonl(path: Path, rows: list[int]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows))


def write_csv(path: Path, rows: list[int]) -> None:
    path.write_text("a\n" + "".join(f"{row}\n" for row in rows))


WRITERS = {
    "npy": write_npy,
    "npz": write_npz,
    "parquet": write_parquet,
    "arrow": write_arrow,
    "stream": write_stream,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_files_of_a_folder_are_read_as_one(tmp_path, kind):
    suffix = "arrow" if kind == "stream" else kind
    for number, rows in {1: [1, 2, 3], 2: [4], 10: [5, 6]}.items():
        WRITERS[kind](tmp_path / f"part-{number}.{suffix}", rows)
    holds_in_parts(open_source(tmp_path), [1, 2, 3, 4, 5, 6], size=8)
    known = kind in ("npy", "npz", "parquet", "arrow")
    assert open_source(tmp_path).n_rows == (6 if known else None)


def test_files_that_do_not_agree_are_refused(tmp_path):
    np.save(tmp_path / "1.npy", np.zeros((3, 2), np.float32))
    np.save(tmp_path / "2.npy", np.zeros((3, 4), np.float32))
    error = refused_at_once(tmp_path)
    assert "2.npy holds float32 values of shape [4], but" in str(error)
    assert "1.npy holds float32 values of shape [2]: files that are read as one must agree" in str(error)
    parquet.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
    parquet.write_table(pa.table({"a": [1.5], "b": ["x"]}), tmp_path / "2.parquet")
    assert '2.parquet holds "a": double, but' in str(refused_at_once(tmp_path / "*.parquet", "a"))
    assert len(read(open_source(tmp_path / "*.parquet", "b"))) == 2


def test_a_column_that_one_of_the_files_lacks_is_refused(tmp_path):
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    parquet.write_table(pa.table({"b": [1]}), tmp_path / "2.parquet")
    assert '2.parquet has no column "a"' in str(refused_at_once(tmp_path, "a"))


def test_the_fingerprint_of_several_files_has_all_of_them_in_order(tmp_path):
    for name in ("1.txt", "2.txt"):
        (tmp_path / name).write_text(name)
        write_npy(tmp_path / f"{name}.npy", [len(name)])
    for pattern in ("*.txt", "*.npy"):
        first = open_source(tmp_path / pattern).fingerprint()
        assert len(first["files"]) == 2
        assert first != open_source(tmp_path / pattern.replace("*", "1*")).fingerprint()
        assert str(tmp_path) not in str(first)
