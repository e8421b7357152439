"""The quick readers of numbers give the values of the exact parser, or leave the answer to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import Json, OpenAIEmbeddings, _numbers
from fanout.codecs._answers import Answers
from fanout.codecs._numbers import PlacedNumbersReader, SimdjsonReader
from fanout.codecs.json import NumbersReader
from fanout.errors import InvalidResponse
from fanout.types import DecodedResponse, Response

if TYPE_CHECKING:
    from fanout.codecs.base import Codec

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, 2**24 + 1, 1e300, -0.0, 1e-320, 3]),
)
NO_WHEEL = "simdjson has no wheel for Python 3.14"
needs_simdjson = pytest.mark.skipif(sys.version_info >= (3, 14), reason=NO_WHEEL)

ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, "2", [1], {}, []])


@pytest.fixture(params=["msgspec", pytest.param("simdjson", marks=needs_simdjson), "hidden"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_numbers, "LARGE", 2**40 if request.param == "msgspec" else 0)
    if request.param == "hidden":
        monkeypatch.setitem(sys.modules, "simdjson", None)


def response(document: Any) -> Response:
    return Response(status=200, headers={}, body=document if isinstance(document, bytes) else orjson.dumps(document))


def outcome(codec: Codec, answer: Response, n_rows: int) -> Any:
    """The result of `decode` in a form that can be compared."""
    try:
        result = codec.decode(answer, n_rows)
    except InvalidResponse as error:
        return str(error), error.error_kind
    usage: Any = (result.usage, result.model) if isinstance(result, DecodedResponse) else {}
    array = result.values if isinstance(result, DecodedResponse) else result
    if isinstance(array, dict):
        return {name: (column.dtype, column.shape, column.tobytes()) for name, column in array.items()}
    return array.dtype, array.shape, array.tobytes(), usage


def exactly(monkeypatch: pytest.MonkeyPatch, make: Any) -> Codec:
    with monkeypatch.context() as patch:
        patch.setattr(SimdjsonReader, "is_installed", lambda: False)
        patch.setattr(Json, "_numbers_in", lambda *_: None)
        codec: Codec = make()
    return codec


def ends() -> st.SearchStrategy[Any]:
    regular = st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=5)
    )
    irregular = st.lists(st.lists(NUMBERS | ODD, max_size=3) | NUMBERS | ODD, max_size=4)
    return st.one_of(regular, st.lists(NUMBERS, max_size=5), irregular)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_json_numbers_are_those_of_the_exact_way(dtype: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = exactly(monkeypatch, lambda: Json(dtype=dtype))

    @given(ends())
    def same(predictions: Any) -> None:
        try:
            answer = response({"predictions": predictions, "note": "[["})
        except orjson.JSONEncodeError:  # beyond 64 bits
            return
        quick = Json(dtype=dtype)
        for document in (answer, response(answer.body.replace(b'"[["', b'"-"'))):
            assert outcome(quick, document, 1) == outcome(exact, document, 1)

    same()


BODIES = [
    b'{"predictions": [[1, 2], [3, 4]], "predictions": 5}',
    b'{"predictions": 5, "predictions": [[1, 2]]}',
    b'{"predictions": [[1], 2]}',
    b'{"predictions": [[1, [2]], [3, 4]]}',
    b'{"predictions": [[1, 2], [3]]}',
    b'{"predictions": [[NaN, 1]]}',
    b'{"predictions": [[1e999, 1]]}',
    b'{"predictions": [[1, 2]',
    b'{"predictions": [[1, 2]]} x',
    b"[[1, 2]]",
    b'{"predictions": [[], []]}',
    b'{"predictions": []}',
    b'{"predictions": [[1, 9007199254740993]]}',
    b'{"predictions": [[1, 123456789012345678901234567890]]}',
    b'\xff{"predictions": [[1, 2]]}',
    b'{"predictions": [{"a": 1}]}',
    b'{"predictions": [[1, 2], "ab"]}',
    b'{"predictions": [[1, 2], {"a": 1, "b": 2}]}',
    b'\xef\xbb\xbf{"predictions": [[1, 2]]}',
]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("field", ["predictions", "@"])
def test_no_trap_gives_another_answer(body: bytes, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = exactly(monkeypatch, lambda: Json(answers=field))
    quick = Json(answers=field)
    good = response([[1.5]] if field == "@" else {"predictions": [[1.5]]})
    for answer in (good, response(body), good, good):
        assert outcome(quick, answer, 1) == outcome(exact, answer, 1)


@pytest.mark.usefixtures("way")
def test_plain_numbers_do_go_the_quick_way() -> None:
    reader = NumbersReader("predictions", np.dtype("f4"))
    for _ in range(2):
        result = reader.read(orjson.dumps({"predictions": [[0.1, 2]]}))
        assert result is not None
        assert result.tolist() == np.array([[0.1, 2]], "f4").tolist()


def test_a_reader_gives_up_after_some_misses() -> None:
    reader = NumbersReader("predictions", np.dtype("f8"))
    for _ in range(3):
        assert reader.read(b'{"predictions": ["a"]}') is None
    assert reader.read(b'{"predictions": [[1]]}') is None


def rerankers_items() -> st.SearchStrategy[Any]:
    def made(scores: list[Any]) -> st.SearchStrategy[Any]:
        items = [{"index": i, "score": score, "text": "[é"[: i % 3]} for i, score in enumerate(scores)]
        return st.permutations(items)

    index = st.integers(-1, 3) | st.sampled_from([None, 1.0, True, "0", 2**70])
    odd = st.fixed_dictionaries({"index": index}, optional={"score": NUMBERS | ODD}) | ODD
    return st.lists(NUMBERS, max_size=6).flatmap(made) | st.lists(odd, max_size=4)


@pytest.mark.parametrize("order", [None, "index"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("field", ["results", "@"])
def test_numbers_of_items_are_those_of_the_exact_way(
    order: str | None, dtype: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"answers": field, "order": order, "outputs": {"": {"path": "score", "type": dtype}}}

    def make() -> Codec:
        return Json(request={"texts": "{{rows}}"}, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "placed_numbers", lambda _: None)
        exact = make()

    @given(rerankers_items())
    def same(items: Any) -> None:
        try:
            answer = response(items if field == "@" else {"results": items, "note": None})
        except orjson.JSONEncodeError:  # beyond 64 bits
            return
        assert outcome(make(), answer, len(items)) == outcome(exact, answer, len(items))

    same()


def test_numbers_of_items_do_go_the_quick_way() -> None:
    reader = PlacedNumbersReader("results", "index", "score", np.dtype("f4"))
    quick = reader.read(b'{"results": [{"index": 1, "score": 0.5}, {"text": "x", "index": 0, "score": 2}]}')
    assert quick is not None
    assert quick.dtype == "f4"
    assert quick.tolist() == [2, 0.5]


def vectors_document(rows: list[Any], indices: list[Any], **extra: Any) -> dict[str, Any]:
    return {"data": [{"embedding": row, "index": i} for row, i in zip(rows, indices, strict=True)], **extra}


@pytest.mark.parametrize(
    "document",
    [
        vectors_document([[1, 2.5], [3, 4]], [0, 1], usage={"total_tokens": 7, "details": {"cached": 1}}),
        vectors_document([[1, 2.5], [3, 4]], [0, 1], model="m-1"),
        vectors_document([[1, 2.5], [3, 4]], [1, 0]),
        vectors_document([[1, 2.5], [3, 4]], [None, None]),
        vectors_document([[1, 2.5], [3, 4]], [0, 0]),
        vectors_document([[1, 2.5], [3]], [0, 1]),
        vectors_document([[1, 2.5], [3, 2**24 + 1]], [0, 1]),
        vectors_document([[1, 2.5], [3, None]], [0, 1]),
        vectors_document([[[1], 2.5], [3, 4]], [0, 1]),  # type: ignore[list-item]
        vectors_document([[], []], [0, 1]),
        vectors_document([[1.0, 2]], [0]),
        {"data": []},
        {"data": {}},
        {"data": [1, 2]},
        b'{"data": [{"embedding": [1.0, 2], "index": 0}, {"embedding": [1.0, 2], "index": 1}], "data": 5}',
        b'{"data": [{"embedding": [1.0], "embedding": [3.0], "index": 0}, {"embedding": [2.0], "index": 1}]}',
        b'{"data": [{"embedding": [1.0], "index": 0}, {"embedding": [2.0], "index": 1, "index": 0}]}',
        b'{"data": [{"embedding": [1.0], "index": false}, {"embedding": [2.0], "index": true}]}',
        b'{"data": [{"embedding": [1.0], "index": 0.0}, {"embedding": [2.0], "index": 1.0}]}',
        b'\xef\xbb\xbf{"data": [{"embedding": [1.0], "index": 0}, {"embedding": [2.0], "index": 1}]}',
    ],
)
def test_vectors_are_those_of_the_exact_way(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.codecs.openai_embeddings.LARGE", 0)
    exact = exactly(monkeypatch, OpenAIEmbeddings)
    quick = OpenAIEmbeddings()
    for answer in (response(vectors_document([[1.0], [2.0]], [0, 1])), response(document), response(document)):
        assert outcome(quick, answer, 2) == outcome(exact, answer, 2)


@needs_simdjson
def test_vectors_do_go_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.codecs.openai_embeddings.LARGE", 0)
    codec = OpenAIEmbeddings()
    answer = response(vectors_document([[1.0, 2], [3, 4]], [0, 1], usage={"total_tokens": 7}))
    expected = outcome(codec, answer, 2)  # as the first one, it is read the exact way
    monkeypatch.setattr("fanout.codecs.openai_embeddings.read_with_usage", None)
    assert outcome(codec, answer, 2) == expected
    decoded = codec.decode(answer, 2)
    assert (decoded.values.tolist(), decoded.usage) == ([[1, 2], [3, 4]], {"total_tokens": 7})
    with pytest.raises(TypeError):  # not so for another number of rows
        codec.decode(answer, 3)


@needs_simdjson
def test_a_parser_that_has_failed_reads_the_next_answer() -> None:
    buffers = SimdjsonReader()
    assert buffers.rows(b'{"p": [[1, null]]}', "p") is None
    for _ in range(3):
        result = buffers.rows(b'{"p": [[1, 2]]}', "p")
        assert result is not None
        assert result.tolist() == [[1, 2]]


def test_a_module_that_is_blocked_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simdjson", None)
    assert not SimdjsonReader.is_installed()
