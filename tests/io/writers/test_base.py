"""The report beside the output, and an old output that stays until the new one is whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fanout.addresses import Storage
from fanout.errors import ConfigError
from fanout.io.readers.opening import open_source
from fanout.io.remote.file import Version
from fanout.io.remote.object_stores import Bucket, StoredFile
from fanout.io.writers.opening import open_sink, require_apart_from_input
from fanout.paths import report_paths
from fanout.types import Chunk
from tests.io.writers.runs import done, failure, opened, publish, result, write_all

SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".jsonl"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@SUFFIXES
def test_the_report_names_every_failure_in_order(tmp_path, suffix):
    account = result(6, [failure(1, 2, "not a number"), failure(4, 6)])
    sink = write_all(tmp_path / f"y{suffix}", [done(0, np.arange(6.0))], account)
    assert names(tmp_path) == sorted([f"y{suffix}", f"y{suffix}.ok.npy", f"y{suffix}.failures.jsonl"])
    first, second = map(json.loads, (tmp_path / f"y{suffix}.failures.jsonl").read_text().splitlines())
    assert first == {
        "start": 1, "stop": 2, "status": 422, "attempts": 2, "reason": "not a number", "endpoint": "http://host/",
    }  # fmt: skip
    assert (second["start"], second["stop"]) == (4, 6)
    assert sink.mask == tmp_path / f"y{suffix}.ok.npy"
    assert sink.failures == tmp_path / f"y{suffix}.failures.jsonl"


@SUFFIXES
def test_a_run_without_failures_removes_the_report_of_an_earlier_one(tmp_path, suffix):
    path = tmp_path / f"y{suffix}"
    write_all(path, [done(0, np.arange(3.0))], result(3, [failure(0, 1)]))
    write_all(path, [done(0, np.arange(3.0))], result(3))
    assert names(tmp_path) == [path.name]


@SUFFIXES
def test_a_stopped_run_without_failures_has_a_mask_alone(tmp_path, suffix):
    path = tmp_path / f"y{suffix}"
    write_all(path, [done(0, np.arange(2.0))], result(3, [failure(2, 3)]))
    write_all(path, [done(0, np.arange(2.0))], result(3, pending=[Chunk(2, 3)]))
    assert names(tmp_path) == [path.name, f"{path.name}.ok.npy"]


@SUFFIXES
def test_without_any_success_the_earlier_output_stays_with_its_mask(tmp_path, suffix):
    path = tmp_path / f"y{suffix}"
    write_all(path, [done(0, np.arange(3.0))], result(3, [failure(0, 1)]))
    before = path.read_bytes(), (tmp_path / f"y{suffix}.ok.npy").read_bytes()
    sink = write_all(path, [], result(3, [failure(0, 2, "new")], [Chunk(2, 3)]))
    assert (path.read_bytes(), (tmp_path / f"y{suffix}.ok.npy").read_bytes()) == before
    assert "new" in (tmp_path / f"y{suffix}.failures.jsonl").read_text()
    assert (sink.outputs, sink.mask) == ((), None)
    assert len(names(tmp_path)) == 3


@SUFFIXES
def test_an_old_output_stays_until_the_new_one_is_whole(tmp_path, suffix):
    path = tmp_path / f"y{suffix}"
    path.write_bytes(b"old")
    sink = opened(path, 2)
    sink.write([done(0, np.arange(2.0))])
    assert path.read_bytes() == b"old"
    publish(sink, result(2))
    assert path.read_bytes() != b"old"


@SUFFIXES
def test_a_sink_that_was_never_written_to_leaves_nothing(tmp_path, suffix):
    opened(tmp_path / f"y{suffix}", 2).close()
    assert names(tmp_path) == []


def test_a_report_that_cannot_be_written_leaves_no_part_of_itself(tmp_path, monkeypatch):
    sink = opened(tmp_path / "y.npy", 2)
    sink.write([done(0, np.arange(2.0))])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OSError, match="No space"):
        publish(sink, result(2, [failure(0, 1)]))
    sink.close()
    assert names(tmp_path) == ["y.npy.partial"]


def test_values_of_an_earlier_run_are_removed_before_their_mask(tmp_path):
    """Without the mask its failed rows would look like answers, if the process were killed in between."""
    path, earlier = (tmp_path / "y.npy").resolve(), (tmp_path / "y.earlier.npy").resolve()
    mask, failures = (report.resolve() for report in report_paths(path))
    for file in (earlier, mask, failures):
        file.touch()
    sink = opened(path, 2)
    sink.write([done(0, np.arange(2))])
    publication = sink.finish(result(2), replaced=[mask, failures, earlier])
    sink.close()
    assert publication.outdated == (path, earlier, mask, failures)


@SUFFIXES
def test_rows_that_a_stop_left_out_of_the_middle_of_a_chunk_are_written_later(tmp_path, suffix):
    sink, values = opened(tmp_path / f"y{suffix}", 10), np.arange(10.0)
    sink.write([done(0, values[:4]), done(4, values[4:], pending=(Chunk(6, 8),))])
    sink.write([done(6, values[6:8])])
    publish(sink, result(10))
    sink.close()
    path = tmp_path / f"y{suffix}"
    lines = path.read_bytes().splitlines()
    assert (np.load(path).tolist() if suffix == ".npy" else list(map(json.loads, lines))) == values.tolist()


@pytest.mark.parametrize("key", ["in/y.npy", "in/y.npy.ok.npy", "in/y.npy.failures.jsonl"])
def test_an_object_that_is_read_is_never_replaced(tmp_path, key):
    pytest.importorskip("obstore")
    np.save(tmp_path / "x.npy", np.arange(3.0))
    source = open_source(tmp_path / "x.npy")
    source.files = (StoredFile(Bucket("s3", "data", Storage(), "input.path"), key, Version(1, "a")),)
    with pytest.raises(ConfigError, match=f"s3://data/in/y.npy would overwrite the input s3://data/{key}:"):
        require_apart_from_input(open_sink("s3://data/in/y.npy", folder=tmp_path), source)
    require_apart_from_input(open_sink("s3://data/out/y.npy", folder=tmp_path), source)
    require_apart_from_input(open_sink("gs://data/in/y.npy", folder=tmp_path), source)
