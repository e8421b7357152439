"""The codec for the Open Inference Protocol, without a network."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.codecs import Oip
from fanout.codecs._oip_tensors import LENGTH_HEADER
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.tensors import datatype_of, dtype_of, pack, unpack
from fanout.types import ModelInfo, Response, Tensor, TensorSpec

URL = "http://user:secret@host/v2/models/m/infer"
SERVER = "http://user:secret@host/v2"
F4 = np.dtype("f4")


def tensor(name="x", datatype="FP32", shape=(-1, 2)):
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def metadata(*inputs, outputs=()):
    return {"name": "m", "inputs": list(inputs), "outputs": list(outputs)}


@pytest.fixture(scope="session")
def learnt(response):
    """A codec that has asked for metadata, Triton's configuration if there is one, and else for extensions."""

    def learn(document, config=None, server=None, **options):
        codec = Oip(**options)
        answers = {
            f"{SERVER}/models/m": response(document),
            f"{SERVER}/models/m/config": response({"error": "none"}, status=404)
            if config is None
            else response(config),
            SERVER: response(server),
        }
        responses = list[Response]()
        while len(urls := codec.metadata_requests(URL, responses)) > len(responses):
            responses.append(answers.pop(urls[len(responses)]))
        prepared = codec.with_metadata(responses)
        assert (SERVER in answers) == (config is not None)
        return prepared

    return learn


def parsed(payload):
    """The JSON part of a request, and its input tensors by name."""
    if isinstance(payload.body, bytes):
        head = orjson.loads(payload.body)
        return head, {
            t["name"]: np.array(t["data"], dtype_of(t["datatype"])).reshape(t["shape"]) for t in head["inputs"]
        }
    body, length = b"".join(payload.body), int(payload.headers[LENGTH_HEADER])
    head, rest, arrays = orjson.loads(body[:length]), body[length:], {}
    for t in head["inputs"]:
        size = t["parameters"]["binary_data_size"]
        arrays[t["name"]], rest = unpack(rest[:size], t["datatype"], t["shape"]), rest[size:]
    assert not rest
    return head, arrays


def echoed(response, payload, *, binary=True):
    """The answer of a server that gives back every input."""
    head, arrays = parsed(payload)
    outputs, buffers = [], []
    for t in head["inputs"]:
        described = {"name": t["name"], "datatype": t["datatype"], "shape": t["shape"]}
        array = arrays[t["name"]]
        if binary:
            buffers.append(bytes(pack(array, t["datatype"])))
            outputs.append({**described, "parameters": {"binary_data_size": len(buffers[-1])}})
        else:
            outputs.append({**described, "data": array.reshape(-1).tolist()})
    body = orjson.dumps({"outputs": outputs})
    return response(body + b"".join(buffers), {LENGTH_HEADER: str(len(body))} if binary else {})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("binary", 1),
        ("input", ""),
        ("input", ["x"]),
        ("outputs", "y"),
        ("outputs", ["y", "y"]),
        ("parameters", 1),
        ("parameters", {"a": float("nan")}),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ConfigError) as caught:
        Oip(**{option: value})
    assert caught.value.key == option


def test_a_binary_request():
    codec = Oip(input="x", outputs=["b", "a"], parameters={"priority": 1})
    payload = codec.encode(np.ones((2, 3), "f4"))
    head, arrays = parsed(payload)
    assert payload.content_type == "application/octet-stream"
    assert head["inputs"] == [
        {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}
    ]
    assert head["outputs"] == [{"name": name, "parameters": {"binary_data": True}} for name in ("b", "a")]
    assert head["parameters"] == {"binary_data_output": True, "priority": 1}
    assert arrays["x"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_json_request():
    codec = Oip(input="x", outputs=["b"], binary=False)
    payload = codec.encode(np.ones((2, 2), "f4"))
    assert (payload.content_type, payload.headers) == ("application/json", {})
    assert orjson.loads(payload.body) == {
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 1.0, 1.0, 1.0]}],
        "outputs": [{"name": "b"}],
    }


