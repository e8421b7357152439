"""Whatever the order of chunks, the ``.npy`` file is the one that np.save would have written."""

from __future__ import annotations

import errno
import io
import json
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from xxhash import xxh3_64_hexdigest

from fanout.errors import ConfigError
from fanout.io.writers import npy
from fanout.io.writers.opening import open_sink
from fanout.types import Chunk
from tests.io.writers.runs import cut, done, failure, opened, publish, result, write_all

ARRAYS = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(), hnp.integer_dtypes(endianness="="), hnp.boolean_dtypes(), hnp.complex_number_dtypes()
    ),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=8).filter(lambda shape: shape[0] > 0),
)


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@given(array=ARRAYS, cuts=st.sets(st.integers(1, 8)), data=st.data())
def test_any_order_of_chunks_gives_the_bytes_of_np_save(tmp_path_factory, array, cuts, data):
    path = tmp_path_factory.mktemp("npy") / "out.npy"
    chunks = data.draw(st.permutations(cut(array, cuts)))
    write_all(path, chunks, result(len(array)))
    assert path.read_bytes() == saved(array)
    assert [entry.name for entry in path.parent.iterdir()] == ["out.npy"]


@pytest.mark.parametrize(
    ("dtype", "fill"), [("f4", np.nan), ("c8", np.nan), ("i8", 0), ("u1", 0), ("?", False)], ids=str
)
def test_rows_without_an_answer_hold_the_fill_value_even_if_something_was_written_there(tmp_path, dtype, fill):
    values = np.ones((10, 3), dtype)
    account = result(10, [failure(2, 4)], [Chunk(7, 10)])
    write_all(tmp_path / "y.npy", [done(6, values[6:8]), done(0, values[:6])], account)
    expected = values.copy()
    expected[[2, 3, 7, 8, 9]] = fill
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy.ok.npy"), account.ok)


def test_a_wide_gap_is_filled_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "_COPIED_BYTES", 50)
    write_all(tmp_path / "y.npy", [done(0, np.ones((1, 3)))], result(20, pending=[Chunk(1, 20)]))
    array = np.load(tmp_path / "y.npy")
    assert np.isnan(array[1:]).all()
    assert array.shape == (20, 3)


def test_a_chunk_without_any_answer_writes_nothing(tmp_path):
    nothing = done(0, np.ones(2))
    nothing = type(nothing)(start=0, stop=2, outputs=None, failures=(failure(0, 2),))
    write_all(tmp_path / "y.npy", [nothing, done(2, np.ones(2))], result(4, [failure(0, 2)]))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [np.nan, np.nan, 1, 1])


def test_several_outputs_get_a_file_each(tmp_path):
    outputs = {"label": np.arange(4), "p": np.ones((4, 2), "f4")}
    sink = write_all(tmp_path / "y.npy", [done(0, outputs)], result(4))
    assert sink.outputs == (tmp_path / "y.npy.label.npy", tmp_path / "y.npy.p.npy")
    assert (tmp_path / "y.npy.label.npy").read_bytes() == saved(outputs["label"])
    assert (tmp_path / "y.npy.p.npy").read_bytes() == saved(outputs["p"])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_chosen_by_the_server_stays_inside_the_folder(tmp_path):
    outputs = {"../../evil": np.arange(2), "dense/out:0": np.arange(2)}
    sink = write_all(tmp_path / "a" / "y.npy", [done(0, outputs)], result(2))
    assert all(path.parent == tmp_path / "a" for path in sink.outputs)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in sink.outputs}


def test_texts_are_refused_by_the_name_of_their_output_with_the_remedy(tmp_path):
    texts = np.array(["a", "b"], np.dtypes.StringDType())
    sink = opened(tmp_path / "y.npy", 2)
    with pytest.raises(ConfigError, match=r'output "answer" is texts.*write to y\.jsonl') as caught:
        sink.write([done(0, {"answer": texts})])
    assert caught.value.key == "output.path"
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_objects_are_refused(tmp_path):
    sink = opened(tmp_path / "y.npy", 1)
    with pytest.raises(ConfigError, match="the output is dtype object"):
        sink.write([done(0, np.array([None], object))])
    sink.close()


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
@pytest.mark.parametrize("ids", [None, ["a", "b", "c"]])
def test_outputs_may_be_called_as_the_files_and_columns_of_fanout_are(tmp_path, suffix, ids):
    names = ["ok", "OK", "id", "ID", "id_", "error", "failures", "value", "npy.ok", "a/b", "a\0b", "", "x" * 300]
    outputs = {name: np.arange(3.0) + 10 * number for number, name in enumerate(names)}
    path = tmp_path / f"y{suffix}"
    account = result(3, [failure(1, 2)])
    sink = write_all(path, [done(0, outputs, ids=ids)], account)
    np.testing.assert_array_equal(np.load(tmp_path / f"y{suffix}.ok.npy"), account.ok)
    assert (tmp_path / f"y{suffix}.failures.jsonl").read_text().count("\n") == 1
    if suffix == ".npy":
        read = [np.load(file).tolist() for file in sink.outputs]
        for column in read:
            column[1] = None
    else:
        written = read_rows(path)
        assert [row.pop("error") for row in written] == [None, "HTTP 422: no", None]
        rows = [written[0], written[2]]
        assert [row.pop("id", None) for row in rows] == ([None, None] if ids is None else ["a", "c"])
        read = [[rows[0][name], None, rows[1][name]] for name in rows[0]]
    assert sorted(read) == [[number * 10.0, None, number * 10.0 + 2] for number in range(len(names))]


