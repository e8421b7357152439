"""Two outputs side by side: every pair of formats, rows by id and by position, and what counts as a difference."""

from __future__ import annotations

import csv
import itertools
import json
import sqlite3
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

from fanout import ConfigError
from fanout.compare import Comparison, compare_outputs, matching
from fanout.io.readers import base

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"id": f"r{i}", "score": i / 7, "label": "pos" if i % 3 else "neg", "vector": [i / 3, 1.0, -0.5 * i], "error": None}
    for i in range(20)
]
TABLES = (".jsonl", ".csv", ".parquet", ".arrow")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
                for row in rows
            )
    else:
        table = pa.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            pq.write_table(table, path, row_group_size=7)
        else:
            with ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table, 6)
    return path


def edited(**changes: dict[int, Any]) -> list[dict[str, Any]]:
    """The rows with other values: column -> row -> value."""
    rows = [dict(row) for row in ROWS]
    for name, values in changes.items():
        for row, value in values.items():
            rows[row][name] = value
    return rows


@pytest.mark.parametrize(("a", "b"), list(itertools.product(TABLES, TABLES)))
def test_outputs_of_any_two_formats_agree_or_name_their_differences(tmp_path: Path, a: str, b: str) -> None:
    one = write(tmp_path / f"a{a}", ROWS)
    assert compare_outputs(one, write(tmp_path / f"same{b}", ROWS)).agree
    other = edited(score={3: 0.5}, label={6: "pos"}, vector={9: [3.0, 1.0, -4.25]})
    comparison = compare_outputs(one, write(tmp_path / f"b{b}", other))
    assert not comparison.agree
    assert (comparison.by, comparison.rows, comparison.differing) == ("id", 20, 3)
    assert [row.row for row in comparison.first] == ["r3", "r6", "r9"]
    score, label, vector = comparison.columns
    assert score.largest is not None
    assert (score.differing, score.largest.row) == (1, "r3")
    assert score.largest.difference == pytest.approx(0.5 - 3 / 7)
    assert dict(label.changes) == {("neg", "pos"): 1}
    assert (label.label_changes, label.labels) == (1, 20)
    assert vector.largest is not None
    assert (vector.differing, vector.largest.difference) == (1, 0.25)


@pytest.mark.parametrize("suffix", TABLES)
def test_rows_of_other_order_are_matched_by_id_and_missing_ones_are_counted(tmp_path: Path, suffix: str) -> None:
    one = write(tmp_path / "a.jsonl", ROWS)
    rows = edited(score={3: 0.5})
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(20) if i not in (4, 11)]
    comparison = compare_outputs(one, write(tmp_path / f"b{suffix}", [*shuffled, {**ROWS[0], "id": "new"}]))
    assert (comparison.rows, comparison.differing) == (18, 1)
    assert (comparison.a.rows.first, comparison.b.rows.first) == (["r4", "r11"], ["new"])
    assert [row.row for row in comparison.first] == ["r3"]
    assert comparison.agreement == pytest.approx(17 / 21)


@given(
    st.lists(st.integers(0, 4), max_size=12),
    st.lists(st.integers(0, 4), max_size=12),
)
def test_rows_that_share_an_id_are_matched_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, a: list[int], b: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    paths = []
    for name, ids in (("a", a), ("b", b)):
        rows = [{"id": one, "score": ids[:i].count(one)} for i, one in enumerate(ids)]
        paths.append(write(folder / f"{name}.jsonl", rows or [{"id": 99, "score": 0}]))
    comparison = compare_outputs(*paths)
    counts = [{one: ids.count(one) for one in {*a, *b}} for ids in (a, b)]
    common = sum(min(counts[0][one], counts[1][one]) for one in counts[0])
    assert comparison.rows - (not a and not b) == common
    # Equal ids meet at equal positions first, and elsewhere in their order: a value tells which one it was.
    if sorted(a) == sorted(b):
        assert comparison.a.rows.count == comparison.b.rows.count == 0


def test_numpy_files_are_compared_with_their_masks_and_by_position(tmp_path: Path) -> None:
    values = np.arange(1, 31, dtype=np.float32).reshape(10, 3)
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(a, values)
    np.save(b, values + np.float32(1e-6))
    ok = np.ones(10, bool)
    ok[[2, 5]] = False
    np.save(tmp_path / "b.npy.ok.npy", ok)
    comparison = compare_outputs(a, b)
    assert (comparison.by, comparison.differing, comparison.a.answered) == ("position", 2, 2)
    assert [(row.row, row.answered) for row in comparison.first] == [("2", "a"), ("5", "a")]
    np.save(tmp_path / "a.npy.ok.npy", ok)
    # Fill values of rows without an answer are no values.
    values[2] = np.nan
    np.save(a, values)
    comparison = compare_outputs(a, b)
    assert (comparison.agree, comparison.unanswered) == (True, 2)
    bare = tmp_path / "b.jsonl"
    bare.write_text("".join(f"{json.dumps(row.tolist() if ok[i] else None)}\n" for i, row in enumerate(values)))
    assert compare_outputs(a, bare).agree
    assert not compare_outputs(a, b, rtol=0, atol=0).agree


