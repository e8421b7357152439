"""A check reads the input, sends the first chunk and writes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fanout.errors import ConfigError
from fanout.job import Form, check_job, load_job


async def test_the_first_chunk_tells_what_comes_back(write_job, doubler, tmp_path):
    found = await check_job(load_job(write_job(url=f"{doubler.url}?key=s3cret"), ["output.path=new/y.npy"]))
    assert (found.rows, found.probed, found.ok, found.chunks, found.exit_code) == (10, 4, 4, 3, 0)
    assert found.input == (Form(name="", dtype="float64", shape=(10,)),)
    assert found.answer == (Form(name="", dtype="float64", shape=(4,)),)
    assert found.latency > 0
    assert "s3cret" not in repr(found)
    assert doubler.requests == 1
    assert not (tmp_path / "new").exists()
    assert json.dumps(found.as_dict())


async def test_columns_are_told_by_name(write_job, doubler, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2), "f4"), b=np.zeros(3))
    job = load_job(write_job(url=doubler.url), ["input.path=x.npz", 'input.column=["a", "b"]'])
    doubler.status = 401
    found = await check_job(job)
    assert found.input == (
        Form(name="a", dtype="float32", shape=(3, 2)),
        Form(name="b", dtype="float64", shape=(3,)),
    )
    assert (found.stop_kind, found.exit_code, found.answer) == ("refused", 3, ())


async def test_a_bad_row_in_the_first_chunk_is_told(write_job, doubler):
    found = await check_job(load_job(write_job(rows=np.array([1.0, -1, 2, 3]), url=doubler.url)))
    assert (found.ok, found.exit_code) == (3, 1)
    assert [(failure.start, failure.stop) for failure in found.failures] == [(1, 2)]


async def test_an_input_without_rows_is_told(write_job, doubler):
    found = await check_job(load_job(write_job(rows=np.zeros(0), url=doubler.url)))
    assert (found.rows, found.probed, found.latency, found.exit_code) == (0, 0, None, 0)
    assert doubler.requests == 0


async def test_an_output_that_cannot_be_written_is_refused(write_job, doubler):
    with pytest.raises(ConfigError, match=r"output\.path"):
        await check_job(load_job(write_job(url=doubler.url), ["output.path=y.csv"]))


async def test_an_input_that_cannot_be_read_is_refused(write_job, doubler):
    with pytest.raises(ConfigError, match=r"input\.column"):
        await check_job(load_job(write_job(url=doubler.url), ["input.column=images"]))
