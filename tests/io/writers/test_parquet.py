"""Row i of a Parquet output is row i's answer, or null without one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanout.arrow import OLDEST
from fanout.errors import ConfigError
from fanout.io.writers import arrow
from fanout.io.writers.arrow import ParquetSink
from fanout.io.writers.columns import PackedColumns
from fanout.io.writers.opening import open_sink
from fanout.results import ChunkResult
from fanout.types import Chunk
from tests.io.writers.runs import cut, done, failure, opened, publish, result, write_all

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
TEXTS = np.dtypes.StringDType()


def listed(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))


def table(path: Path) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return read


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(4, dtype="i8"), pa.int64()),
        (np.array([0.5, 1, 2, 3], "f2"), pa.float16()),
        (np.array([True, False, True, True]), pa.bool_()),
        (np.array(["a", "", "ü", "\n"], TEXTS), pa.string()),
        (np.arange(12, dtype="f4").reshape(4, 3), listed(pa.float32())),
        (np.arange(24, dtype="u1").reshape(4, 3, 2), listed(listed(pa.uint8()))),
        (np.array([["a", "b"]] * 4, TEXTS), listed(pa.string())),
    ],
    ids=str,
)
def test_values_keep_their_type_and_their_rows(tmp_path: Path, array: Any, kind: pa.DataType) -> None:
    chunks = cut(array, [1, 3])
    write_all(tmp_path / "y.parquet", reversed(chunks), result(4, [failure(2, 3)]))
    read = pq.read_table(tmp_path / "y.parquet")
    assert read.schema.field("value").type == kind
    values = array.tolist()
    assert read["value"].to_pylist() == [*values[:2], None, values[3]]


def test_several_outputs_and_ids_are_columns(tmp_path: Path) -> None:
    outputs = {"label": np.array([3, 4]), "text": np.array(["x", "y"], TEXTS)}
    lost = ChunkResult(start=0, stop=1, outputs=None, failures=(failure(0, 1),), ids=["first"])
    write_all(tmp_path / "y.parquet", [done(1, outputs, ids=["b", "c"]), lost], result(3, [failure(0, 1)]))
    assert table(tmp_path / "y.parquet") == {
        "id": ["first", "b", "c"], "label": [None, 3, 4], "text": [None, "x", "y"],
        "error": ["HTTP 422: no", None, None],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "written"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, None, None, 4], [1, None, None, 4]),
        ([1, "a", "2", 3.5], ["1", "a", "2", "3.5"]),
        ([1, 2, "x", "y"], ["1", "2", "x", "y"]),
        (["x", {"a": [1]}, [2], True], ["x", '{"a":[1]}', "[2]", "true"]),
        ([2**70, 1, 2, 3], [str(2**70), "1", "2", "3"]),
        ([2**64 - 1, 1, 2, None], [2**64 - 1, 1, 2, None]),
        ([2**64 - 1, 1, -2, 3], [str(2**64 - 1), "1", "-2", "3"]),
        ([None, None, -(2**63), 3], [None, None, -(2**63), 3]),
        ([np.int64(1), np.uint8(2), 3, 4], [1, 2, 3, 4]),
        ([None] * 4, [None] * 4),
    ],
)
def test_ids_of_several_types_become_texts(tmp_path: Path, ids: list[Any], written: list[Any]) -> None:
    array = np.arange(4.0)
    chunks = [done(0, array[:2], ids=ids[:2]), done(2, array[2:], ids=ids[2:])]
    write_all(tmp_path / "y.parquet", chunks, result(4))
    assert table(tmp_path / "y.parquet") == {"id": written, "value": array.tolist(), "error": [None] * 4}


def test_an_error_of_arrow_at_the_end_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise pa.ArrowInvalid("no\nroom")

    sink = opened(tmp_path / "y.parquet", 2)
    sink.write([done(0, np.arange(2.0))])
    monkeypatch.setattr(pq, "ParquetWriter", refuse)
    with pytest.raises(OSError, match="no room"):
        publish(sink, result(2))
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["y.parquet.partial"]


@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(4, 3), np.ones((4, 2, 2), "u1")], ids=["vectors", "matrices"]
)
@pytest.mark.parametrize("lost", [[], [0], [1, 3], [0, 1, 2]], ids=str)
def test_a_vector_without_an_answer_is_a_null_that_every_reader_takes(
    tmp_path: Path, array: Any, lost: list[int]
) -> None:
    """pyarrow before 26 cannot read a null list of a fixed length, nor write one that has elements."""
    account = result(6, [failure(i, i + 1) for i in lost], [Chunk(4, 6)])
    write_all(tmp_path / "y.parquet", cut(array, [1, 3]), account)
    column = pq.read_table(tmp_path / "y.parquet").combine_chunks()["value"].chunk(0)
    assert pa.types.is_list(column.type)
    assert column.to_pylist() == [None if i in lost or i > 3 else array[i].tolist() for i in range(6)]
    assert len(column.flatten(recursive=True)) == array[0].size * (4 - len(lost)), "null lists have no elements"
    assert b"fixed_size" not in pq.read_metadata(tmp_path / "y.parquet").metadata.get(b"ARROW:schema", b"")


def test_finishing_takes_linear_time_in_the_number_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: each chunk is decoded once, and written with its whole row group."""
    decoded: list[int] = []
    sizes: list[int] = []
    add = PackedColumns.add

    def counted(columns: PackedColumns, n_rows: int, data: bytes) -> None:
        decoded.append(n_rows)
        add(columns, n_rows, data)

    monkeypatch.setattr(PackedColumns, "add", counted)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda _, group: sizes.append(group["value"].num_chunks))
    write_all(tmp_path / "y.parquet", cut(np.arange(500.0), range(500)), result(500))
    assert (decoded, sizes) == ([1] * 500, [1])