def test_several_arrays_are_columns_in_npz_and_beside_a_common_name(tmp_path: Path) -> None:
    arrays = {"score": np.arange(5.0), "class": np.arange(5)}
    np.savez(tmp_path / "a.npz", **arrays)
    for name, array in arrays.items():
        np.save(tmp_path / f"y.npy.{name}.npy", array)
    np.save(tmp_path / "y.npy.ok.npy", np.ones(5, bool))
    assert compare_outputs(tmp_path / "a.npz", tmp_path / "y.npy").agree
    np.save(tmp_path / "y.npy.class.npy", np.array([0, 1, 2, 3, 5]))
    comparison = compare_outputs(tmp_path / "a.npz", tmp_path / "y.npy")
    changes = {column.name: dict(column.changes) for column in comparison.columns}
    assert changes == {"score": {}, "class": {("4", "5"): 1}}


def columns_of(path: Path, a: list[Any], b: list[Any], **options: Any) -> Comparison:
    for name, values in (("a", a), ("b", b)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps({"x": value, "n": 0}) + "\n" for value in values))
    return compare_outputs(path / "a.jsonl", path / "b.jsonl", columns=["x"], **options)


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        (1.0, 1 + 9e-6, True),
        (1.0, 1 + 2e-5, False),
        (0.0, 9e-9, True),
        (100000, 100001, False),
        (2**60, 2**60 + 1, False),
        (2**70, 2**70 + 1, False),
        (3, 3.0, True),
        (None, None, True),
        (None, 0, False),
        (True, 1, True),
        ("1", 1, True),
        ("a", "A", False),
        ([1.0, None], [1.0, None], True),
        ([1, 2], [1, 2, 3], False),
        ({"a": 1.0, "b": "x"}, {"a": 1 + 1e-7, "b": "x"}, True),
        ({"a": 1}, {"b": 1}, False),
        ([["a"], []], [["a"], []], True),
    ],
)
def test_values_agree_by_their_kind_also_beside_values_of_other_kinds(
    tmp_path: Path, a: Any, b: Any, agree: bool
) -> None:
    others: list[list[Any]] = [[], ["text"], [None], [[1.0]]]
    # JSON has one type of numbers, so that integers among floats are floats.
    for more in others if type(a) is int else [*others, [0.5]]:
        assert columns_of(tmp_path, [*more, a], [*more, b]).agree is agree
        assert columns_of(tmp_path, [*more, b], [*more, a]).agree is agree


def test_the_largest_element_of_a_vector_is_a_label(tmp_path: Path) -> None:
    a, b = np.array([[0.1, 0.9], [0.6, 0.4], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.4, 0.6], [0.3, 0.7]])
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    (column,) = compare_outputs(tmp_path / "a.npy", tmp_path / "b.npy", atol=1).columns
    assert (column.differing, column.labels, dict(column.changes)) == (0, 3, {("0", "1"): 1})


def test_columns_of_one_side_are_a_difference_and_pairs_may_be_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [{"id": i, "score": i / 2, "stars": 1} for i in range(3)])
    b = write(tmp_path / "b.csv", [{"id": i, "value": i / 2, "stars": 1} for i in range(3)])
    comparison = compare_outputs(a, b)
    assert (comparison.agree, comparison.a.columns, comparison.b.columns) == (False, ["score"], ["value"])
    assert compare_outputs(a, b, columns=["score=value"]).agree
    twice = compare_outputs(a, b, columns=["stars", "stars=value"]).columns
    assert [(one.name, one.differing) for one in twice] == [("stars", 0), ("stars=value", 2)]
    with pytest.raises(ConfigError, match="no column is named: leave columns out to compare all"):
        compare_outputs(a, b, columns=[])
    with pytest.raises(ConfigError, match=r"b.csv has no column 'valu' \(did you mean 'value'\?\); it has id, value"):
        compare_outputs(a, b, columns=["score=valu"])
    with pytest.raises(ConfigError, match=r"a.jsonl has no column 'key'"):
        compare_outputs(a, b, id="key")
    c = write(tmp_path / "c.csv", [{"other": 1, "error": ""}])
    with pytest.raises(ConfigError, match=r"no column is in both outputs: .*name a pair as A=B"):
        compare_outputs(a, c)
    with pytest.raises(ConfigError, match=r"absent.npy does not exist"):
        compare_outputs(tmp_path / "absent.npy", b)


def test_memory_stays_flat_however_far_from_each_other_equal_ids_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peak memory for three times as many rows, in blocks of about 250."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(matching, "_GROUP_ROWS", 256)

    def peak(n_rows: int) -> int:
        order = np.random.default_rng(0).permutation(n_rows)
        table = pa.table({"id": np.arange(n_rows), "x": np.arange(n_rows) / 3})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=500)
        pq.write_table(table.take(order), tmp_path / "b.parquet", row_group_size=500)
        tracemalloc.start()
        try:
            assert compare_outputs(tmp_path / "a.parquet", tmp_path / "b.parquet").agree
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)
    assert peak(6000) < 1.3 * peak(2000)


def test_a_temporary_file_that_cannot_be_used_is_an_error_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        database = limited(*args, **options)
        # A disk that is full after three pages.
        database.execute("PRAGMA max_page_count = 3")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect)
    a, b = write(tmp_path / "a.jsonl", ROWS * 20), write(tmp_path / "b.jsonl", ROWS[::-1] * 20)
    with pytest.raises(ConfigError, match="temporary file for them cannot be used: database or disk is full"):
        compare_outputs(a, b)
