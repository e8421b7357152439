"""The codecs for JSON lists: `Json`, and `V1` of KServe and TensorFlow Serving."""

from __future__ import annotations

import sys

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.codecs import V1, Json
from fanout.errors import ConfigError, EncodeError, InvalidResponse

TEXT = np.dtypes.StringDType()


def body(codec, rows):
    payload = codec.encode(rows)
    assert payload.content_type == "application/json"
    return orjson.loads(payload.body)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"instances": [1, 2]}),
        ({"request": {"inputs": "{{rows}}"}}, {"inputs": [1, 2]}),
        ({"request": {"a": {"b": {"c": "{{rows}}"}}}}, {"a": {"b": {"c": [1, 2]}}}),
        ({"request": "{{rows}}"}, [1, 2]),
        ({"request": {"k": [None, "\0"], "rows": "{{rows}}"}}, {"k": [None, "\0"], "rows": [1, 2]}),
        ({"request": {"a": {"c": 1, "b": "{{rows}}"}}}, {"a": {"c": 1, "b": [1, 2]}}),
    ],
)
def test_rows_go_where_the_template_has_them(options, expected):
    assert body(Json(**options), np.array([1, 2])) == expected


def test_the_users_constants_are_not_changed():
    request = {"a": {"c": 1, "b": "{{rows}}"}}
    Json(request=request).encode([1])
    assert request == {"a": {"c": 1, "b": "{{rows}}"}}


def test_encoding_twice_gives_the_same():
    codec = Json(request={"k": 1, "instances": "{{rows}}"})
    assert codec.encode([1]).body == codec.encode([1]).body


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"answers": ""}, "answers"),
        ({"answers": "a[?b"}, "answers"),
        ({"answers": "a b"}, "answers"),
        ({"answers": "nothing(@)"}, "answers"),
        ({"answers": "length(@, @)"}, "answers"),
        ({"max_rows": 0}, "max_rows"),
    ],
)
def test_a_wrong_option_is_named(options, key):
    with pytest.raises(ConfigError) as caught:
        Json(**options)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("field", "document"),
    [
        ("predictions", {"predictions": [1, 2]}),
        ("@", [1, 2]),
        ("a.b", {"a": {"b": [1, 2]}}),
        ("data[*].score", {"data": [{"score": 1}, {"score": 2}]}),
        ("sort(a)", {"a": [2, 1]}),
        ('"my field"', {"my field": [1, 2]}),
    ],
)
def test_answers_are_read_from_the_answers(response, field, document):
    result = Json(answers=field).decode(response(document), 2)
    assert result.dtype == np.float64
    assert result.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("field", ["predictions", "@", "a.b", "sort(predictions)"])
@pytest.mark.parametrize(
    "document", [{"error": "model is warming up"}, {"predictions": None, "error": "model is warming up"}]
)
def test_an_error_with_status_200_is_invalid_and_quoted(response, field, document):
    with pytest.raises(InvalidResponse, match="warming up"):
        Json(answers=field).decode(response(document), 2)


@pytest.mark.parametrize("document", [[1], "text", 1, None])
def test_a_document_without_fields_is_invalid(response, document):
    with pytest.raises(InvalidResponse, match="'predictions'"):
        Json().decode(response(document), 1)


def test_a_row_without_the_value_keeps_its_place(response):
    """JMESPath itself leaves nulls out."""
    with pytest.raises(InvalidResponse, match="row 1 holds null"):
        Json(answers="data[*].y").decode(response({"data": [{"y": 1}, {}, {"y": 3}]}), 3)


@pytest.mark.parametrize(
    ("predictions", "match"),
    [
        ([1, None], "row 1 holds null"),
        ([1, "2"], "row 1 holds a text"),
        ([1, True], "row 1 holds true or false"),
        ([[1, 2], [1]], "row 1 is ragged"),
        ([0.5, 2**53 + 1], "row 1 holds 9007199254740993"),
        ([{"a": 1}, {"b": 1}], "row 1 has the fields"),
    ],
)
def test_values_of_mixed_kinds_make_an_answer_invalid(response, predictions, match):
    with pytest.raises(InvalidResponse, match=match):
        Json().decode(response({"predictions": predictions}), 2)


def test_the_dtype_option_decides(response):
    assert Json(dtype="int64").decode(response({"predictions": [1.0, 2]}), 2).dtype == np.int64
    assert Json(dtype="float32").decode(response({"predictions": [0.1]}), 1)[0] == np.float32(0.1)
    with pytest.raises(InvalidResponse, match=r"holds 0\.7"):
        Json(dtype="int64").decode(response({"predictions": [0.7]}), 1)
    with pytest.raises(InvalidResponse, match="overflows float32") as caught:
        Json(dtype="float32").decode(response({"predictions": [1e300]}), 1)
    assert caught.value.error_kind == "nonfinite"


def test_a_dtype_for_each_output(response):
    result = Json(dtype={"label": "int32", "*": "float32"}).decode(
        response({"predictions": [{"label": 1, "p": 0.5}]}), 1
    )
    assert result["label"].dtype == np.int32
    assert result["p"].dtype == np.float32


def test_keep_takes_nonfinite_numbers(response):
    answer = response(b'{"predictions": [NaN, 1e999, -Infinity, 1]}')
    np.testing.assert_array_equal(Json(nonfinite="keep").decode(answer, 4), [np.nan, np.inf, -np.inf, 1])
    with pytest.raises(InvalidResponse):
        Json().decode(answer, 4)


