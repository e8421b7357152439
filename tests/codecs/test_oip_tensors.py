"""Tensors of the Open Inference Protocol: inputs in the model's datatype, outputs as JSON and as raw bytes."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from fanout.codecs._oip_tensors import LENGTH_HEADER, fits, fitted, output_tensors
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.tensors import dtype_of, pack, unpack
from fanout.types import Tensor

TEXT = np.dtypes.StringDType()


def tensor(datatype, shape=None):
    return Tensor(name="x", datatype=datatype, shape=shape)


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.ones(2, ">f4"), "FP32"),
        (np.ones(2), "FP64"),
        (np.ones(2, "f2"), "FP16"),
        (np.ones(2, "u1"), "UINT8"),
        (np.ones(2, bool), "BOOL"),
        (np.array(["a", "b"]), "BYTES"),
        (np.array([b"a", b"\0"], object), "BYTES"),
    ],
)
def test_without_metadata_the_dtype_of_the_rows_counts(array, datatype):
    for model in (None, tensor("")):
        result = fitted("x", array, model)
        assert result.datatype == datatype
        assert result.array.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "datatype", "dtype"),
    [
        (np.array([1.5, 2]), "FP32", "f4"),
        (np.array([1, 2]), "FP32", "f4"),
        (np.array([1, 2]), "BF16", "f4"),
        (np.array([0, 255]), "UINT8", "u1"),
        (np.array([True, False]), "INT32", "i4"),
        (np.array([True, False]), "FP32", "f4"),
        (np.array([2**24 + 2]), "FP32", "f4"),
        (np.array([256, -258, 2**62]), "BF16", "f4"),
        (np.array([3.38e38, np.nan, np.inf], "f4"), "BF16", "f4"),
        (np.array([2**62]), "FP32", "f4"),
        (np.array([-(2**63)]), "FP64", "f8"),
        (np.array([1, 2], "u8"), "INT64", "i8"),
        (np.array([np.nan, np.inf]), "FP32", "f4"),
    ],
)
def test_rows_are_cast_to_the_models_datatype(array, datatype, dtype):
    result = fitted("x", array, tensor(datatype))
    assert result.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result.array, array)


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([1, 256, -1]), "UINT8"),
        (np.array([0, 2**31, -(2**31) - 1]), "INT32"),
        (np.array([1, 2**63, 2**64 - 1], "u8"), "INT64"),
        (np.array([0, -1, -1], "i1"), "UINT64"),
        (np.array([0, 2**24 + 1, -(2**24) - 1]), "FP32"),
        (np.array([0, 2**53 + 1, 2**63 - 1]), "FP64"),
        (np.array([0, 2049, 100_000]), "FP16"),
        (np.array([0, 257, -(2**24) - 1]), "BF16"),
        (np.array([0, 1e300, -1e300]), "FP32"),
        (np.array([0, 3.4e38, -3.4e38], "f4"), "BF16"),
        (np.array([0, 1e39, -3.4e38]), "BF16"),
        (np.array([0, 1e5, -1e5], "f4"), "FP16"),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1)])
def test_rows_that_the_datatype_does_not_hold_are_named(array, datatype, shape):
    with pytest.raises(EncodeError, match=f"{datatype} does not hold") as caught:
        fitted("x", array.reshape(shape), tensor(datatype))
    assert caught.value.rows == (1, 2)


@pytest.mark.parametrize(
    ("array", "datatype", "shape", "message"),
    [
        (
            np.full((2, 3), 0.5),
            "INT64",
            (-1, 3),
            (
                "wants INT64 rows of shape [3], but was given float64 numbers, rows of shape [3]: convert them first, "
                "with .astype('int64')"
            ),
        ),
        (
            np.array([1, 2]),
            "BOOL",
            None,
            (
                "wants BOOL rows, but was given int64 numbers, single values a row: convert them first, "
                "with .astype('bool')"
            ),
        ),
        (np.array([1, 2]), "BYTES", (-1,), "int64 numbers, single values a row: convert them first, with .astype(str)"),
        (
            np.array(["a", "b"]),
            "FP32",
            (-1, 3),
            "wants FP32 rows of shape [3], but was given texts, single values a row",
        ),
        (np.array(["a", "b"]), "FP32", (-1, 3), "give it numbers"),
    ],
)
def test_rows_of_another_kind_are_all_alike_and_both_forms_are_named(array, datatype, shape, message):
    with pytest.raises(EncodeError) as caught:
        fitted("x", array, tensor(datatype, shape))
    assert str(caught.value).startswith("input 'x' of the model wants ")
    assert message in str(caught.value)
    assert (caught.value.rows, caught.value.every_row) == ((0, 1), True)


@pytest.mark.parametrize(
    ("row", "model", "message"),
    [
        ((63,), (-1, 64), "wants FP32 rows of shape [64], but was given float32 numbers, rows of shape [63]"),
        ((63,), (-1, 64), "[63]: give it rows of that shape"),
        ((8, 8), (-1, 64), "reshape them first, with .reshape(-1, 64)"),
        ((64,), (-1, 8, 8), "reshape them first, with .reshape(-1, 8, 8)"),
        ((), (-1, 5), "single values a row: give it rows of that shape"),
        ((3,), (-1, 3, -1), "give it rows of that shape (-1: any length)"),
        ((3, 2), (-1, -1), "rows of shape [3, 2]"),
    ],
)
def test_rows_of_another_shape_are_all_alike_and_both_shapes_are_named(row, model, message):
    with pytest.raises(EncodeError) as caught:
        fitted("x", np.zeros((2, *row), "f4"), tensor("FP32", model))
    assert message in str(caught.value)
    assert (caught.value.rows, caught.value.every_row) == ((0, 1), True)


def test_a_datatype_that_is_not_known_here_is_a_config_error():
    with pytest.raises(ConfigError, match="FP8, which fanout does not know"):
        fitted("x", np.array([1]), tensor("FP8"))


@pytest.mark.parametrize(
    ("form", "datatype", "shape", "expected"),
    [
        (("numbers", (3,)), "FP32", (-1, 3), True),
        (("numbers", (4,)), "FP32", (-1, 3), False),
        (("numbers", (4,)), "FP32", (-1, -1), True),
        (("numbers", (4,)), "FP32", (-1,), True),
        (("numbers", (4,)), "FP32", None, True),
        (("numbers", ()), "FP32", (-1, 1), True),
        (("booleans", (3,)), "BOOL", (-1, 3), True),
        (("texts", (3,)), "FP32", (-1, 3), False),
        (("texts", (3,)), "BYTES", (-1, 3), True),
        (("numbers", (3,)), "BYTES", (-1, 3), False),
    ],
)
def test_fits_accepts_the_schemas_of_the_model(form, datatype, shape, expected):
    assert fits(tensor(datatype, shape))(form) is expected
    assert fits(None)(form)


@pytest.mark.parametrize(
    "array", [np.array([1j]), np.zeros(1, "M8[s]"), np.array(1.0), np.array([{}], object), np.zeros(1, np.longdouble)]
)
def test_rows_that_the_protocol_does_not_have_are_an_input_error(array):
    with pytest.raises(InputError):
        fitted("x", array, None)


def test_missing_texts_fail_alone():
    with pytest.raises(EncodeError) as caught:
        fitted("x", np.array(["a", None], object), None)
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("shape", "model", "sent"),
    [
        ((2,), (-1, 1), (2, 1)),
        ((2,), (-1, -1), (2, 1)),
        ((2,), (-1,), (2,)),
        ((2,), None, (2,)),
        ((2, 1), (-1, 1), (2, 1)),
        ((2, 3), (-1, -1), (2, 3)),
        ((2, 3), (5, 3), (2, 3)),
        ((2, 3), (-1,), (2, 3)),
    ],
)
def test_single_values_get_the_axis_that_the_model_has_for_them(shape, model, sent):
    assert fitted("x", np.zeros(shape, "f4"), tensor("FP32", model)).array.shape == sent
    assert fitted("x", np.full(shape, "a"), tensor("BYTES", model)).array.shape == sent


def test_numbers_are_bytes_without_a_copy():
    array = np.arange(6, dtype="f4").reshape(2, 3)
    described, data = fitted("x", array, None).binary()
    assert described == {"name": "x", "shape": (2, 3), "datatype": "FP32", "parameters": {"binary_data_size": 24}}
    assert np.shares_memory(np.frombuffer(data, "f4"), array)


@pytest.mark.parametrize("array", [np.array(["é", ""]), np.array([b"\0\xff\0", b"a"], object), np.array(["x"], TEXT)])
def test_texts_and_bytes_are_bytes(array):
    described, data = fitted("x", array, None).binary()
    assert described["parameters"]["binary_data_size"] == len(data)
    expected = [item if isinstance(item, bytes) else item.encode() for item in array.tolist()]
    assert data == b"".join(len(item).to_bytes(4, "little") + item for item in expected)


def test_data_in_json_is_flat():
    described = fitted("x", np.array([[1, 2], [3, 4]], ">i2").T, None).json()
    assert orjson.loads(orjson.dumps(described, option=orjson.OPT_SERIALIZE_NUMPY)) == {
        "name": "x",
        "shape": [2, 2],
        "datatype": "INT16",
        "data": [1, 3, 2, 4],
    }
    assert fitted("x", np.array([["a"], ["é"]]), None).json()["data"] == ["a", "é"]


def test_json_refuses_values_that_it_cannot_express():
    with pytest.raises(EncodeError, match="NaN") as caught:
        fitted("x", np.array([[1.0], [np.nan]]), None).json()
    assert caught.value.rows == (1,)
    with pytest.raises(EncodeError, match="UTF-8") as caught:
        fitted("x", np.array([b"a", b"\xff"], object), None).json()
    assert caught.value.rows == (1,)


def test_binary_carries_values_that_json_does_not():
    _, data = fitted("x", np.array([np.nan, np.inf]), None).binary()
    np.testing.assert_array_equal(unpack(data, "FP64", [2]), [np.nan, np.inf])


def test_half_of_a_surrogate_pair_is_no_text():
    with pytest.raises(EncodeError, match="surrogate") as caught:
        fitted("x", np.array([["a", "b"], ["c", "\ud800"]]), None).binary()
    assert caught.value.rows == (1,)


@pytest.mark.parametrize("shape", [None, (-1, 4), (-1, -1), (4, 4), (-1,)])
def test_rows_that_may_be_of_the_models_shape_are_left_to_the_server(shape):
    assert fitted("x", np.ones((2, 4), "f4"), tensor("FP32", shape)).array.shape == (2, 4)


def output(name="y", datatype="FP32", shape=(2,), **rest):
    return {"name": name, "datatype": datatype, "shape": list(shape), **rest}


def as_json(response, **rest):
    return response({"outputs": [output(**rest)]})


def as_binary(response, outputs, *buffers, header=None):
    head = orjson.dumps({"outputs": outputs})
    return response(head + b"".join(buffers), {LENGTH_HEADER: str(len(head)) if header is None else header})


def sized(size, **rest):
    return output(**rest, parameters={"binary_data_size": size})


FP32 = np.array([1.5, -2], "<f4").tobytes()


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("FP32", [1, 0.5], np.array([1, 0.5], "f4")),
        ("FP64", [1, 0.1], np.array([1, 0.1])),
        ("FP16", [1, 0.5], np.array([1, 0.5], "f2")),
        ("BF16", [1, 0.5], np.array([1, 0.5], "f4")),
        ("INT64", [2**62, 1.0], np.array([2**62, 1])),
        ("UINT8", [0, 255], np.array([0, 255], "u1")),
        ("BOOL", [True, False], np.array([True, False])),
        ("BYTES", ["a", "é"], np.array(["a", "é"], TEXT)),
    ],
)
def test_json_data_has_the_dtype_of_its_datatype(response, datatype, data, expected):
    result = output_tensors(as_json(response, datatype=datatype, data=data), keep=False)["y"]
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_json_data_is_flat_or_nested(response, data):
    result = output_tensors(as_json(response, shape=(2, 2), data=data), keep=False)["y"]
    assert result.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("rest", "match"),
    [
        ({"data": [1, None]}, "row 1 of output 'y' holds null"),
        ({"data": [1, "2"]}, "row 1 of output 'y' holds a text"),
        ({"data": [1, True]}, "row 1 of output 'y' holds true or false"),
        ({"data": [1e300, 1]}, "row 0 of output 'y' holds 1e[+]300, which overflows"),
        ({"data": [1, 2, 3, None], "shape": (2, 2)}, "row 1 of output"),
        ({"data": [[1, 2], [3, None]], "shape": (2, 2)}, "row 1 of output"),
        ({"data": [[1, 2], [3]], "shape": (2, 2)}, "row 1 of output 'y' is ragged"),
        ({"data": [1, 0.5], "datatype": "INT32"}, r"row 1 of output 'y' holds 0\.5"),
        ({"data": [1, 2**31], "datatype": "INT32"}, "row 1 of output 'y' holds 2147483648, which overflows"),
        ({"data": [1, 0], "datatype": "BOOL"}, "holds a number where bool"),
        ({"data": ["a", 1], "datatype": "BYTES"}, "row 1 of output 'y' holds a number"),
        ({"data": [1, 2, 3]}, "of the shape"),
        ({"data": [[1], [2]]}, "of the shape"),
        ({"data": [[1, 2, 3, 4]], "shape": (2, 2)}, "of the shape"),
        ({"data": []}, "of the shape"),
        ({"data": 1}, "without data"),
        ({}, "without data"),
        ({"data": [1, 2], "datatype": "FP8"}, "datatype 'FP8'"),
        ({"data": [1, 2], "datatype": None}, "datatype None"),
        ({"data": [1, 2], "shape": ()}, "shape"),
        ({"data": [1, 2], "shape": (-1,)}, "shape"),
        ({"data": [1, 2], "shape": (2.0,)}, "shape"),
        ({"data": [1, 2], "name": 1}, "without a name"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size -1"),
        ({"parameters": {"binary_data_size": "8"}}, "binary_data_size '8'"),
        ({"parameters": {"binary_data_size": 8}}, "8 bytes behind its JSON, but 0 came"),
    ],
)
def test_an_output_that_contradicts_its_description_is_invalid(response, rest, match):
    with pytest.raises(InvalidResponse, match=match):
        output_tensors(as_json(response, **rest), keep=False)


@pytest.mark.parametrize(
    "document",
    [{"error": "out of memory"}, ["out of memory"], {"outputs": "out of memory"}, {"outputs": ["out of memory"]}],
)
def test_an_answer_of_another_form_is_invalid_and_quoted(response, document):
    with pytest.raises(InvalidResponse, match="out of memory"):
        output_tensors(response(document), keep=False)


def test_two_outputs_of_one_name_are_invalid(response):
    with pytest.raises(InvalidResponse, match="same name"):
        output_tensors(response({"outputs": [output(data=[1, 2]), output(data=[3, 4])]}), keep=False)


@pytest.mark.parametrize("data", ["[NaN, 1]", "[null, 1]"])
def test_nan_in_json_is_kept_or_invalid(response, data):
    """Triton prints NaN, MLServer null."""
    answer = response(f'{{"outputs": [{{"name": "y", "datatype": "FP32", "shape": [2], "data": {data}}}]}}'.encode())
    np.testing.assert_array_equal(output_tensors(answer, keep=True)["y"], np.array([np.nan, 1], "f4"))
    with pytest.raises(InvalidResponse):
        output_tensors(answer, keep=False)


@pytest.mark.parametrize("datatype", ["INT64", "BOOL", "BYTES"])
def test_null_is_refused_in_dtypes_without_nan(response, datatype):
    with pytest.raises(InvalidResponse, match="null"):
        output_tensors(as_json(response, datatype=datatype, data=[None, None]), keep=True)


def test_binary_outputs_are_views_in_the_stated_order(response):
    texts = pack(np.array(["a", "é"]), "BYTES")
    answer = as_binary(response, [sized(8), sized(len(texts), name="t", datatype="BYTES")], FP32, texts)
    result = output_tensors(answer, keep=False)
    assert list(result) == ["y", "t"]
    assert result["y"].tolist() == [1.5, -2.0]
    assert result["t"].tolist() == ["a", "é"]
    assert np.shares_memory(result["y"], np.frombuffer(answer.body, np.uint8))


def test_binary_and_json_outputs_may_be_mixed(response):
    result = output_tensors(as_binary(response, [output(name="j", data=[1, 2]), sized(8)], FP32), keep=False)
    assert {name: array.tolist() for name, array in result.items()} == {"j": [1.0, 2.0], "y": [1.5, -2.0]}


def test_a_length_header_without_binary_outputs(response):
    assert output_tensors(as_binary(response, [output(data=[1, 2])]), keep=False)["y"].tolist() == [1.0, 2.0]


def test_the_header_is_read_in_any_case(response):
    head = orjson.dumps({"outputs": [sized(8)]})
    result = output_tensors(response(head + FP32, {LENGTH_HEADER.lower(): str(len(head))}), keep=False)
    assert result["y"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("outputs", "data", "match"),
    [
        ([sized(8)], FP32[:-1], "8 bytes behind its JSON, but 7 came"),
        ([sized(8)], FP32 + b"\0", "8 bytes behind its JSON, but 9 came"),
        ([sized(4)], FP32[:4], "FP32 of shape"),
        ([sized(7)], FP32[:7], "FP32 of shape"),
        ([sized(8, shape=(2, 2))], FP32, "FP32 of shape"),
        ([sized(0)], b"", "FP32 of shape"),
        ([sized(2, datatype="BOOL")], b"\1\2", "neither true nor false"),
        ([sized(3, datatype="BYTES", shape=(1,))], b"\1\0\0", "breaks off"),
        ([sized(5, datatype="BYTES", shape=(1,))], b"\1\0\0\0\xff", "BYTES of shape"),
    ],
)
def test_bytes_that_do_not_agree_are_invalid(response, outputs, data, match):
    with pytest.raises(InvalidResponse, match=match):
        output_tensors(as_binary(response, outputs, data), keep=False)


@pytest.mark.parametrize("header", ["", "-1", "abc", "99999", "1e1", "٣"])
def test_a_length_header_that_is_none_is_invalid(response, header):
    with pytest.raises(InvalidResponse, match=LENGTH_HEADER):
        output_tensors(as_binary(response, [sized(8)], FP32, header=header), keep=False)


@pytest.mark.parametrize("cut", [1, 10])
def test_a_length_header_that_is_off_is_invalid(response, cut):
    head = orjson.dumps({"outputs": [sized(8)]})
    with pytest.raises(InvalidResponse, match="not JSON"):
        output_tensors(as_binary(response, [sized(8)], FP32, header=str(len(head) - cut)), keep=False)


@pytest.mark.parametrize("datatype", ["BOOL", "INT16", "UINT64", "FP16", "BF16", "FP64"])
def test_binary_answers_keep_their_own_dtype(response, datatype):
    array = np.array([[1, 0], [1, 1]]).astype(dtype_of(datatype))
    data = bytes(pack(array, datatype))
    result = output_tensors(as_binary(response, [sized(len(data), datatype=datatype, shape=(2, 2))], data), keep=False)[
        "y"
    ]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("datatype", "text", "value"),
    [
        ("INT64", "123456789012345678.0", 123456789012345678),
        ("INT64", "-9223372036854775808", -(2**63)),
        ("UINT64", "18446744073709551615.0", 2**64 - 1),
        ("UINT64", "1e19", 10**19),
        ("INT64", "-9223372036854775809", None),
        ("INT64", "9007199254740990.7", None),
        ("UINT64", "18446744073709551616", None),
        ("UINT8", "256.0", None),
        ("FP64", "9007199254740993", None),
        ("FP32", "16777217", None),
        ("FP16", "2049", None),
    ],
)
def test_json_numbers_are_exact_or_refused(response, datatype, text, value):
    answer = response(
        f'{{"outputs": [{{"name": "y", "datatype": "{datatype}", "shape": [1], "data": [{text}]}}]}}'.encode()
    )
    if value is None:
        with pytest.raises(InvalidResponse, match="row 0 of output 'y' holds"):
            output_tensors(answer, keep=False)
    else:
        assert output_tensors(answer, keep=False)["y"].tolist() == [value]
