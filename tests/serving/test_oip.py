"""The Open Inference Protocol: metadata, and tensors in JSON and binary."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson
import pytest

from fanout.types import Tensor
from tests.serving.conftest import Recorder, serving

INFER = "/v2/models/m/infer"
LENGTH = "Inference-Header-Content-Length"


def tensor(name="x", shape=(1,), datatype="FP32", **rest):
    return {"name": name, "shape": list(shape), "datatype": datatype, **rest}


def unpacked(answer):
    """The JSON head of a binary answer, and the bytes behind it."""
    length = int(answer.headers[LENGTH])
    return orjson.loads(answer.body[:length]), answer.body[length:]


def test_metadata(digits, echo):
    """Names, data types and shapes if the model declares them; else empty lists."""
    expected = {
        "name": "digits",
        "versions": ["1"],
        "platform": "fanout",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    }
    assert digits.get("/v2/models/digits") == digits.get("/v2/models/digits/versions/1") == expected
    assert echo.get("/v2/models/echo")["inputs"] == []


def test_config_reports_the_bound_if_there_is_one(digits):
    """As Triton: without the axis of the rows; 404 without a bound."""
    info = (Tensor(name="x", datatype="FP32", shape=(-1, 3)), Tensor(name="t", datatype="BYTES", shape=(-1,)))
    config = serving(len, inputs=info[:1], outputs=info[1:], max_batch_size=8).get("/v2/models/m/config")
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
    assert config["output"] == [{"name": "t", "data_type": "TYPE_STRING", "dims": []}]
    assert digits.send("GET", "/v2/models/digits/config").status == 404


def test_server_and_health(echo):
    """The requests of an orchestrator."""
    assert "binary_tensor_data" in echo.get("/v2")["extensions"]
    assert echo.get("/v2/health/ready") == echo.get("/v2/health/live") == {}
    assert echo.get("/v2/models/echo/ready") == {"name": "echo", "ready": True}


@pytest.mark.parametrize("nested", [True, False])
def test_digits_in_json(digits, examples, nested):
    """Data flat or nested; the id comes back; the answer is flat and exact."""
    images, _ = examples
    data = images[:2] if nested else images[:2].ravel()
    body = {"id": "7", "inputs": [tensor("images", (2, 64), data=data)]}
    answer = digits.post("/v2/models/digits/versions/1/infer", body)
    (output,) = answer.pop("outputs")
    assert answer == {"model_name": "digits", "model_version": "1", "id": "7"}
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 10])
    assert np.array_equal(np.array(output["data"], "f4").reshape(2, 10), digits.model.function(images[:2]))


def test_digits_in_binary(digits, examples):
    """Raw little-endian tensors both ways."""
    images, _ = examples
    raw = images[:2].tobytes()
    inputs = [tensor("images", (2, 64), parameters={"binary_data_size": len(raw)})]
    head = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    done = digits.send("POST", "/v2/models/digits/infer", head + raw, {LENGTH.lower(): str(len(head))})
    assert done.headers["Content-Type"] == "application/octet-stream"
    assert done.rows == 2
    document, tail = unpacked(done)
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 80}
    assert "id" not in document
    assert np.array_equal(np.frombuffer(tail, "<f4").reshape(2, 10), digits.model.function(images[:2]))


def test_several_tensors_mixed(echo):
    """JSON and binary inputs together, several outputs, each as it was asked for, in the order asked for."""
    raw = np.array([0.5, -2], "<f2").tobytes()
    texts = b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa9"
    inputs = [
        tensor("half", (2,), "FP16", parameters={"binary_data_size": 4}),
        tensor("whole", (2, 1), "INT64", data=[[1], [2**60]]),
        tensor("text", (2,), "BYTES", parameters={"binary_data_size": len(texts)}),
        tensor("flag", (2,), "BOOL", data=[True, False]),
    ]
    outputs = [
        {"name": "text", "parameters": {"binary_data": False}},
        {"name": "whole", "parameters": {"binary_data": True}},
        {"name": "half"},
    ]
    head = orjson.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}})
    done = echo.send("POST", "/v2/models/echo/infer", head + raw + texts, {LENGTH: str(len(head))})
    document, tail = unpacked(done)
    assert document["outputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "é"]},
        {"name": "whole", "datatype": "INT64", "shape": [2, 1], "parameters": {"binary_data_size": 16}},
        {"name": "half", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}},
    ]
    assert tail == np.array([1, 2**60], "<i8").tobytes() + raw


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("INT8", [-128, 127]),
        ("UINT64", [1, 2**64 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [0.5, 65504]),
        ("FP32", [1, 0.1]),
        ("FP64", [1e300, 0.1]),
        ("BYTES", ["", "é"]),
    ],
)
def test_every_data_type_survives_json(echo, datatype, data):
    """The extremes of each."""
    body = {"inputs": [tensor("x", (2,), datatype, data=data)]}
    (output,) = echo.post("/v2/models/echo/infer", body)["outputs"]
    assert (output["datatype"], output["data"]) == (datatype, data)


def test_bf16_is_widened(echo):
    """numpy has no such dtype: float32 holds it exactly."""
    (output,) = echo.post("/v2/models/echo/infer", {"inputs": [tensor(datatype="BF16", data=[1.5])]})["outputs"]
    assert (output["datatype"], output["data"]) == ("FP32", [1.5])


def test_the_arguments_of_the_function():
    """One array; a list for one text a row; a dict for several inputs; all of it writable."""
    recorder = Recorder(lambda rows: np.zeros(1))
    peer = serving(recorder)
    peer.post(INFER, {"inputs": [tensor(shape=(1, 2), data=[1, 2])]})
    peer.post(INFER, {"inputs": [tensor(datatype="BYTES", data=["a"])]})
    peer.post(INFER, {"inputs": [tensor(shape=(1, 1), datatype="BYTES", data=["a"])]})
    peer.post(INFER, {"inputs": [tensor(data=[1]), tensor("y", data=[2])]})
    head = orjson.dumps({"inputs": [tensor(parameters={"binary_data_size": 4})]})
    assert peer.send("POST", INFER, head + bytes(4), {LENGTH: str(len(head))}).status == 200
    array, texts, column, several, binary = recorder.calls
    assert (array.dtype, array.shape) == (np.float32, (1, 2))
    assert texts == ["a"]
    assert column.shape == (1, 1)
    assert several.keys() == {"x", "y"}
    binary += 1


@pytest.mark.parametrize(
    ("result", "datatype", "data"),
    [
        (["a"], "BYTES", ["a"]),
        (np.array(["a"]), "BYTES", ["a"]),
        (np.array([b"a"]), "BYTES", ["a"]),
        (np.array(["a"], object), "BYTES", ["a"]),
        (np.array([1], ">i4"), "INT32", [1]),
    ],
)
def test_results_that_are_no_plain_array(result, datatype, data):
    """Texts in every form that numpy has for them."""
    (output,) = serving(Recorder(result)).post(INFER, {"inputs": [tensor(data=[1])]})["outputs"]
    assert (output["name"], output["datatype"], output["data"]) == ("output", datatype, data)


def test_nan_passes_in_binary_but_not_in_json():
    """JSON has no word for it, and null would hide it."""
    peer = serving(Recorder(np.array([np.nan], "f4")))
    body = {"inputs": [tensor(data=[1])]}
    assert "NaN" in peer.error(INFER, body, 500)
    _, tail = unpacked(peer.send("POST", INFER, body | {"parameters": {"binary_data_output": True}}))
    assert np.isnan(np.frombuffer(tail, "<f4")).all()


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([[1], [2, 3]], "neither numbers of one shape nor texts"),
        ([{"a": 1}, {}], "neither numbers"),
        (np.array([1j, 2]), "complex128, which no data type holds"),
        (np.zeros(3), "has 3 rows for the 2"),
    ],
)
def test_results_that_are_no_tensor_are_errors(result, text):
    """500, and the message names the fault."""
    assert text in serving(Recorder(result)).error(INFER, {"inputs": [tensor(shape=(2,), data=[1, 2])]}, 500)


def infer_with(**change):
    return {"inputs": [tensor(shape=(2,), data=[1, 2]) | change]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "not JSON"),
        ([], "JSON object"),
        ({}, 'expected "inputs"'),
        ({"inputs": []}, "at least one tensor"),
        ({"inputs": [1]}, "must be an object"),
        ({"inputs": [tensor(data=[1])], "id": 7}, '"id" must be a string'),
        (infer_with(name=None), 'must have a "name"'),
        (infer_with(datatype="FP31"), "no known datatype: 'FP31'"),
        (infer_with(datatype=None), "no known datatype"),
        (infer_with(shape=None), '"shape" must be a list'),
        (infer_with(shape=[]), "the rows first"),
        (infer_with(shape=[-1]), "the rows first"),
        (infer_with(shape=[True]), "the rows first"),
        (infer_with(data=None), '"data" is missing'),
        (infer_with(data="ab"), "is not a list"),
        (infer_with(data=[1]), "cannot reshape"),
        (infer_with(data=[[1], [2, 3]]), "inhomogeneous"),
        (infer_with(data=["1", "2"]), "does not hold FP32 values alone"),
        (infer_with(data=[None, 1]), "does not hold FP32"),
        (infer_with(data=[1e300, 1]), "holds values that float32 cannot"),
        (infer_with(datatype="INT64", data=[0.5, 1]), "does not hold INT64"),
        (infer_with(datatype="UINT8", data=[256, 1]), "holds values that uint8 cannot"),
        (infer_with(datatype="UINT64", data=[-1, 2**63]), "out of bounds|cannot"),
        (infer_with(datatype="UINT64", data=[0.5, 1]), "does not hold UINT64"),
        (infer_with(datatype="BOOL", data=[0, 1]), "does not hold BOOL"),
        (infer_with(datatype="BYTES", data=["a", 1]), "strings alone"),
        (infer_with(shape=[0], data=[]), "empty"),
        (infer_with(parameters={"binary_data_size": 8}), "binary_data_size is 8, but 0 bytes are left"),
        (infer_with(parameters={"binary_data_size": "8"}), "binary_data_size is '8'"),
        ({"inputs": [tensor(data=[1]), tensor(data=[1])]}, "there twice"),
        ({"inputs": [tensor(data=[1]), tensor("y", (2,), data=[1, 2])]}, r"differ .* {'x': 1, 'y': 2}"),
        (infer_with() | {"outputs": [{"name": "z"}]}, "unexpected inference output 'z' for model 'm': it has output"),
        (infer_with() | {"outputs": [{"name": []}]}, "unexpected inference output"),
        (infer_with() | {"outputs": {"name": "z"}}, '"outputs" must be a list'),
        (infer_with() | {"parameters": {"binary_data_output": 1}}, '"binary_data_output" in it true or false'),
        (infer_with() | {"parameters": [1]}, '"parameters" must be an object'),
    ],
)
def test_malformed_requests_are_refused(body, text):
    """400, and the message names the input and its fault."""
    error = serving(Recorder()).error(INFER, body)
    assert re.search(text, error), error


@pytest.mark.parametrize(
    ("length", "tail", "text"),
    [
        ("x", b"", "is 'x'"),
        ("-1", b"", "is '-1'"),
        ("9999", b"", "is '9999', but the body has"),
        (None, bytes(7), "cannot|multiple"),
        (None, bytes(9), "1 bytes more than its binary inputs"),
        (None, bytes(4), "binary_data_size is 8, but 4 bytes are left"),
    ],
)
def test_damaged_binary_is_refused(length, tail, text):
    """Lengths that do not add up are never guessed at."""
    size = 7 if len(tail) == 7 else 8
    head = orjson.dumps({"inputs": [tensor(shape=(2,), parameters={"binary_data_size": size})]})
    error = serving(Recorder()).error(INFER, head + tail, headers={LENGTH: length or str(len(head))})
    assert re.search(text, error), error


def test_texts_that_are_no_utf8_are_refused():
    """The function takes texts, not bytes."""
    raw = b"\x01\x00\x00\x00\xff"
    head = orjson.dumps({"inputs": [tensor(datatype="BYTES", parameters={"binary_data_size": len(raw)})]})
    assert "utf-8" in serving(Recorder()).error(INFER, head + raw, headers={LENGTH: str(len(head))})


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([tensor("pixels", (1, 64), data=[0] * 64)], "unexpected inference input 'pixels'.*it takes images"),
        ([tensor("images", (1, 64), "FP64", data=[0] * 64)], "input 'images' is FP64, but .* expects FP32"),
        ([tensor("images", (1, 63), data=[0] * 63)], r"takes images of shape \(n, 64\)"),
    ],
)
def test_other_inputs_than_the_models_are_refused(digits, inputs, text):
    """As Triton does: 400."""
    error = digits.error("/v2/models/digits/infer", {"inputs": inputs})
    assert re.search(text, error), error


def test_every_input_of_the_model_is_needed():
    """As Triton does: 400, naming the one that is missing."""
    infos = tuple(Tensor(name=name, datatype="FP32", shape=(-1,)) for name in ("x", "y"))
    assert "also expects input 'y'" in serving(Recorder(), inputs=infos).error(INFER, {"inputs": [tensor(data=[1])]})


def test_unknown_models_and_versions_are_not_found(digits):
    """404 on every route, and the message names the models that exist."""
    body: dict[str, Any] = {"inputs": []}
    assert "has 'digits'" in digits.error("/v2/models/x/infer", body, 404)
    assert (
        digits.error("/v2/models/digits/versions/2/infer", body, 404) == "model 'digits' has no version '2', only '1'"
    )
    for path in ("/v2/models/x", "/v2/models/x/ready", "/v2/models/x/config", "/v2/models/digits/versions/2"):
        assert digits.send("GET", path).status == 404