def test_a_json_request_refuses_nan():
    with pytest.raises(EncodeError) as caught:
        Oip(input="x", binary=False).encode(np.array([1, np.nan]))
    assert caught.value.rows == (1,)
    Oip(input="x").encode(np.array([1, np.nan]))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [3, 4]], {"x": ("INT64", [[1, 2], [3, 4]])}),
        ([0.5, 1], {"x": ("FP64", [0.5, 1.0])}),
        (["a", "é"], {"x": ("BYTES", ["a", "é"])}),
        (np.array(["a", "b"], object), {"x": ("BYTES", ["a", "b"])}),
        (
            {"a": np.array([1, 2], "i1"), "b": np.array([True, False])},
            {"a": ("INT8", [1, 2]), "b": ("BOOL", [True, False])},
        ),
        ([{"a": 1, "b": [0.5]}, {"b": [1.5], "a": 2}], {"a": ("INT64", [1, 2]), "b": ("FP64", [[0.5], [1.5]])}),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_rows_of_every_kind_become_tensors(rows, expected, binary):
    head, arrays = parsed(Oip(input="x", binary=binary).encode(rows))
    datatypes = {t["name"]: t["datatype"] for t in head["inputs"]}
    assert {name: (datatypes[name], array.tolist()) for name, array in arrays.items()} == expected


def test_rows_unlike_most_are_named():
    with pytest.raises(EncodeError) as caught:
        Oip(input="x").encode([[1, 2], [3], [4, 5]])
    assert caught.value.rows == (1,)
    with pytest.raises(EncodeError) as caught:
        Oip().encode([{"a": 1}, {"a": 2}, {"b": 1}])
    assert caught.value.rows == (2,)


def test_columns_of_different_length_are_refused():
    with pytest.raises(InputError, match="differ in length"):
        Oip().encode({"a": np.ones(2), "b": np.ones(3)})


def test_metadata_gives_the_name_and_the_datatype(learnt):
    head, arrays = parsed(learnt(metadata(tensor("images"))).encode(np.array([[1, 2], [3, 4]])))
    assert head["inputs"][0]["name"] == "images"
    assert head["inputs"][0]["datatype"] == "FP32"
    assert arrays["images"].dtype == F4


def test_texts_get_the_axis_that_the_model_has_for_them(learnt):
    codec = learnt(metadata(tensor("t", "BYTES", (-1, 1))))
    assert parsed(codec.encode(["a", "b"]))[1]["t"].tolist() == [["a"], ["b"]]


def test_rows_that_the_datatype_does_not_hold_are_named(learnt):
    with pytest.raises(EncodeError) as caught:
        learnt(metadata(tensor("x", "INT8", (-1,)))).encode([1, 200, 3])
    assert caught.value.rows == (1,)


def test_rows_of_another_form_than_the_models_are_all_alike(learnt):
    with pytest.raises(EncodeError, match=r"INT8.*float64") as caught:
        learnt(metadata(tensor("x", "INT8", (-1,)))).encode([0.5])
    assert caught.value.every_row


def test_rows_that_the_model_takes_are_not_outvoted_by_those_that_it_does_not(learnt):
    codec = learnt(metadata(tensor("x", "FP32", (-1, 2))))
    for wrong in ([1, 2, 3], "text", 7):
        with pytest.raises(EncodeError) as caught:
            codec.encode([wrong, [1, 2], wrong, wrong])
        assert (caught.value.rows, caught.value.every_row) == ((0, 2, 3), False)
        with pytest.raises(EncodeError) as caught:
            codec.encode([{"x": wrong}, {"x": [1, 2]}, {"x": wrong}])
        assert caught.value.rows == (0, 2)


def test_the_model_and_the_tensors_are_described(learnt):
    codec = learnt(metadata(tensor("x", "FP32", (-1, 2)), outputs=[tensor("y", "INT64", (-1,))]))
    x, y = Tensor(name="x", datatype="FP32", shape=(-1, 2)), Tensor(name="y", datatype="INT64", shape=(-1,))
    assert codec.describe() == ModelInfo(name="m", inputs=(x,), outputs=(y,))
    assert codec.tensors(np.ones((3, 2))) == (Tensor(name="x", datatype="FP32", shape=(3, 2)),)
    assert Oip(input="x").describe() is None


def test_several_inputs_need_names(learnt):
    codec = learnt(metadata(tensor("a"), tensor("b")))
    with pytest.raises(ConfigError, match="a, b: give a mapping"):
        codec.encode(np.ones((1, 2)))
    columns = {"a": np.ones((1, 2)), "b": np.zeros((1, 2))}
    assert list(parsed(codec.encode(columns))[1]) == ["a", "b"]
    one = learnt(metadata(tensor("a"), tensor("b")), input="b")
    assert list(parsed(one.encode(np.ones((1, 2))))[1]) == ["b"]