@pytest.mark.parametrize("predictions", [[1.0], [1.0, 2.0, 3.0]])
def test_answers_keep_their_dtype(response, predictions):
    """No row is made up: the count is for the engine to prove."""
    assert Json().decode(response({"predictions": predictions}), 2).tolist() == predictions


def test_nan_never_becomes_null():
    with pytest.raises(EncodeError) as caught:
        Json().encode(np.array([1.0, np.nan]))
    assert caught.value.rows == (1,)


def test_many_rows_go_into_the_body_without_a_copy(response):
    rows = np.arange(20_000.0).reshape(200, 100)
    codec = Json(request={"model": "m", "instances": "{{rows}}"}, answers="predictions")
    body = codec.encode(rows).body
    assert isinstance(body, tuple)
    assert orjson.loads(b"".join(body)) == {"model": "m", "instances": rows.tolist()}
    assert isinstance(codec.encode(rows[:1]).body, bytes)


def test_jmespath_is_imported_for_expressions_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "jmespath", None)
    monkeypatch.delitem(sys.modules, "fanout.codecs._jmespath", raising=False)
    Json()
    Json(answers="@")
    with pytest.raises(ImportError):
        Json(answers="a[0]")


arrays = hnp.arrays(
    st.sampled_from(["?", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8"]),
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=4),
    elements={"allow_nan": False, "allow_infinity": False},
)


@given(arrays)
def test_an_array_comes_back_as_it_was(response, array):
    codec = Json(answers="instances", dtype=array.dtype.name, shape=array.shape[1:])
    result = codec.decode(response(codec.encode(array).body), len(array))
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@given(st.lists(st.text(), min_size=1))
def test_texts_come_back_as_they_were(response, texts):
    codec = Json(answers="instances")
    result = codec.decode(response(codec.encode(texts).body), len(texts))
    assert result.dtype == TEXT
    assert result.tolist() == texts


tokens = (
    st.integers(-(2**65), 2**65).map(str)
    | st.sampled_from(["-0", "-0.0", "1e19", "1E-7", "9007199254740992", "9007199254740993", "2049", "16777217"])
    | st.floats(-(2.0**70), 2.0**70).map(repr)
)


@given(
    st.lists(st.lists(tokens, min_size=2, max_size=2), min_size=1), st.sampled_from(["f2", "f4", "f8"]), st.booleans()
)
def test_integers_are_exact_and_floats_as_near_as_can_be(response, rows, dtype, padded):
    """Whichever parser reads them: small answers and large ones have different ones."""
    body = ("[" + ",".join(f"[{','.join(row)}]" for row in rows) + "]" + " " * 5000 * padded).encode()
    try:
        result = Json(answers="@", dtype=dtype).decode(response(body), len(rows))
    except InvalidResponse:
        result = None
    if result is None:
        numbers = np.array([float(token) for row in rows for token in row])
        integers = [int(token) for row in rows for token in row if token.lstrip("-").isdigit()]
        overflows = bool((np.abs(numbers) > np.finfo(dtype).max).any())
        assert overflows or any(abs(n) > 2 ** (np.finfo(dtype).nmant + 1) for n in integers)
        return
    for row, values in zip(rows, result.tolist(), strict=True):
        for token, value in zip(row, values, strict=True):
            if token.lstrip("-").isdigit():
                assert value == int(token)
            else:
                assert value == float(np.dtype(dtype).type(float(token)))


def test_rows_are_instances():
    rows = {"x": np.ones((1, 2)), "n": np.array([3])}
    assert orjson.loads(V1().encode(rows).body) == {"instances": [{"x": [1.0, 1.0], "n": 3}]}


def test_a_signature_is_sent_if_given():
    assert orjson.loads(V1(signature_name="s").encode([1]).body) == {"signature_name": "s", "instances": [1]}
    with pytest.raises(ConfigError) as caught:
        V1(signature_name=1)
    assert caught.value.key == "signature_name"


def test_a_request_has_one_row_or_the_bound_of_the_api():
    assert Json().max_rows is None
    assert Json(max_rows=96).max_rows == 96
    assert Json(request={"text": "{{row}}"}, max_rows=96).max_rows == 1


def test_it_has_the_path_of_the_protocol():
    assert V1.path.replace("{model}", "m") == "/v1/models/m:predict"


@pytest.mark.parametrize("field", ["predictions", "outputs"])
def test_either_field_is_the_answer(response, field):
    assert V1(dtype="float32").decode(response({field: [[1], [2]]}), 2).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("field", ["predictions", "outputs"])
@pytest.mark.parametrize("values", [{"a": [1, 2], "b": [3, 4]}, [{"a": 1, "b": 3}, {"a": 2, "b": 4}]])
def test_several_outputs_are_named(response, field, values):
    result = V1().decode(response({field: values}), 2)
    assert {name: column.tolist() for name, column in result.items()} == {"a": [1, 2], "b": [3, 4]}


def test_empty_predictions_are_not_passed_over(response):
    assert V1().decode(response({"predictions": [], "outputs": [1]}), 1).shape == (0,)


@pytest.mark.parametrize(
    "document", [{"error": "not ready"}, [1, "not ready"], {"predictions": None, "e": "not ready"}]
)
def test_an_answer_without_either_is_invalid_and_quoted(response, document):
    with pytest.raises(InvalidResponse, match="not ready"):
        V1().decode(response(document), 1)
