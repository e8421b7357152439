"""The embeddings API: texts out, vectors back in the order of their index."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fanout.codecs import OpenAIEmbeddings
from fanout.errors import ConfigError, EncodeError, InputError, InvalidResponse
from fanout.types import Payload, TensorSpec

VECTORS = np.array([[0.5, 1], [2, 3], [4, 5]], "f4")


def packed(vector):
    return b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def data(vectors, indices=None):
    indices = range(len(vectors)) if indices is None else indices
    return {"data": [{"index": i, "embedding": v} for i, v in zip(indices, vectors, strict=True)]}


def body(rows, **options):
    return orjson.loads(OpenAIEmbeddings(**options).encode(rows).body)


def test_texts_are_the_input():
    assert body(["a", "é"]) == {"input": ["a", "é"], "encoding_format": "base64"}
    options = {"model": "m", "dimensions": 2, "encoding_format": "float"}
    assert body(["a"], **options) == {"input": ["a"], **options}


@given(st.lists(st.text(st.characters()), min_size=1), st.booleans())
def test_bodies_of_single_texts_are_those_of_encode(rows, as_array):
    codec = OpenAIEmbeddings(model='m"', extra={"input_type": "query"})
    try:
        alone = [codec.encode([row]) for row in rows]
    except EncodeError:
        assert codec.row_bodies(rows) is None
    else:
        given = np.array(rows, object) if as_array else rows
        assert [Payload(body=body) for body in codec.row_bodies(given)] == alone


@pytest.mark.parametrize("dtype", ["U", "S", np.dtypes.StringDType(), object])
def test_arrays_of_texts_are_texts(dtype):
    assert body(np.array(["a", "b"], dtype))["input"] == ["a", "b"]


@pytest.mark.parametrize(
    "rows", [np.ones((2, 3)), np.array([["a"]]), np.array(["2020"], "M8[Y]"), {"a": np.array(["x"])}, [1], [["a"]]]
)
def test_rows_that_are_no_texts_are_an_input_error(rows):
    with pytest.raises(InputError, match="texts"):
        OpenAIEmbeddings().encode(rows)


@pytest.mark.parametrize("bad", ["", None, "\ud800"])
def test_texts_that_the_api_refuses_fail_alone(bad):
    with pytest.raises(EncodeError) as caught:
        OpenAIEmbeddings().encode(["a", bad, "b", bad])
    assert caught.value.rows == (1, 3)


@pytest.mark.parametrize("encode", [packed, list])
@pytest.mark.parametrize("indices", [[0, 1, 2], [2, 0, 1], [None, None, None], [2, None, 1]])
def test_vectors_are_placed_by_their_index(response, encode, indices):
    came = VECTORS if indices[0] is None else VECTORS[[i or 0 for i in indices]]
    result = OpenAIEmbeddings().decode(response(data([encode(v.tolist()) for v in came], indices)), 3).values
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, VECTORS)


def test_vectors_without_an_index_are_in_order(response):
    result = OpenAIEmbeddings().decode(response({"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}), 2).values
    assert result.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "indices",
    [
        [0, 0, 1],
        [0, 1, 3],
        [1, 2, 3],
        [0, None, None],
        [0, None, 3],
        [0, 0, None],
        [0, 1, "2"],
        [0.0, 1.0, 2.0],
        [-1, 0, 1],
        [False, True, 2],
    ],
)
def test_indices_that_are_no_order_are_invalid(response, indices):
    with pytest.raises(InvalidResponse, match="index"):
        OpenAIEmbeddings().decode(response(data(VECTORS.tolist(), indices)), 3)


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        ([packed([1, 2]), packed([1])], "row 1 has 4 bytes"),
        # Whole groups of four characters, whose mean is whole too: joined, they would be rows of six numbers.
        ([packed(range(n)) for n in (3, 6, 9)], "row 1 has 24 bytes where row 0 has 12"),
        ([packed([1]), "AAA"], "row 1 is no base64"),
        ([packed([1]), "AAAA!AA="], "row 1 is no base64"),
        ([packed([1]), " " + packed([1])], "row 1 is no base64"),
        ([packed([1]), "é"], "row 1 is no base64"),
        ([packed([1]), [1.0]], "row 1 is no base64"),
        ([packed([1]), None], "row 1 is no base64"),
        (["AAAAAAA=", "AAAAAAA="], "no float32"),
        ([packed([]), packed([])], "no float32"),
        ([[1.0], packed([1])], "row 1 holds a text"),
        ([[1.0, 2.0], [1.0]], "row 1 is ragged"),
        ([[1.0], [None]], "row 1 holds null"),
        ([[1.0], ["2"]], "row 1 holds a text"),
        ([[[1.0]], [[2.0]]], "not one vector a text"),
        ([[[1.0], [2.0]], [[2.0]]], "row 1 is ragged"),
        ([[], []], "not one vector a text"),
        ([1.0, 2.0], "not one vector a text"),
        ([[1e300], [1.0]], "overflows float32"),
    ],
)
def test_vectors_that_are_none_are_invalid(response, vectors, match):
    with pytest.raises(InvalidResponse, match=match):
        OpenAIEmbeddings().decode(response(data(vectors)), len(vectors))


@pytest.mark.parametrize(("named", "message"), [("m-2", "m-2"), ("", None), (7, None), (None, None)])
def test_the_name_of_the_model_is_reported(response, named, message):
    document = {**data([[1.0]]), "model": named}
    assert OpenAIEmbeddings().decode(response(document), 1).model == message


def test_the_usage_is_reported(response):
    document = {**data([[1.0]]), "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    assert OpenAIEmbeddings().decode(response(document), 1).usage == {"prompt_tokens": 2, "total_tokens": 2}
    with pytest.raises(InvalidResponse) as caught:
        OpenAIEmbeddings().decode(response(document), 2)
    assert caught.value.usage == {"prompt_tokens": 2, "total_tokens": 2}


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_vectors_is_invalid(response, count):
    with pytest.raises(InvalidResponse, match=f"{count} embeddings for 2 texts") as caught:
        OpenAIEmbeddings().decode(response(data(VECTORS[:count].tolist())), 2)
    assert caught.value.error_kind == "rows"


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "overloaded"}},
        ["overloaded"],
        {"data": "overloaded"},
        {"data": [{"e": "overloaded"}]},
        {"data": ["overloaded"]},
    ],
)
def test_an_answer_of_another_form_is_invalid_and_quoted(response, document):
    with pytest.raises(InvalidResponse, match="overloaded"):
        OpenAIEmbeddings().decode(response(document), 1)


def test_keep_takes_nonfinite_numbers(response):
    body = b'{"data": [{"embedding": [NaN, 1e300]}]}'
    result = OpenAIEmbeddings(nonfinite="keep").decode(response(body), 1).values
    np.testing.assert_array_equal(result, np.array([[np.nan, np.inf]], "f4"))


def test_another_dtype_needs_numbers(response):
    codec = OpenAIEmbeddings(dtype="float64", encoding_format="float")
    assert codec.decode(response(data([[0.1]])), 1).values.tolist() == [[0.1]]
    with pytest.raises(ConfigError, match="encoding_format"):
        OpenAIEmbeddings(dtype="float64")


@pytest.mark.parametrize(
    ("options", "dtype", "shape"),
    [
        ({}, "f4", None),
        ({"dimensions": 8}, "f4", (8,)),
        ({"dimensions": 8, "shape": [4]}, "f4", (4,)),
        ({"shape": [4]}, "f4", (4,)),
        ({"dtype": "float16", "encoding_format": "float", "dimensions": 8}, "f2", (8,)),
    ],
)
def test_the_spec_has_the_dtype_and_the_width_of_the_vectors(options, dtype, shape):
    assert OpenAIEmbeddings(**options).spec == {"*": TensorSpec(dtype=np.dtype(dtype), shape=shape)}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", 1),
        ("model", ""),
        ("dimensions", 0),
        ("dimensions", True),
        ("dimensions", 1.5),
        ("encoding_format", "hex"),
        ("max_rows", 0),
        ("max_rows", True),
        ("extra", ["input_type"]),
        ("extra", {"input": "x"}),
        ("extra", {"model": "x"}),
    ],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ConfigError) as caught:
        OpenAIEmbeddings(**{option: value})
    assert caught.value.key == option


def test_constant_fields_are_sent_beside_the_texts():
    codec = OpenAIEmbeddings(model="m", extra={"input_type": "query", "truncate": "END"})
    assert orjson.loads(codec.encode(["a"]).body) == {
        "input": ["a"], "model": "m", "encoding_format": "base64", "input_type": "query", "truncate": "END"
    }  # fmt: skip


def test_the_limits_of_the_api():
    assert OpenAIEmbeddings().max_rows == 2048
    assert OpenAIEmbeddings(max_rows=128).max_rows == 128
    assert OpenAIEmbeddings.path == "/v1/embeddings"


vectors = hnp.arrays(
    "f4", hnp.array_shapes(min_dims=2, max_dims=2), elements={"allow_nan": False, "allow_infinity": False}
)


@given(vectors, st.randoms(), st.booleans())
def test_vectors_come_back_as_they_were(response, vectors, random, base64):
    order = list(range(len(vectors)))
    random.shuffle(order)
    came = [packed(vectors[i]) if base64 else vectors[i].tolist() for i in order]
    result = OpenAIEmbeddings().decode(response(data(came, order)), len(vectors)).values
    np.testing.assert_array_equal(result, vectors)


# One item of an answer: the usual ones, and those that could mislead a reader that looks for the texts itself.
_LONG, _SHORT = packed([1, 2, 3]), packed([1])
DENSE = f'{{"embedding":"{_LONG}", "index": %d}}'
ITEMS = [
    f'{{"object": "embedding", "index": %d, "embedding": "{_LONG}"}}',
    f'{{"embedding": "{_LONG[::-1]}", "index": %d}}',
    DENSE,
    f'{{"embedding": "{_SHORT}", "index": %d}}',
    f'{{"embedding": "{_SHORT}", "index": %d, "embedding": "{_LONG}"}}',
    f'{{"embedding": "{_LONG}", "\\u0065mbedding": "{_LONG.swapcase()}", "index": %d}}',
    f'{{"x": {{"embedding": "{_LONG}"}}, "embedding": "", "index": %d}}',
    f'{{"x\\"embedding": "{_LONG}", "embedding": "{_LONG.swapcase()}", "index": %d}}',
    f'{{"x": "\\"embedding\\": \\"{_LONG}", "embedding": "{_LONG}", "index": %d}}',
    '{"embedding": "AAAA\\/AAAAAAAAAA", "index": %d}',
    '{"embedding": "", "index": %d}',
    '{"embedding": "#", "index": %d}',
    f'{{"embedding": "{_LONG}", "index": %d, "embedding" : "#"}}',
    '{"embedding": [1, 2, 3], "index": %d}',
    f'{{"embedding": "{_LONG}", "index": %d}}, {{"index": 7}}',
    f'{{"embedding": "{_LONG}", "index": null, "n": %d',
    f'["embedding": "{_LONG}", %d]',
]

NOTE = f'"note": {{"embedding":"{_LONG}"}}, '


def outcome(codec, response, n):
    try:
        decoded = codec.decode(response, n)
    except InvalidResponse as error:
        return error.error_kind, error.rows, dict(error.usage)
    return decoded.values.tobytes(), dict(decoded.usage), decoded.model


@example([DENSE, '{"embedding": "#", "index": %d}'], range(4), "", "")
@example([DENSE, '{"embedding": "", "index": %d}'], range(4), NOTE, "")
@example([f'{{"embedding": "{_LONG}", "index": %d, "embedding" : "#"}}'], range(4), "", "")
@given(
    st.lists(st.sampled_from(ITEMS[:1]) | st.sampled_from(ITEMS), min_size=1, max_size=4),
    st.permutations(range(4)) | st.just(range(4)),
    st.sampled_from(["", NOTE, '"embedding": "#", ']),
    st.sampled_from(["", f', "embedding": "{_LONG}"', ', "usage": {"total_tokens": 3}, "model": "m"', "}"]),
)
def test_an_answer_means_the_same_however_its_keys_are_spaced(response, items, places, before, after):
    written = ", ".join(item % place for item, place in zip(items, places, strict=False))
    body = f'{{{before}"data": [{written}]{after}}}'
    spaced = body.replace('embedding":', 'embedding" :')
    n = len(items)
    assert outcome(OpenAIEmbeddings(), response(body.encode()), n) == outcome(
        OpenAIEmbeddings(), response(spaced.encode()), n
    )


@pytest.mark.parametrize(
    ("text", "value"), [("127.0", 127), ("-128", -128), ("128", None), ("1.5", None), ("1e300", None)]
)
def test_integers_of_quantized_vectors_are_exact_or_refused(response, text, value):
    codec = OpenAIEmbeddings(dtype="int8", encoding_format="float")
    answer = response(
        f'{{"data": [{{"index": 0, "embedding": [1, {text}]}}], "usage": {{"total_tokens": 3}}}}'.encode()
    )
    if value is None:
        with pytest.raises(InvalidResponse, match="row 0 holds") as caught:
            codec.decode(answer, 1)
        assert caught.value.usage == {"total_tokens": 3}
    else:
        result = codec.decode(answer, 1)
        assert (result.values.tolist(), result.usage) == ([[1, value]], {"total_tokens": 3})