def test_unknown_names_are_refused_with_the_nearest_name(learnt):
    for rows in ({"imags": np.ones((2, 2))}, [{"imags": [1, 1]}] * 2):
        with pytest.raises(EncodeError, match=r"'imags': the model has images; did you mean 'images'\?") as wrong:
            learnt(metadata(tensor("images"))).encode(rows)
        assert (wrong.value.rows, wrong.value.every_row) == ((0, 1), True)
    with pytest.raises(ConfigError, match=r"input 'imags': the model has images") as caught:
        learnt(metadata(tensor("images")), input="imags")
    assert caught.value.key == "input"
    with pytest.raises(ConfigError, match=r"outputs 'zzz': the model has y$") as caught:
        learnt(metadata(outputs=[tensor("y")]), outputs=["y", "zzz"])
    assert caught.value.key == "outputs"


def test_a_server_that_lists_no_inputs_takes_any(learnt):
    assert list(parsed(learnt(metadata()).encode(np.ones(1)))[1]) == ["input"]
    assert list(parsed(learnt(metadata()).encode({"a": np.ones(1)}))[1]) == ["a"]


def test_a_url_without_infer_has_no_metadata():
    codec = Oip()
    assert codec.metadata_requests("http://user:secret@host/score?key=hidden") == ()
    with pytest.raises(ConfigError, match=r"/infer.*give codec\.input") as caught:
        codec.with_metadata(()).encode(np.ones(1))
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert list(parsed(codec.encode({"a": np.ones(1)}))[1]) == ["a"]


def test_a_name_must_come_from_somewhere():
    with pytest.raises(ConfigError, match=r"not requested: give codec\.input"):
        Oip().encode(np.ones(1))


def test_an_unknown_model_is_probably_mistyped(response):
    codec, unknown = Oip(), response({"error": "unknown model"}, status=404)
    assert codec.metadata_requests(URL, [unknown]) == (f"{SERVER}/models/m",)
    with pytest.raises(ConfigError, match=r"HTTP 404: .*unknown model.*mistyped.*codec\.input"):
        codec.with_metadata([unknown])


@pytest.mark.parametrize(
    ("body", "status"), [(b"<html>no such page", 500), (b"<html>no such page", 200), (["no such page"], 200)]
)
def test_no_metadata_and_no_name_is_a_config_error_that_quotes_the_server(response, body, status):
    with pytest.raises(ConfigError, match=rf"HTTP {status}.*no such page.*codec\.input") as caught:
        Oip().with_metadata([response(body, status=status)])
    assert caught.value.key == "input"


@pytest.mark.parametrize("status", [404, 500])
def test_metadata_may_be_missing_if_the_input_has_a_name(response, status):
    codec = Oip(input="x").with_metadata([response(b"none", status=status)] * 2)
    assert codec.max_rows is None
    assert codec.spec == {}
    assert list(parsed(codec.encode(np.ones(1)))[1]) == ["x"]


@pytest.mark.parametrize(
    ("config", "bound"), [({"max_batch_size": 8}, 8), ({"max_batch_size": 0}, None), (None, None), ([], None)]
)
def test_tritons_configuration_bounds_the_rows(learnt, config, bound):
    assert learnt(metadata(tensor()), config).max_rows == bound


def test_a_model_of_a_fixed_size_bounds_the_rows(learnt):
    assert learnt(metadata(tensor(shape=(4, 2))), {"max_batch_size": 0}).max_rows == 4


def test_a_codec_with_metadata_leaves_the_first_codec_as_it_was(response):
    first = Oip()
    codecs = [first.with_metadata([response(metadata(tensor(name)))]) for name in "ab"]
    assert [list(parsed(codec.encode(np.ones((1, 2))))[1]) for codec in codecs] == [["a"], ["b"]]
    assert first.describe() is None


def test_other_metadata_replaces_all_of_the_first(learnt):
    codec = learnt(metadata(tensor("a"), outputs=[tensor("y")]), {"max_batch_size": 8}).with_metadata(())
    assert (codec.max_rows, codec.spec) == (None, {})


