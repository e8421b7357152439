"""Line i of a ``.jsonl`` output is row i's answer."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import ConfigError
from fanout.io.writers.text import array_cells
from fanout.results import ChunkResult
from fanout.types import Chunk
from tests.io.writers.runs import cut, done, failure, opened, publish, result, write_all


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(n=st.integers(1, 40), cuts=st.sets(st.integers(1, 40)), data=st.data())
def test_any_order_of_chunks_gives_the_rows_in_order(tmp_path_factory, n, cuts, data):
    path = tmp_path_factory.mktemp("jsonl") / "out.jsonl"
    array = np.arange(2 * n, dtype=np.float32).reshape(n, 2) / 10
    chunks = data.draw(st.permutations(cut(array, cuts)))
    missing = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    write_all(path, chunks, result(n, [failure(i, i + 1) for i in sorted(missing)]))
    expected = [None if i in missing else [float(str(v)) for v in row] for i, row in enumerate(array)]
    assert lines(path) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0.1, 2], "f4"), [0.1, 2.0]),
        (np.array([0.1, 2], ">f8"), [0.1, 2.0]),
        (np.array([0.5, 2], "f2"), [0.5, 2.0]),
        (np.array([2**62, -1]), [2**62, -1]),
        (np.array([True, False]), [True, False]),
        (np.array(["a\n", "ü"], np.dtypes.StringDType()), ["a\n", "ü"]),
        (np.array([["a", "b"], ["c", ""]], np.dtypes.StringDType()), [["a", "b"], ["c", ""]]),
        (np.asfortranarray([[1.5, 2], [3, 4]]), [[1.5, 2.0], [3.0, 4.0]]),
        (np.array([[np.nan, 1], [np.inf, 2]]), [[None, 1.0], [None, 2.0]]),
        (np.array([np.nan, 1]), [None, 1.0]),
    ],
    ids=str,
)
def test_a_row_is_a_json_value(tmp_path, array, expected):
    write_all(tmp_path / "y.jsonl", [done(0, array)], result(2))
    assert lines(tmp_path / "y.jsonl") == expected


def test_several_outputs_make_an_object_a_row(tmp_path):
    outputs = {"label": np.array([3, 4]), "text": np.array(["x", "y"], np.dtypes.StringDType())}
    write_all(tmp_path / "y.jsonl", [done(0, outputs)], result(2))
    assert lines(tmp_path / "y.jsonl") == [
        {"label": 3, "text": "x", "error": None},
        {"label": 4, "text": "y", "error": None},
    ]


def test_failed_and_pending_rows_are_null(tmp_path):
    chunks = [done(6, np.arange(6, 8)), done(0, np.arange(4))]
    write_all(tmp_path / "y.jsonl", chunks, result(10, [failure(1, 2)], [Chunk(4, 6), Chunk(8, 10)]))
    assert lines(tmp_path / "y.jsonl") == [0, None, 2, 3, None, None, 6, 7, None, None]
    assert np.load(tmp_path / "y.jsonl.ok.npy").sum() == 5


def test_a_chunk_without_any_answer_writes_nothing(tmp_path):
    nothing = type(done(0, np.ones(1)))(start=0, stop=2, outputs=None, failures=(failure(0, 2),))
    write_all(tmp_path / "y.jsonl", [nothing, done(2, np.arange(2))], result(4, [failure(0, 2)]))
    assert lines(tmp_path / "y.jsonl") == [None, None, 0, 1]


def test_no_rows_give_an_empty_file(tmp_path):
    write_all(tmp_path / "y.jsonl", [], result(0))
    assert (tmp_path / "y.jsonl").read_bytes() == b""


def test_no_file_but_the_output_is_left(tmp_path):
    write_all(tmp_path / "y.jsonl", [done(0, np.arange(2))], result(2))
    assert [path.name for path in tmp_path.iterdir()] == ["y.jsonl"]


@pytest.mark.parametrize("call", ["os.pwrite", "os.fsync"])
def test_a_disk_that_is_full_at_the_end_gets_the_output_back_and_the_answers_stay_as_partial(
    tmp_path, monkeypatch, call
):
    sink = opened(tmp_path / "y.jsonl", 2)
    sink.write([done(0, np.arange(2))])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)  # fsync reports a full disk where the kernel wrote later
    with pytest.raises(OSError, match="No space left"):
        publish(sink, result(2))
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["y.jsonl.partial"]


@pytest.mark.parametrize("array", [np.array([1j]), np.array([[1j]], "c8"), np.array([1], np.longdouble)])
def test_values_that_json_cannot_hold_are_an_error(tmp_path, array):
    sink = opened(tmp_path / "y.jsonl", 1)
    with pytest.raises(ConfigError, match=r"dtype .* which JSON cannot hold; write to a \.npy file"):
        sink.write([done(0, array)])
    sink.close()


def test_ids_label_every_line(tmp_path):
    chunks = [
        done(0, np.array([0.5, 1.5]), ids=["a", "b"]),
        ChunkResult(start=2, stop=3, outputs=None, failures=(failure(2, 3),), ids=["c"]),
    ]
    write_all(tmp_path / "y.jsonl", chunks, result(3, [failure(1, 2), failure(2, 3)]))
    assert lines(tmp_path / "y.jsonl") == [
        {"id": "a", "value": 0.5, "error": None},
        {"id": "b", "value": None, "error": "HTTP 422: no"},
        {"id": "c", "value": None, "error": "HTTP 422: no"},
    ]


def test_ids_stand_beside_several_outputs(tmp_path):
    outputs = {"label": np.array([3, 4]), "p": np.ones((2, 2))}
    write_all(tmp_path / "y.jsonl", [done(0, outputs, ids=[10, 11])], result(2, [failure(1, 2)]))
    assert lines(tmp_path / "y.jsonl") == [
        {"id": 10, "label": 3, "p": [1.0, 1.0], "error": None},
        {"id": 11, "label": None, "p": None, "error": "HTTP 422: no"},
    ]


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_an_array_without_rows_has_no_cells(shape):
    assert array_cells(np.empty(shape)) == []
