"""A sink that is opened again after a kill makes the file that an undisturbed run would have made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import ConfigError
from fanout.io.writers import npy
from fanout.io.writers.base import Checkpoint, Move
from fanout.io.writers.opening import open_sink
from fanout.results import ChunkResult
from fanout.rows import RowSet
from fanout.types import Chunk, schema_of
from tests.io.writers.runs import accounted, cut, failure, opened, publish, result, write_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".csv", ".parquet", ".arrow"])
ARRAYS = st.sampled_from(
    [
        np.arange(60, dtype="f4").reshape(20, 3),
        np.arange(20) * 7,
        np.array([f"text {i}\n" for i in range(20)], np.dtypes.StringDType()),
    ]
)


def content(path: Path) -> bytes:
    return path.read_bytes()


@SUFFIXES
@given(array=ARRAYS, cuts=st.sets(st.integers(1, 20)), data=st.data())
def test_any_number_of_kills_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, array: Any, cuts: set[int], data: st.DataObject
) -> None:
    if suffix == ".npy" and array.dtype.kind == "T":
        return
    folder = tmp_path_factory.mktemp("sink")
    n_rows = data.draw(st.sampled_from([len(array), None]))
    missing = data.draw(st.sets(st.integers(0, len(array) - 1), max_size=5))
    account = result(len(array), [failure(i, i + 1) for i in sorted(missing)])
    chunks = [accounted(chunk, account) for chunk in cut(array, cuts)]
    write_all(folder / f"whole{suffix}", chunks, account)
    left = data.draw(st.permutations(chunks))
    checkpoint = Checkpoint()
    while left:
        sink = opened(folder / f"y{suffix}", n_rows, checkpoint)
        committed, lost = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2))
        checkpoint = committed_to(sink, left[:committed], checkpoint)
        left = left[committed:]
        sink.write(left[:lost])  # never noted: the kill comes first
        sink.close()
    sink = opened(folder / f"y{suffix}", n_rows, checkpoint)
    publish(sink, account)
    sink.close()
    assert content(folder / f"y{suffix}") == content(folder / f"whole{suffix}")
    assert not [file for file in folder.iterdir() if "partial" in file.name or "ordered" in file.name]


def committed_to(sink: Any, chunks: Sequence[ChunkResult], checkpoint: Checkpoint) -> Checkpoint:
    if not chunks:
        return checkpoint
    sink.write(chunks)
    note, ok = sink.sync(), RowSet(checkpoint.ok)
    schema = checkpoint.schema
    for chunk in chunks:
        schema = schema or schema_of(chunk.outputs)
        ok.add(chunk.start, chunk.stop)
        for rows in chunk.failures:
            ok.remove(rows.start, rows.stop)
    return Checkpoint(schema, ok, [*checkpoint.notes, *([] if note is None else [note])])


@SUFFIXES
def test_published_rows_can_be_taken_into_a_new_run(tmp_path: Path, suffix: str) -> None:
    array = np.arange(40, dtype="f4").reshape(20, 2)
    path = tmp_path / f"y{suffix}"
    write_all(tmp_path / f"whole{suffix}", cut(array, [7]), result(20))
    write_all(path, cut(array, [7]), result(20, [failure(3, 5), failure(9, 10)]))
    ok = RowSet([(0, 3), (5, 9), (10, 20)])
    sink = opened(tmp_path / f"unused{suffix}", 20)
    sink.close()
    sink = type(sink)(path)
    notes, _ = sink.rebuild(Checkpoint(schema_of({"": array}), ok), [Move(a, b, a) for a, b in ok], published=True)
    sink = opened(path, 20, Checkpoint(schema_of({"": array}), ok, notes))
    sink.write([ChunkResult(start=a, stop=b, outputs={"": array[a:b]}) for a, b in ok.gaps(0, 20)])
    publish(sink, result(20))
    sink.close()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(path).equals(pq.read_table(tmp_path / f"whole{suffix}"))
    else:
        assert content(path) == content(tmp_path / f"whole{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"whole{suffix}", f"y{suffix}"]


@SUFFIXES
@given(
    array=ARRAYS, places=st.lists(st.integers(0, 19), max_size=20, unique=True), cuts=st.sets(st.integers(1, 20)),
    published=st.booleans(),
)  # fmt: skip
def test_answers_can_be_taken_over_to_rows_of_other_numbers(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    array: Any,
    places: list[int],
    cuts: set[int],
    published: bool,
) -> None:
    """``places[i]`` is the old number of the new row i."""
    if suffix == ".npy" and array.dtype.kind == "T":
        return
    folder = tmp_path_factory.mktemp("sink")
    path = folder / f"y{suffix}"
    checkpoint = Checkpoint()
    if published:
        write_all(path, cut(array, cuts), result(20))
        checkpoint = Checkpoint(schema_of({"": array}), RowSet([(0, 20)]))
    else:
        sink = opened(path, 20)
        checkpoint = committed_to(sink, cut(array, cuts)[::-1], checkpoint)
        sink.close()
    moves = sorted(Move(old, old + 1, new) for new, old in enumerate(places))
    sink = open_sink(path)
    notes, publication = sink.rebuild(checkpoint, moves, published=published)
    publication.carry_out()
    sink = opened(path, len(places), Checkpoint(checkpoint.schema, RowSet([(0, len(places))]), notes))
    publish(sink, result(len(places)))
    sink.close()
    write_all(folder / f"whole{suffix}", cut(array[places], [7]) if places else [], result(len(places)))
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(path)["value"].to_pylist() == array[places].tolist()
    elif places:
        assert content(path) == content(folder / f"whole{suffix}")


@SUFFIXES
def test_every_byte_of_a_committed_answer_is_checked(tmp_path: Path, suffix: str) -> None:
    array = np.arange(40, dtype="f4").reshape(20, 2)
    path = tmp_path / f"y{suffix}"
    sink = opened(path, 20)
    chunk = accounted(cut(array, [])[0], result(20, [failure(3, 5)], [Chunk(11, 13)]))
    sink.write([chunk])
    note = sink.sync()
    sink.close()
    partial = path.with_name(f"{path.name}.partial")
    data, ok = partial.read_bytes(), RowSet([(0, 3), (5, 11), (13, 20)])
    checkpoint = Checkpoint(schema_of({"": array}), ok, [note])
    begin = len(data) - array.nbytes if suffix == ".npy" else 0
    absent = {begin + 8 * row + byte for row in (3, 4, 11, 12) for byte in range(8)} if suffix == ".npy" else set()
    for at in range(begin, len(data), 1 if suffix == ".npy" else 17):
        partial.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if at in absent:  # written again before it counts
            opened(path, 20, checkpoint).close()
            continue
        with pytest.raises(ConfigError, match=r"answers to rows \d+:\d+ in .*\.partial are not .*--fresh"):
            opened(path, 20, checkpoint)
    partial.write_bytes(data)
    opened(path, 20, checkpoint).close()


def test_a_file_of_unknown_length_takes_its_room_in_large_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "_GROWTH_BYTES", 10_000)
    sink = opened(tmp_path / "y.npy", None)
    array = np.arange(5000.0)
    for chunk in cut(array, range(0, 5000, 50)):
        sink.write([chunk])
    assert (tmp_path / "y.npy.partial").stat().st_size > array.nbytes + 128
    publish(sink, result(5000))
    sink.close()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), array)
