"""Row i of a Parquet output is row i's answer, and null where there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fanout.errors import ConfigError
from fanout.sinks import open_sink, parquet
from fanout.types import Done
from tests.sinks.runs import cut, done, failure, result, write_all

if TYPE_CHECKING:
    from pathlib import Path

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
    lost = Done(start=0, stop=1, outputs=None, failures=(failure(0, 1),), ids=["first"])
    write_all(tmp_path / "y.parquet", [done(1, outputs, ids=["b", "c"]), lost], result(3, [failure(0, 1)]))
    assert table(tmp_path / "y.parquet") == {
        "id": ["first", "b", "c"], "label": [None, 3, 4], "text": [None, "x", "y"],
    }  # fmt: skip


def test_rows_that_nothing_came_for_are_null(tmp_path: Path) -> None:
    write_all(tmp_path / "y.parquet", [done(2, np.arange(2.0))], result(6, [failure(0, 2), failure(4, 6)]))
    assert table(tmp_path / "y.parquet") == {"value": [None, None, 0.0, 1.0, None, None]}


def test_no_rows_give_an_empty_table(tmp_path: Path) -> None:
    write_all(tmp_path / "y.parquet", [], result(0))
    assert table(tmp_path / "y.parquet") == {"value": []}


def test_many_rows_go_into_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 100)
    array = np.arange(1000.0)
    write_all(tmp_path / "y.parquet", cut(array, range(0, 1000, 30)), result(1000))
    assert pq.ParquetFile(tmp_path / "y.parquet").num_row_groups > 5
    assert table(tmp_path / "y.parquet")["value"] == array.tolist()


@pytest.mark.parametrize("array", [np.array([1j]), np.array([1], np.longdouble), np.zeros((1, 0))])
def test_what_parquet_cannot_hold_is_refused_with_the_remedy(tmp_path: Path, array: Any) -> None:
    sink = open_sink(tmp_path / "y.parquet")
    sink.open(1)
    with pytest.raises(ConfigError, match=r"the output has .*write to a \.npy file"):
        sink.write([done(0, array)])
    sink.close()


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"from fanout.sinks import open_sink; open_sink({str(tmp_path / 'y.parquet')!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'fanout-ml[arrow]'" in ended.stderr