OUTPUTS = [tensor("p", "FP32", (-1, 10)), tensor("label", "INT64", (-1, -1))]
P, LABEL = TensorSpec(dtype=F4, shape=(10,)), TensorSpec(dtype=np.dtype("i8"), shape=(None,))


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, {"p": P, "label": LABEL}),
        ({"outputs": ["label"]}, {"label": LABEL}),
        ({"dtype": {"p": "float64"}}, {"p": TensorSpec(dtype=np.dtype("f8"), shape=(10,)), "label": LABEL}),
        ({"shape": {"label": [3]}}, {"p": P, "label": TensorSpec(dtype=np.dtype("i8"), shape=(3,))}),
        (
            {"shape": [5], "outputs": ["p"]},
            {"*": TensorSpec(shape=(5,)), "p": TensorSpec(dtype=F4, shape=(5,))},
        ),
    ],
)
def test_the_options_go_before_the_metadata(learnt, options, spec):
    """Options win over the metadata."""
    assert learnt(metadata(tensor(), outputs=OUTPUTS), **options).spec == spec


def answer_of(response, **values):
    outputs = [
        {"name": n, "datatype": datatype_of(v.dtype), "shape": v.shape, "data": v.ravel()} for n, v in values.items()
    ]
    return response({"outputs": outputs})


def test_outputs_are_read_by_name(response):
    answer = answer_of(response, a=np.ones(2), b=np.zeros(2), c=np.ones(2))
    assert list(Oip().decode(answer, 2)) == ["a", "b", "c"]
    assert list(Oip(outputs=["c", "a"]).decode(answer, 2)) == ["c", "a"]


def test_a_missing_output_is_invalid(response, learnt):
    answer = answer_of(response, a=np.ones(2), b=np.ones(2))
    with pytest.raises(InvalidResponse, match="no output c, d; it has a, b"):
        Oip(outputs=["c", "a", "d"]).decode(answer, 2)
    with pytest.raises(InvalidResponse, match="no output p, label; it has a, b"):
        learnt(metadata(tensor(), outputs=OUTPUTS)).decode(answer, 2)
    with pytest.raises(InvalidResponse, match="it has none"):
        Oip(outputs=["a"]).decode(response({"outputs": []}), 2)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("came", [True, False])
def test_the_answer_decides_its_own_form(response, asked, came):
    codec = Oip(input="x", binary=asked)
    array = np.array([[0.5, 1], [2, 3]], "f4")
    result = codec.decode(echoed(response, codec.encode(array), binary=came), 2)["x"]
    assert result.dtype == F4
    np.testing.assert_array_equal(result, array)


def test_nonfinite_is_kept_on_request(response):
    answer = response(b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [NaN, 1]}]}')
    assert np.isnan(Oip(nonfinite="keep").decode(answer, 2)["y"][0])
    with pytest.raises(InvalidResponse, match="nonfinite"):
        Oip().decode(answer, 2)


def test_an_error_with_status_200_is_invalid_and_quoted(response):
    with pytest.raises(InvalidResponse, match="out of memory"):
        Oip().decode(response({"error": "out of memory"}), 1)


arrays = hnp.arrays(
    st.sampled_from(["?", "i1", "u2", ">i4", "u8", "i8", "f2", ">f4", "f8"]),
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=4),
    elements={"allow_nan": False, "allow_infinity": False},
)


@given(arrays, st.booleans(), st.booleans())
def test_an_array_comes_back_as_it_was(response, array, asked, came):
    codec = Oip(input="x", binary=asked)
    result = codec.decode(echoed(response, codec.encode(array), binary=came), len(array))["x"]
    assert result.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(result, array)


@given(st.lists(st.text(), min_size=1), st.booleans(), st.booleans())
def test_texts_come_back_as_they_were(response, texts, asked, came):
    codec = Oip(input="x", binary=asked)
    result = codec.decode(echoed(response, codec.encode(texts), binary=came), len(texts))["x"]
    assert result.tolist() == texts


@pytest.mark.parametrize(
    ("server", "is_raw"),
    [
        ({"name": "mlserver", "extensions": []}, False),
        ({"name": "kserve", "extensions": ["model_repository_extension"]}, True),
        ({"name": "triton", "extensions": ["binary_tensor_data"]}, True),
        ({"name": "OpenVINO"}, True),
        ({}, True),
        ([], True),
    ],
)
def test_no_raw_bytes_go_to_a_server_that_lists_no_extension_at_all(learnt, server, is_raw):
    payload = learnt(metadata(tensor()), server=server).encode(np.ones((3, 2)))
    assert (payload.content_type == "application/octet-stream") is is_raw
    assert ("binary_data_output" in parsed(payload)[0].get("parameters", {})) is is_raw


def test_a_json_codec_does_not_request_the_extensions():
    assert Oip(binary=False).metadata_requests(URL) == (f"{SERVER}/models/m", f"{SERVER}/models/m/config")
