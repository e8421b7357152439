"""A check reads the input, sends the first chunk and writes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fanout.errors import ConfigError, InputError
from fanout.job import ArraySchema, check_job, load_job, run_job
from fanout.serving.models import Model
from fanout.testing import FaultServer
from fanout.types import Tensor

OIP = """
[input]
path = "x.npy"

[endpoint]
url = "{url}"

[codec]
name = "oip"

[chunks]
rows = 500

[output]
path = "out/y.npy"
"""


def described(datatype="FP32", name="x", shape=(-1, 64), most=256):
    inputs = (Tensor(name=name, datatype=datatype, shape=shape),)
    outputs = (Tensor(name="y", datatype=datatype, shape=shape),)
    return Model(name="m", function=np.asarray, inputs=inputs, outputs=outputs, max_batch_size=most)


async def test_the_first_chunk_is_sent_and_its_answer_described(write_job, doubler, tmp_path):
    report = await check_job(load_job(write_job(url=f"{doubler.url}?key=s3cret"), ["output.path=new/y.npy"]))
    assert (report.rows, report.chunks, report.exit_code) == (10, 3, 0)
    assert report.probe.result.ok.tolist() == [True] * 4
    assert report.input == (ArraySchema(name="", dtype="float64", shape=(10,)),)
    assert report.probe.answer == (ArraySchema(name="", dtype="float64", shape=(4,)),)
    assert report.probe.result.stats.latency_p50 > 0
    assert "s3cret" not in repr(report)
    assert doubler.requests == 1
    assert not (tmp_path / "new").exists()
    assert json.dumps(report.as_dict())


async def test_columns_are_described_by_name(write_job, doubler, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2), "f4"), b=np.zeros(3))
    job = load_job(write_job(url=doubler.url), ["input.path=x.npz", 'input.columns=["a", "b"]'])
    doubler.status = 401
    report = await check_job(job)
    assert report.input == (
        ArraySchema(name="a", dtype="float32", shape=(3, 2)),
        ArraySchema(name="b", dtype="float64", shape=(3,)),
    )
    assert (report.stop.kind, report.exit_code, report.probe.answer) == ("refused", 3, ())


async def test_a_bad_row_in_the_first_chunk_is_reported(write_job, doubler):
    report = await check_job(load_job(write_job(rows=np.array([1.0, -1, 2, 3]), url=doubler.url)))
    assert (report.probe.result.ok.sum(), report.exit_code) == (3, 1)
    assert [(failure.start, failure.stop) for failure in report.probe.result.failures] == [(1, 2)]


async def test_rows_of_several_lengths_are_objects(write_job, doubler, tmp_path):
    (tmp_path / "x.jsonl").write_text("[1]\n[1, 2]\n")
    doubler.status = 401
    report = await check_job(load_job(write_job(url=doubler.url), ["input.path=x.jsonl"]))
    assert report.input == (ArraySchema(name="", dtype="object", shape=(2,)),)


async def test_an_input_without_rows_is_reported(write_job, doubler):
    report = await check_job(load_job(write_job(rows=np.zeros(0), url=doubler.url)))
    assert (report.rows, len(report.probe.result.ok), report.as_dict()["latency"], report.exit_code) == (0, 0, None, 0)
    assert doubler.requests == 0


async def test_an_output_that_cannot_be_written_is_refused(write_job, doubler):
    with pytest.raises(ConfigError, match=r"output\.path"):
        await check_job(load_job(write_job(url=doubler.url), ["output.path=y.xls"]))


async def test_an_input_that_cannot_be_read_is_refused(write_job, doubler):
    with pytest.raises(ConfigError, match=r"input\.column"):
        await check_job(load_job(write_job(url=doubler.url), ["input.column=images"]))


async def test_the_model_s_metadata_and_the_first_request_are_described(write_job):
    async with FaultServer(described()) as server:
        job = load_job(write_job(OIP, np.zeros((1797, 64)), server.url("oip")))
        report = await check_job(job)
        assert (server.received, server.rows) == (1, 256), "one request, as the model takes it"
        length = len(server.requests[0].body)
    x = Tensor(name="x", datatype="FP32", shape=(-1, 64))
    model = report.preview.model
    assert (model.name, model.platform, model.versions) == ("m", "fanout", ("1",))
    assert model.inputs == (x,)
    assert model.outputs[0].name == "y"
    assert (report.preview.max_rows, report.chunk_rows, report.chunks) == (256, 256, 8)
    assert report.preview.tensors == (Tensor(name="x", datatype="FP32", shape=(256, 64)),)
    assert report.preview.body_bytes == length > 256 * 64 * 4
    assert (len(report.probe.result.ok), report.probe.result.ok.sum(), report.exit_code) == (256, 256, 0)
    assert json.loads(json.dumps(report.as_dict()))["model"]["inputs"][0]["shape"] == [-1, 64]


MISFITS = [
    (
        described("INT64"),
        np.zeros((3, 64)),
        (
            "input (x.npy): input 'x' of the model wants INT64 rows of shape [64], but was given float64 numbers, "
            "rows of shape [64]: convert them first, with .astype('int64')"
        ),
    ),
    (
        described(),
        np.zeros((3, 63), "f4"),
        (
            "input (x.npy): input 'x' of the model wants FP32 rows of shape [64], but was given float32 numbers, "
            "rows of shape [63]: give it rows of that shape"
        ),
    ),
    (
        described(),
        np.array(["a", "b"]),
        (
            "input (x.npy): input 'x' of the model wants FP32 rows of shape [64], but was given texts, single values a "
            "row: give it numbers"
        ),
    ),
    (
        described("BYTES", shape=(-1,)),
        np.arange(3),
        (
            "input (x.npy): input 'x' of the model wants BYTES rows, but was given int64 numbers, single values a row: "
            "convert them first, with .astype(str)"
        ),
    ),
]


@pytest.mark.parametrize("execute", [check_job, run_job])
@pytest.mark.parametrize(("model", "rows", "message"), MISFITS)
async def test_rows_that_the_model_does_not_take_are_named_before_any_is_sent(
    write_job, tmp_path, execute, model, rows, message
):
    async with FaultServer(model) as server:
        path = write_job(OIP, rows, server.url("oip"))
        with pytest.raises(InputError) as caught:
            await execute(load_job(path))
        assert server.received == 0
    assert str(caught.value) == f"{path}: {message}"
    assert not list(tmp_path.glob("out/y*"))


@pytest.mark.parametrize("execute", [check_job, run_job])
async def test_a_column_that_the_model_does_not_know_is_named_with_the_nearest(write_job, tmp_path, execute):
    np.savez(tmp_path / "x.npz", imags=np.zeros((3, 64)), other=np.zeros(3))
    async with FaultServer(described(name="images")) as server:
        path = write_job(OIP, None, server.url("oip"))
        job = load_job(path, ["input.path=x.npz", 'input.columns=["imags"]'])
        with pytest.raises(InputError) as caught:
            await execute(job)
        assert server.received == 0
    expected = "the rows have an input 'imags': the model has images; did you mean 'images'?"
    assert str(caught.value) == f"{path}: input (x.npz, column 'imags'): {expected}"


async def test_an_unknown_model_is_reported_in_the_server_s_words(write_job):
    async with FaultServer(described()) as server:
        path = write_job(OIP, np.zeros((3, 64)), server.url("oip").replace("/m/", "/n/"))
        with pytest.raises(
            ConfigError, match=r"endpoint\.url: .*HTTP 404: .*unknown model 'n': this server has 'm'.*mistyped"
        ):
            await check_job(load_job(path))


@pytest.mark.usefixtures("shared_local")
async def test_a_refusal_without_metadata_is_quoted(write_job):
    job = load_job(write_job(OIP, np.zeros((100, 63))), ["codec.name=v1", "chunks.rows=10"])
    report = await check_job(job)
    assert (report.preview.model, report.preview.tensors) == (None, ())
    assert (report.stop.kind, report.exit_code) == ("rejected", 3)
    assert "digits takes images of shape (n, 64)" in report.stop.reason
    assert report.probe.result.stats.requests < 10
    assert report.preview.body_bytes > 63 * 2 * 10


async def test_an_unreachable_endpoint_stops_the_check(write_job):
    job = load_job(write_job(OIP, np.zeros((3, 64)), "http://127.0.0.1:9/v2/models/m/infer"), ["retry.max_attempts=1"])
    report = await check_job(job)
    assert (report.stop.kind, report.exit_code, len(report.probe.result.ok)) == ("unreachable", 3, 0)
    assert report.preview is None
