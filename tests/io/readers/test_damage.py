"""A damaged file is an `InputError` that names it: no other exception, no end of the process, no foreign bytes."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fanout.errors import InputError
from fanout.io.readers.opening import open_source

pa = pytest.importorskip("pyarrow")

ROOT = Path(__file__).absolute().parents[3]
TEXTS = [f"text {i} \u00e9" * (i % 5) for i in range(200)]


def _table(*, views: bool = True):
    columns = {
        "text": TEXTS,
        "vectors": pa.array(np.arange(600, dtype="f4").reshape(200, 3).tolist(), pa.list_(pa.float32(), 3)),
        "lists": [list(range(i % 4)) for i in range(200)],
        "struct": [{"a": str(i), "b": i} for i in range(200)],
        "words": pa.array([f"word {i % 7}" for i in range(200)]).dictionary_encode(),
        "gaps": [None if i % 9 == 0 else i for i in range(200)],
        "bytes": [bytes([i % 256]) * 3 for i in range(200)],
    }
    if views:
        columns["views"] = pa.array([f"text {i} that is long enough" for i in range(200)]).cast(pa.string_view())
    return pa.table(columns)


def _arrow(path: Path, compression: str | None = None) -> None:
    table = _table()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=64)


def _stream(path: Path) -> None:
    table = _table()
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=64)


def _parquet(path: Path, **options: object) -> None:
    from pyarrow import parquet

    parquet.write_table(_table(views=False), path, row_group_size=64, data_page_size=256, **options)


def _lines(path: Path) -> None:
    path.write_bytes(gzip.compress(b"".join(b'{"a": %d, "b": "x"}\n' % i for i in range(2000))))


def _csv(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a,b\n" + b"".join(b'%d,"x"\n' % i for i in range(2000))))


COLUMNS = ["text", "vectors", "lists", "struct.a", "words", "gaps", "bytes"]
FORMATS = {
    "file.arrow": (_arrow, [*COLUMNS, "views"]),
    "packed.arrow": (lambda path: _arrow(path, "lz4"), [*COLUMNS, "views"]),
    "stream.arrow": (_stream, [*COLUMNS, "views"]),
    "checked.parquet": (lambda path: _parquet(path, write_page_checksum=True), COLUMNS),
    "plain.parquet": (_parquet, COLUMNS),
    "second.parquet": (lambda path: _parquet(path, data_page_version="2.0", compression="zstd"), COLUMNS),
    "array.npy": (lambda path: np.save(path, np.arange(300.0).reshape(100, 3)), []),
    "stored.npz": (lambda path: np.savez(path, x=np.arange(300.0), y=np.array(["a"] * 300)), ["x", "y"]),
    "packed.npz": (
        lambda path: np.savez_compressed(path, x=np.arange(300.0), y=np.asfortranarray(np.ones((9, 9)))),
        ["x", "y"],
    ),
    "lines.jsonl.gz": (_lines, ["a"]),
    "table.csv.gz": (_csv, ["a"]),
}


@pytest.mark.parametrize("seeds", [45, pytest.param(150, marks=pytest.mark.slow)])
def test_row_69_damage_is_an_input_error_at_worst(tmp_path, seeds):
    """One process reads all formats: its first line for each is the name of the file."""
    for name, (write, _) in FORMATS.items():
        write(tmp_path / name)
    files = [":".join([str(tmp_path / name), *columns]) for name, (_, columns) in FORMATS.items()]
    command = [sys.executable, "-m", "tests.io.readers.damaging", str(seeds), *files]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout[-100:] + ended.stderr[-500:]
    lines = ended.stdout.splitlines()
    assert len(lines) == len(FORMATS) * (1 + seeds)
    for name in FORMATS:
        start = lines.index(name) + 1
        outcomes = Counter(lines[start : start + seeds])
        assert set(outcomes) <= {"read", "refused"}, (name, outcomes)
        assert outcomes["refused"] >= seeds // 15, name


@pytest.mark.parametrize("beyond", [1, 40, 2**30, -(2**20)])
@pytest.mark.parametrize("form", ["file", "stream"])
def test_an_offset_beyond_the_texts_is_refused(tmp_path, form, beyond):
    path = tmp_path / "x.arrow"
    table = pa.table({"text": TEXTS})
    new = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with new(path, table.schema) as writer:
        writer.write_table(table)
    offsets = np.cumsum([0, *(len(text.encode()) for text in TEXTS)]).astype("<i4")
    data = path.read_bytes()
    assert data.count(offsets.tobytes()) == 1
    wrong = offsets.copy()
    wrong[-1 if beyond > 0 else 100] += beyond
    path.write_bytes(data.replace(offsets.tobytes(), wrong.tobytes()))
    with pytest.raises(InputError, match=r"x\.arrow cannot be read as an Arrow file"):
        list(open_source(path, "text").blocks())


def test_a_text_that_is_no_utf_8_is_refused(tmp_path):
    path = tmp_path / "x.arrow"
    table = pa.table({"text": ["aaaaaaaaaaaaaaaa"]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"aaaaaaaaaaaaaaaa", b"aaaaaaa\xffaaaaaaaa"))
    with pytest.raises(InputError, match=r"x\.arrow"):
        list(open_source(path, "text").blocks())


def test_an_archive_whose_member_is_shorter_than_its_header_says_is_refused(tmp_path):
    from zipfile import ZipFile

    np.save(tmp_path / "x.npy", np.arange(100.0))
    with ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes()[:-80])
    with pytest.raises(InputError, match="its header says 100 rows"):
        open_source(tmp_path / "x.npz", "x")
