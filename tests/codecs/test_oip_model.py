"""The metadata and the configuration of a model."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.codecs._oip_model import Metadata, metadata_urls, most_rows, server_url, spec_of
from fanout.types import ModelInfo, Tensor, TensorSpec


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("http://h/v2/models/m/infer", ("http://h/v2/models/m", "http://h/v2/models/m/config")),
        (
            "http://h/x/v2/models/m/versions/1/infer",
            ("http://h/x/v2/models/m/versions/1", "http://h/x/v2/models/m/versions/1/config"),
        ),
        ("http://h/v2/models/m/infer?k=1", ("http://h/v2/models/m?k=1", "http://h/v2/models/m/config?k=1")),
        ("http://h/v2/models/m", ()),
        ("http://h/infer/", ()),
        ("http://h/?u=/infer", ()),
    ],
)
def test_metadata_is_beside_infer(url, urls):
    assert metadata_urls(url) == urls


def test_inputs_and_outputs_are_read():
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 64]}
    metadata = Metadata.of({"inputs": [tensor], "outputs": [{**tensor, "name": "y", "shape": [-1, 10, -1]}]})
    assert metadata.inputs == {"x": Tensor(name="x", datatype="FP32", shape=(-1, 64))}
    assert spec_of(metadata.outputs["y"]) == TensorSpec(dtype=np.dtype("f4"), shape=(10, None))


def test_metadata_is_kept_for_people():
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 64]}
    message = {"name": "m", "platform": "onnxruntime_onnx", "versions": ["1", 2], "inputs": [tensor]}
    x = Tensor(name="x", datatype="FP32", shape=(-1, 64))
    assert Metadata.of(message).info == ModelInfo(
        name="m", platform="onnxruntime_onnx", versions=("1", "2"), inputs=(x,), outputs=()
    )
    assert Metadata.of({"name": 1, "platform": None, "versions": "1"}).info == ModelInfo()


@pytest.mark.parametrize("document", [None, [], "x", 1])
def test_a_document_that_is_no_object_is_no_metadata(document):
    assert Metadata.of(document) is None


@pytest.mark.parametrize("listed", [None, {}, "x", [1], [{"name": 1}], []])
def test_fields_that_are_missing_are_empty(listed):
    assert Metadata.of({"inputs": listed}).inputs == {}


@pytest.mark.parametrize(
    "item", [{}, {"datatype": 1, "shape": ["a"]}, {"shape": []}, {"shape": [True]}, {"datatype": "?"}]
)
def test_unknown_lengths_stay_open(item):
    tensor = Metadata.of({"outputs": [{"name": "y", **item}]}).outputs["y"]
    assert spec_of(tensor) == TensorSpec()


@pytest.mark.parametrize(
    ("config", "shapes", "bound"),
    [
        ({"max_batch_size": 8}, [(-1, 64)], 8),
        ({"max_batch_size": 8}, [], 8),
        ({"max_batch_size": 0}, [(-1, 64)], None),
        ({"max_batch_size": 0}, [(4, 64), (-1,), (2,)], 2),
        ({"max_batch_size": 0}, [None], None),
        ({"max_batch_size": -1}, [(4,)], None),
        ({"max_batch_size": True}, [(4,)], None),
        ({"max_batch_size": "8"}, [(4,)], None),
        ({}, [(4,)], None),
        (None, [(4,)], None),
        ([], [(4,)], None),
    ],
)
def test_a_bound_on_the_rows(config, shapes, bound):
    assert most_rows(config, [Tensor(name="x", datatype="FP32", shape=shape) for shape in shapes]) == bound


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://h/v2/models/m/infer", "http://h/v2"),
        ("http://h/x/v2/models/m/versions/1/infer?k=1", "http://h/x/v2?k=1"),
        ("http://h/score/infer", None),
    ],
)
def test_the_server_is_above_its_models(url, server):
    assert server_url(url) == server


@pytest.mark.parametrize(
    "listed",
    [
        [{"name": f"x{i}", "datatype": "FP32", "shape": [1]} for i in range(1001)],
        [{"name": "x" * 257, "datatype": "FP32", "shape": [1]}],
        [{"name": "x", "datatype": "FP32", "shape": [1] * 65}],
    ],
    ids=["tensors", "name", "axes"],
)
@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_metadata_of_no_model_that_there_is_is_none(place, listed):
    assert Metadata.of({"name": "m", place: listed}) is None


def test_the_words_of_a_server_are_kept_in_short():
    long = "x" * 10**6
    info = Metadata.of({"name": long, "platform": long, "versions": [long, 2, {}] * 10**5}).info
    assert (len(info.name), len(info.platform), len(info.versions), len(info.versions[0])) == (256, 256, 67, 256)