def read_rows(path):
    if path.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_rows_give_the_file_that_np_save_writes_of_an_empty_list(tmp_path):
    write_all(tmp_path / "y.npy", [], result(0))
    assert (tmp_path / "y.npy").read_bytes() == saved(np.empty(0))


def test_an_answer_unlike_the_first_is_never_written_into_other_rows(tmp_path):
    sink = opened(tmp_path / "y.npy", 4)
    sink.write([done(0, np.ones((2, 3)))])
    with pytest.raises(AssertionError):
        sink.write([done(2, np.ones((2, 4)))])
    with pytest.raises(AssertionError):
        sink.write([done(2, np.ones((2, 3), "f4"))])
    sink.close()


def test_space_is_reserved_before_the_first_row_is_written(tmp_path):
    sink = opened(tmp_path / "y.npy", 100_000)
    sink.write([done(99, np.ones((1, 10)))])
    partial = tmp_path / "y.npy.partial"
    assert partial.stat().st_size == 100_000 * 80 + 128
    assert partial.stat().st_blocks * 512 >= partial.stat().st_size
    sink.close()


def test_a_file_that_grows_beyond_its_limit_raises_and_leaves_the_old_output(tmp_path):
    (tmp_path / "y.npy").write_bytes(b"old")
    sink = opened(tmp_path / "y.npy", 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            sink.write([done(0, np.ones((1, 10)))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    publish(sink, result(100_000, pending=[Chunk(0, 100_000)]))
    sink.close()
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    assert sink.outputs == ()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, None], ids=str)
def test_a_file_system_without_fallocate_only_extends_the_file(tmp_path, monkeypatch, code):
    def unsupported(*_: object) -> None:
        raise AttributeError if code is None else OSError(code, "unsupported")

    monkeypatch.setattr("os.posix_fallocate", unsupported)
    write_all(tmp_path / "y.npy", [done(1, np.ones(1)), done(0, np.zeros(1))], result(2))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [0, 1])


def test_a_full_disk_at_the_second_output_leaves_no_file_of_the_first(tmp_path, monkeypatch):
    full = iter([False, True])

    def allocate(fd: int, offset: int, size: int) -> None:
        if next(full):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", allocate)
    sink = opened(tmp_path / "y.npy", 2)
    with pytest.raises(OSError, match="No space left"):
        sink.write([done(0, {"a": np.ones(2), "b": np.ones(2)})])
    sink.close()
    assert not list(tmp_path.glob("*.npy"))


def test_files_that_finish_could_not_publish_stay_as_partial(tmp_path, monkeypatch):
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sink = opened(tmp_path / "y.npy", 2)
    sink.write([done(0, np.ones(2))])
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        publish(sink, result(2))
    sink.close()
    np.testing.assert_array_equal(np.load(io.BytesIO((tmp_path / "y.npy.partial").read_bytes())), [1, 1])


def test_ranges_that_follow_one_another_are_one_note_with_the_checksum_of_all_their_bytes(tmp_path):
    sink = opened(tmp_path / "y.npy", 50)
    rows = np.arange(100.0).reshape(50, 2)
    for start in (0, 10, 30, 20):
        sink.write([done(start, rows[start : start + 10])])
    assert sink.sync() == [
        [start, stop, xxh3_64_hexdigest(rows[start:stop].tobytes())] for start, stop in ((0, 20), (30, 40), (20, 30))
    ]
    sink.write([done(40, rows[40:])])
    assert sink.sync() == [[40, 50, xxh3_64_hexdigest(rows[40:].tobytes())]]
    assert sink.sync() is None
    sink.close()


def test_without_a_journal_no_note_is_kept(tmp_path):
    """Their number grows with the input."""
    sink = open_sink(tmp_path / "y.npy")
    sink.open(20, journalled=False)
    sink.write([done(10, np.zeros((10, 2))), done(0, np.zeros((10, 2)))])
    assert sink.sync() is None
    sink.close()
