"""Columns by name and pattern, vectors of them, other names for them, and ids of several."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fanout.errors import InputError
from fanout.io.readers.opening import open_source
from tests.io.readers.reading import holds_in_parts, ids, plain, read, refusal, refused_at_once

ROWS = [
    {"order": 7, "line": "a", "f1": 1, "f10": 0.5, "f2": 3, "text": "one"},
    {"order": 7, "line": "b", "f1": 4, "f10": 1.5, "f2": 6, "text": "two"},
    {"order": 8, "line": "a", "f1": 7, "f10": 2.5, "f2": 9, "text": "three"},
]


def write_npz(path):
    np.savez(path, **{name: np.array([row[name] for row in ROWS]) for name in ROWS[0]})


def write_csv(path):
    path.write_text("\n".join([",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]) + "\n")


WRITERS = {
    "x.npz": write_npz,
    "x.csv": write_csv,
    "x.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "x.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "x.arrow": lambda path: _write_arrow(path),
}


def _write_arrow(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


@pytest.fixture(params=WRITERS)
def file(tmp_path, request):
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


def test_a_pattern_selects_columns_in_the_order_of_the_file(file):
    holds_in_parts(open_source(file, columns=["f*"]), [{n: row[n] for n in ("f1", "f10", "f2")} for row in ROWS])
    selected = open_source(file, columns=["text", "f?", "f1"])
    assert plain(read(selected)) == [{n: row[n] for n in ("text", "f1", "f2")} for row in ROWS]


def test_a_pattern_passes_over_the_columns_of_ids(file):
    rows = plain(read(open_source(file, columns=["*"], id="order")))
    assert rows == [{n: value for n, value in row.items() if n != "order"} for row in ROWS]
    assert plain(read(open_source(file, columns=["order", "f1"], id="order")))[0] == {"order": 7, "f1": 1}


def test_columns_of_numbers_make_vectors(file):
    holds_in_parts(
        open_source(file, columns=["f*"], as_vector=True), [[row["f1"], row["f10"], row["f2"]] for row in ROWS]
    )


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "x.parquet", "x.arrow"])
def test_vectors_of_typed_columns_are_one_array(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = read(open_source(tmp_path / name, columns=["f*"], as_vector=True))
    assert (rows.dtype, rows.shape) == (np.float64, (3, 3))
    rows = read(open_source(tmp_path / name, columns=["f1", "f2"], as_vector=True))
    assert rows.dtype == np.int64


def test_a_vector_of_texts_is_refused(file):
    error = refusal(file, columns=["f1", "text"], as_vector=True)
    assert '"text" holds ' in str(error)
    assert 'in row 0; as = "vector" takes columns of numbers' in str(error)
    assert error.key == "input.columns"


def test_renamed_columns_have_their_new_name(file):
    source = open_source(file, columns=["text", "f1"], rename={"text": "input", "f1": "text"})
    holds_in_parts(source, [{"input": row["text"], "text": row["f1"]} for row in ROWS])


def test_a_name_that_two_columns_would_have_is_refused(file):
    error = refusal(file, columns=["text", "f1"], rename={"text": "f1"})
    assert 'would be called "f1"' in str(error)
    assert error.key == "input.rename"


def test_a_renamed_column_must_be_one_of_the_rows(file):
    error = refusal(file, columns=["text", "f1"], rename={"txt": "input"})
    assert '"txt" is not among the columns of the rows' in str(error)
    assert 'did you mean "text"?' in str(error)


def test_several_columns_are_an_id_by_name(file):
    assert ids(open_source(file, "text", id=["order", "line"])) == [
        {"order": 7, "line": "a"}, {"order": 7, "line": "b"}, {"order": 8, "line": "a"},
    ]  # fmt: skip
    assert refusal(file, "text", id=["order", "lime"]).key == "input.id"


def test_needed_columns_are_read_if_none_is_named(file):
    rows = plain(read(open_source(file, needed={"f1", "text"})))
    picked = [{"f1": row["f1"], "text": row["text"]} for row in ROWS]
    assert rows == (ROWS if file.suffix == ".jsonl" else picked)
    assert plain(read(open_source(file, "f2", needed={"f1"}))) == [row["f2"] for row in ROWS]
    if file.suffix != ".jsonl":
        assert refusal(file, needed={"txt"}).key == "input.columns"


def test_a_place_inside_a_needed_column_needs_the_column(tmp_path):
    table = pa.table({"doc": [{"text": "a", "n": 1}], "other": [2]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert plain(read(open_source(tmp_path / "x.parquet", needed={"doc.text"}))) == [{"doc.text": "a"}]
    assert plain(read(open_source(tmp_path / "x.parquet", needed={"doc.list.x"}))) == [{"doc": {"text": "a", "n": 1}}]


def test_inputs_without_names_ignore_needed_columns(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    assert plain(read(open_source(tmp_path / "x.npy", needed={"a"}))) == [0, 1, 2]


def test_a_pattern_that_matches_nothing_is_refused(file):
    error = refusal(file, columns=["g*"])
    assert 'that "g*" matches; it holds "order", "line", "f1"' in str(error)
    assert error.key == "input.columns"


def test_a_name_with_the_characters_of_a_pattern_is_a_name_first(tmp_path):
    (tmp_path / "x.csv").write_text("a[1],a1\n1,2\n")
    assert plain(read(open_source(tmp_path / "x.csv", columns=["a[1]"]))) == [{"a[1]": 1}]
    assert plain(read(open_source(tmp_path / "x.csv", columns=["a[[]*", "*"]))) == [{"a[1]": 1, "a1": 2}]


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"column": "f1", "columns": ["f2"]}, "columns", "give one"),
        ({"column": ["f1", "f2"]}, "column", "give several in columns"),
        ({"columns": []}, "columns", "empty list"),
        ({"id": []}, "id", "empty list"),
        ({"column": "f1", "as_vector": True}, "as", "name them in columns"),
        ({"column": "f1", "rename": {"f1": "x"}}, "rename", "leave rename out"),
        ({"columns": ["f*"], "as_vector": True, "rename": {"f1": "x"}}, "rename", "leave rename out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(file, options, key, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(file, **options)
    assert caught.value.key == f"input.{key}"


@pytest.mark.parametrize("options", [{"columns": ["*"]}, {"rename": {"a": "b"}}, {"id": ["a"]}])
def test_inputs_without_names_take_no_options_of_columns(tmp_path, options):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.txt").write_text("a\n")
    for name in ("x.npy", "x.txt"):
        assert f"leave {next(iter(options))} out" in str(refused_at_once(tmp_path / name, **options))


def test_rename_alone_changes_the_fields_of_whole_objects(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "n": 1}\n{"n": 2}\n')
    holds_in_parts(open_source(tmp_path / "x.jsonl", rename={"text": "input"}), [{"input": "a", "n": 1}, {"n": 2}])
    assert 'none of the first 2 rows has "txt"' in str(refusal(tmp_path / "x.jsonl", rename={"txt": "input"}))


def test_rename_without_columns_is_refused_where_a_row_would_be_a_bare_value(tmp_path):
    write_csv(tmp_path / "x.csv")
    assert 'columns = ["*"]' in str(refused_at_once(tmp_path / "x.csv", rename={"text": "input"}))


def test_a_pointer_can_have_another_name(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"doc": {"text": "a"}}\n')
    source = open_source(tmp_path / "x.jsonl", columns=["/doc/text"], rename={"/doc/text": "text"})
    assert read(source) == [{"text": "a"}]


def test_a_row_without_a_missing_number_is_the_same_vector_beside_one_that_misses_it(tmp_path):
    (tmp_path / "x.csv").write_text("f1,f2\n1,0.5\n,1.5\n3,2.5\n")
    rows = read(open_source(tmp_path / "x.csv", columns=["f*"], as_vector=True))
    assert plain(rows) == [[1.0, 0.5], [None, 1.5], [3.0, 2.5]]
    assert rows[0].dtype == np.float64
    alone = read(open_source(tmp_path / "x.csv", columns=["f*"], as_vector=True), 1)
    assert [type(row) for row in alone] == [type(row) for row in rows]


def test_an_integer_that_a_float_cannot_hold_makes_no_vector(tmp_path):
    np.savez(tmp_path / "x.npz", f1=np.array([1, 2**53 + 1]), f2=np.array([0.5, 0.5]))
    error = refusal(tmp_path / "x.npz", columns=["f*"], as_vector=True)
    assert '"f1" of row 1 is 9007199254740993, which the floats of a vector cannot hold exactly' in str(error)
    np.savez(tmp_path / "x.npz", f1=np.array([1, 2**53]), f2=np.array([0.5, 0.5]))
    assert plain(read(open_source(tmp_path / "x.npz", columns=["f*"], as_vector=True)))[1] == [2.0**53, 0.5]


def test_a_column_of_arrays_makes_no_vector(tmp_path):
    np.savez(tmp_path / "x.npz", f1=np.zeros((3, 2)), f2=np.zeros(3))
    assert '"f1" holds arrays of shape [2]' in str(refusal(tmp_path / "x.npz", columns=["f*"], as_vector=True))


@pytest.mark.parametrize("missing", ["order", "line"])
def test_a_missing_part_of_an_id_is_named_with_its_row(tmp_path, missing):
    rows = [dict(row) for row in ROWS]
    del rows[1][missing]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f'row 1 has no id: "{missing}"' in str(refusal(tmp_path / "x.jsonl", "text", id=["order", "line"]))


def test_the_options_are_part_of_the_fingerprint(file):
    options = [
        {"column": "f1"}, {"columns": ["f1"]}, {"columns": ["f*"]}, {"columns": ["f*"], "as_vector": True},
        {"columns": ["f1"], "rename": {"f1": "x"}}, {"column": "f1", "id": "order"},
        {"column": "f1", "id": ["order"]}, {"column": "f1", "id": ["order", "line"]},
    ]  # fmt: skip
    prints = [open_source(file, **one).fingerprint() for one in options]
    assert all(prints.count(one) == 1 for one in prints)