def test_an_old_pyarrow_is_refused_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pa, "__version__", f"{OLDEST - 1}.0.1")
    with pytest.raises(
        ConfigError, match=rf"needs pyarrow {OLDEST} or later, and {OLDEST - 1}\.0\.1 is installed: pip"
    ):
        open_sink(tmp_path / "y.parquet")


def test_the_oldest_pyarrow_is_the_one_that_is_declared() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["arrow"]
    assert declared == [f"pyarrow>={OLDEST}"]


def test_rows_that_nothing_came_for_are_null(tmp_path: Path) -> None:
    write_all(tmp_path / "y.parquet", [done(2, np.arange(2.0))], result(6, [failure(0, 2), failure(4, 6)]))
    assert table(tmp_path / "y.parquet") == {
        "value": [None, None, 0.0, 1.0, None, None],
        "error": ["HTTP 422: no"] * 2 + [None] * 2 + ["HTTP 422: no"] * 2,
    }


def test_no_rows_give_an_empty_table(tmp_path: Path) -> None:
    write_all(tmp_path / "y.parquet", [], result(0))
    assert table(tmp_path / "y.parquet") == {"value": [], "error": []}


def test_many_rows_go_into_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParquetSink, "_group_rows", 100)
    array = np.arange(1000.0)
    write_all(tmp_path / "y.parquet", cut(array, range(0, 1000, 30)), result(1000))
    assert pq.ParquetFile(tmp_path / "y.parquet").num_row_groups > 5
    assert table(tmp_path / "y.parquet")["value"] == array.tolist()


def test_a_gap_of_more_rows_than_a_group_shifts_no_row(tmp_path: Path) -> None:
    n = 2 * 2**16 + 10
    write_all(tmp_path / "y.parquet", [done(n - 1, np.array([7.0]))], result(n, [failure(0, n - 1)]))
    file = pq.ParquetFile(tmp_path / "y.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2**16, 2**16, 10]
    values = file.read(["value"])["value"]
    assert (len(values), values.null_count, values[n - 1].as_py()) == (n, n - 1, 7.0)


@pytest.mark.parametrize("array", [np.array([1j]), np.array([1], np.longdouble), np.zeros((1, 0))])
def test_dtypes_that_parquet_cannot_hold_are_refused_with_the_remedy(tmp_path: Path, array: Any) -> None:
    sink = open_sink(tmp_path / "y.parquet")
    sink.open(1)
    with pytest.raises(ConfigError, match=r"the output has .*write to a \.npy file"):
        sink.write([done(0, array)])
    sink.close()


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"from fanout.io.writers.opening import open_sink; open_sink({str(tmp_path / 'y.parquet')!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'fanout-ml[arrow]'" in ended.stderr


def test_nothing_is_imported_after_the_first_write_and_pandas_never(tmp_path: Path) -> None:
    code = (
        "import sys; import numpy as np; from pathlib import Path; from tests.io.writers.runs import *\n"
        f"sink = opened(Path({str(tmp_path / 'y.parquet')!r}), 3); sink.write([done(0, np.array([1.0]))])\n"
        "before = set(sys.modules); sink.write([done(1, np.array([2.0, 3.0]))]); publish(sink, result(3))\n"
        "print(sorted(set(sys.modules) - before), 'pyarrow.parquet' in before, 'pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PYPROJECT.parent)
    assert ended.stdout.strip() == "[] True False", ended.stderr


def test_kept_columns_of_a_table_import_no_pandas(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [0.5], "name": ["a"]}), tmp_path / "in.parquet")
    code = (
        "import sys; import numpy as np; from pathlib import Path; from tests.io.writers.runs import *\n"
        "from fanout.io.readers.opening import open_source; from fanout.io.writers.opening import open_sink\n"
        f"folder = Path({str(tmp_path)!r}); source = open_source(folder / 'in.parquet', 'x', keep=['name'])\n"
        "sink = open_sink(folder / 'y.parquet'); sink.keep(source.kept)\n"
        "sink.open(1); sink.write([done(0, np.array([1.0]))]); publish(sink, result(1))\n"
        "print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PYPROJECT.parent)
    assert ended.stdout.strip() == "False", ended.stderr
    assert pq.read_table(tmp_path / "y.parquet").to_pydict() == {"name": ["a"], "value": [1.0], "error": [None]}


def test_the_version_is_known_without_an_import() -> None:
    code = "import sys; from fanout.arrow import _version; print(_version(), 'pyarrow' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [pa.__version__, "False"]


def test_a_pyarrow_that_cannot_be_imported_is_an_error_of_the_first_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ImportError("pyarrow (the installed one cannot be imported: libarrow.so is missing): pip install it")

    monkeypatch.setattr(arrow, "import_pyarrow", fail)
    sink = opened(tmp_path / "y.parquet", 1)
    with pytest.raises(ConfigError, match=r"Parquet needs pyarrow .*libarrow\.so is missing"):
        sink.write([done(0, np.array([1.0]))])
    sink.close()
