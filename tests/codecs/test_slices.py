"""Large answers, read in slices of rows, give the values of the whole document."""

from __future__ import annotations

import base64
import json
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout import DecodedResponse, InvalidResponse, Response, codec, exact_json
from fanout.codecs import _answer_reader, _parsing, _slices
from fanout.codecs import json as json_codec

SIZE = 75 * 2**10
"""Bytes of an answer that is not parsed whole where the sizes are `small`."""

IMAGE = np.random.default_rng(1).random((3, 64, 512)).round(6)

ROWS: dict[str, Any] = {
    "numbers": 0.25,
    "whole numbers": 12345,
    "booleans": True,
    "labels": "cat",
    "labels with commas": '", ',
    "labels with brackets": "],[",
    "labels with a backslash": "\\",
    "labels beyond ASCII": "é😀",
    "pairs": [1, 2],
    "vectors": [0.5, 0.25, 1e-9],
    "pairs of labels": ["a", "],["],
    "matrices": [[1, 2], [3, 4]],
    "empty lists": [],
    "objects": {"label": "cat", "score": 0.5},
    "objects with a list": {"label": "},{", "box": [1, 2, 3, 4]},
}


def response(body: bytes, **headers: str) -> Response:
    return Response(status=200, headers=headers, body=body, url="http://h/x")


def written(rows: Any, style: str) -> bytes:
    if style == "indented":
        return json.dumps(rows, indent=1).encode()
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":") if style == "dense" else None).encode()


def many(row: Any) -> list[Any]:
    return [row] * (SIZE // len(orjson.dumps(row)) + 1)


def alike(decoded: Any, rows: list[Any]) -> None:
    if isinstance(rows[0], dict):
        assert decoded.keys() == rows[0].keys()
        for name, array in decoded.items():
            alike(array, [row[name] for row in rows])
    else:
        assert len(decoded) == len(rows)
        assert decoded.shape[1:] == np.shape(rows[0])
        assert decoded[[0, len(rows) // 2, -1]].tolist() == [rows[0], rows[len(rows) // 2], rows[-1]]
        assert (decoded == np.array(rows[0], decoded.dtype)).all()


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No document is parsed as a whole."""

    def refused(text: bytes) -> str:
        raise AssertionError("the document is parsed as a whole")

    monkeypatch.setattr(_parsing, "too_heavy", refused)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all sizes at which an answer is divided an eighth: an eighth of the data is then as large an answer."""
    sizes = {"LIGHT": [exact_json, _answer_reader], "AT_ONCE": [json_codec], "_SLICE": [_slices], "_REACH": [_slices]}
    for name, module in ((name, module) for name, modules in sizes.items() for module in modules):
        monkeypatch.setattr(module, name, getattr(module, name) // 8)


@pytest.mark.usefixtures("unparsed", "small")
@pytest.mark.parametrize(
    "style", ["dense", *(pytest.param(style, marks=pytest.mark.slow) for style in ("spaced", "indented"))]
)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_rows_of_every_kind_are_read_in_slices(row: Any, style: str) -> None:
    rows = many(row)
    text = written(rows, style)
    for body, field in (
        (text, "@"),
        (b'{"predictions": ' + text + b"}", "predictions"),
        (
            b'{"n": "\\"predictions\\":[", "m": {"predictions": [7]}, "predictions":' + text + b',"u": [1]}',
            "predictions",
        ),
        (b"\xef\xbb\xbf" + text, "@"),
    ):
        alike(codec("json", answers=field).decode(response(body), len(rows)), rows)
    alike(codec("v1").decode(response(b'{"predictions":' + text + b"}"), len(rows)), rows)
    alike(codec("v1").decode(response(b'{"outputs":' + text + b"}"), len(rows)), rows)


@pytest.mark.usefixtures("unparsed")
def test_rows_that_are_longer_than_a_slice_are_read_in_slices_of_their_own() -> None:
    rows = np.array([IMAGE, IMAGE + 1])
    body = orjson.dumps({"predictions": rows.tolist()})
    assert np.array_equal(codec("json").decode(response(body), 2), rows)
    flat = rows.reshape(2, -1)
    assert np.array_equal(codec("json").decode(response(orjson.dumps({"predictions": flat.tolist()})), 2), flat)


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_embeddings_are_read_in_slices_and_placed_by_their_index(
    floats: bool, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hidden:
        monkeypatch.setitem(sys.modules, "simdjson", None)
    vectors = np.random.default_rng(0).random((500, 400)).astype(np.float32)
    order = np.random.default_rng(1).permutation(500)
    for places in (order, np.arange(500), None):
        sent = vectors if places is None else vectors[places]
        items = [
            {
                "embedding": vector.tolist() if floats else base64.b64encode(vector.tobytes()).decode(),
                **({} if places is None else {"index": int(places[i])}),
            }
            for i, vector in enumerate(sent)
        ]
        body = orjson.dumps({"data": items, "model": "m", "usage": {"total_tokens": 9}})
        answer = codec("openai-embeddings").decode(response(body), 500)
        assert isinstance(answer, DecodedResponse)
        assert np.array_equal(answer.values, vectors)  # type: ignore[arg-type]
        assert (answer.model, answer.usage) == ("m", {"total_tokens": 9})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda items: items[:-1], "499 embeddings for 500 texts"),
        (lambda items: [*items[:-1], items[0]], "no item with the index 499"),
        (lambda items: [*items[:-1], {**items[0], "index": -1}], "no whole number"),
        (lambda items: [*items[:-1], {**items[0], "index": True}], "no whole number"),
        (lambda items: [*items[:-2], {**items[0], "index": None}, {**items[0], "index": None}], "no index in 2 of 500"),
        (lambda items: [*items[:-1], {**items[0], "index": 2**63}], "no text"),
        (lambda items: [*items[:-1], {"index": 499}], "without 'embedding'"),
        (lambda items: [*items[:-1], {**items[-1], "embedding": [1.0]}], "row 499 .*ragged"),
        (lambda items: [*items[:-1], {**items[-1], "embedding": "AAAA"}], "row 499|ragged|a text"),
    ],
)
def test_large_embeddings_that_are_not_right_are_refused_with_their_usage(change: Any, match: str) -> None:
    items = [{"embedding": [0.125] * 200, "index": i} for i in range(500)]
    body = orjson.dumps({"data": change(items), "usage": {"total_tokens": 9, "details": {"cached": 1}}})
    with pytest.raises(InvalidResponse, match=match) as caught:
        codec("openai-embeddings").decode(response(body), 500)
    assert caught.value.usage == {"total_tokens": 9, "details.cached": 1}


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("missing", [None, 0, 7_000])
def test_items_that_state_their_row_are_placed_over_all_slices(missing: int | None) -> None:
    n = 20_000
    order = np.random.default_rng(2).permutation(n).tolist()
    items: list[dict[str, Any]] = [{"index": i, "relevance_score": i / n, "label": str(i)} for i in order]
    if missing is not None:
        del items[missing]["index"]
    body = orjson.dumps({"results": items})
    decoded = codec("json", answers="results").decode(response(body), n)
    assert isinstance(decoded, dict)
    assert decoded.keys() == {"relevance_score", "label"}
    assert np.array_equal(decoded["relevance_score"], np.arange(n) / n)
    assert decoded["label"].tolist() == list(map(str, range(n)))
    kept = codec("json", answers="results", order="position").decode(response(body), n) if missing is None else {}
    assert kept == {} or np.array_equal(kept["index"], order)  # type: ignore[index]


@pytest.mark.usefixtures("small")
def test_items_that_state_a_row_twice_are_refused() -> None:
    items = [{"index": i or 1, "score": 0.5} for i in range(4_000)]
    with pytest.raises(InvalidResponse, match=r"no item with the index 0.*codec.order") as caught:
        codec("json").decode(response(orjson.dumps({"predictions": items})), 4_000)
    assert caught.value.error_kind == "rows"


@pytest.mark.usefixtures("unparsed")
def test_tensors_in_json_are_read_in_slices() -> None:
    y, z = np.arange(100_000.0).reshape(-1, 2), np.array(["é,", '"'] * 25_000)
    outputs = [
        {"name": "y", "datatype": "FP64", "shape": [50_000, 2], "data": y.ravel().tolist()},
        {"name": "x", "datatype": "FP64", "shape": [50_000, 2], "data": y.tolist()},
        {"name": "z", "datatype": "BYTES", "shape": [50_000], "data": z.tolist()},
        {"name": "i", "datatype": "INT8", "shape": [50_000], "data": [7] * 50_000},
    ]
    decoded = codec("oip").decode(response(orjson.dumps({"model_name": "m", "outputs": outputs})), 50_000)
    assert isinstance(decoded, dict)
    assert np.array_equal(decoded["y"], y)
    assert np.array_equal(decoded["x"], y)
    assert decoded["z"].tolist() == z.tolist()
    assert (decoded["i"].dtype, decoded["i"].shape) == (np.int8, (50_000,))


@pytest.mark.parametrize(
    ("of", "match"),
    [
        ({"shape": [99_999]}, "shape"),
        ({"datatype": "INT8"}, "overflows|holds|int8"),
        ({"shape": [1] * 65}, "65 lengths"),
        ({"data": [0.5] * 199_999 + [None]}, "null"),
        ({"name": 1}, "without a name"),
    ],
)
def test_large_tensors_in_json_that_are_not_right_are_refused(of: dict[str, Any], match: str) -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [200_000], "data": [1000.5] * 200_000} | of
    with pytest.raises(InvalidResponse, match=match):
        codec("oip").decode(response(orjson.dumps({"outputs": [output]})), 1)


def test_a_datatype_behind_its_data_counts() -> None:
    output = {"name": "y", "data": [1000.5] * 200_000, "datatype": "FP32", "shape": [200_000]}
    decoded = codec("oip").decode(response(orjson.dumps({"outputs": [output]})), 200_000)
    assert decoded["y"].dtype == np.float32  # type: ignore[index,union-attr]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("row", "last", "match"),
    [
        ([1, 2], [1, 2, 3], "row {n} .*ragged"),
        ([1, 2], [1, None], "row {n} holds null"),
        (1.5, None, "row {n} holds null"),
        (1.5, "a", "row {n} holds a text|row {n} holds String"),
        (1.5, [1], "row {n} "),
        ("a", 1, "row {n} holds"),
        ({"a": 1}, {"b": 1}, "row {n} has "),
        ({"a": 1}, {"a": "x"}, "row {n} .*'a' holds"),
        (1.5, 2**60 + 1, "row {n} holds .*exactly"),
    ],
)
def test_the_row_at_fault_is_named_as_it_is_counted_in_the_answer(row: Any, last: Any, match: str) -> None:
    rows = [*many(row), last]
    with pytest.raises(InvalidResponse, match=match.format(n=len(rows) - 1)):
        codec("json").decode(response(orjson.dumps({"predictions": rows})), len(rows))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("end", ["", "]", "]}x", ",]}", "]}}", ",1,]}", ']}{"predictions":[1]}', '],"predictions":7}'])
def test_text_behind_the_document_is_refused(end: str) -> None:
    body = b'{"predictions":[' + b",".join([b"[1,2]"] * 20_000) + end.encode()
    with pytest.raises(InvalidResponse):
        codec("json").decode(response(body), 20_000)


@pytest.mark.usefixtures("small")
def test_nan_in_a_large_answer_is_refused_or_kept() -> None:
    body = b'{"predictions":[' + b",".join([b"[1.5,NaN]"] * 12_500) + b"]}"
    with pytest.raises(InvalidResponse, match="NaN") as caught:
        codec("json").decode(response(body), 12_500)
    assert caught.value.error_kind == "nonfinite"
    kept = codec("json", nonfinite="keep").decode(response(body), 12_500)
    assert isinstance(kept, np.ndarray)
    assert np.isnan(kept[:, 1]).all()


HOSTILE = {
    "{},": b"{}",
    "[],": b"[]",
    '"",': b'""',
    "{{": b'{"a":{"b":{}}}',
    "numbers among objects": b"{},1",
    "nested": b"[" * 60 + b"]" * 60,
}


@pytest.mark.parametrize(
    "codec_name",
    ["json", "openai-chat"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("v1", "oip", "openai-embeddings")],
)
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_no_codec_makes_objects_of_a_large_hostile_answer(
    unit: bytes, codec_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are the bytes that a parser is given at once. 2 MiB of ``{},`` would take 150 MiB as objects."""
    most = 0
    loads = orjson.loads

    def counted(text: bytes) -> Any:
        nonlocal most
        most = max(most, len(text))
        return loads(text)

    monkeypatch.setattr(orjson, "loads", counted)
    inner = b",".join([unit] * (2 * 2**20 // len(unit)))
    for frame in (b"[%s]", b'{"predictions":[%s]}', b'{"data":[%s]}', b'{"outputs":[%s]}', b'{"choices":[%s]}', b"%s"):
        body = frame % inner
        with suppress(InvalidResponse):
            codec(codec_name).decode(response(body), 3)
    assert most <= 2**20


def test_a_document_of_too_many_values_is_refused_with_advice() -> None:
    body = b'{"choices":[' + b",".join([b"{}"] * 2_000_000) + b"]}"
    with pytest.raises(InvalidResponse, match=r"so many values .* 117 MiB .*chunks.rows"):
        codec("openai-chat").decode(response(body), 1)


def test_a_large_text_is_no_matter() -> None:
    text = "word, and more; " * 100_000
    body = orjson.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    answer = codec("openai-chat").decode(response(body), 1)
    assert answer.values["text"].tolist() == [text]  # type: ignore[union-attr,call-overload,index]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", '"', ", ", '","', "\\", '\\"', "],[", "},{", "é", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
ALIKE = st.one_of(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), max_size=60),
    st.lists(st.sampled_from(["a", '"', ", ", '","', "\\", "],[", "😀"]), max_size=60),
    st.lists(
        st.fixed_dictionaries({"label": st.sampled_from(["", "},{", '"label"']), "score": st.floats(0, 1)}), max_size=60
    ),
    st.lists(st.integers(0, 9) | st.just(2**53 + 1), max_size=60),
    st.integers(0, 30).flatmap(
        lambda n: st.permutations([{"index": i, "score": i} if i != 5 else {"score": i} for i in range(n)])
    ),
    st.lists(
        st.sampled_from([{"index": 0, "a": 1}, {"index": None, "a": 1}, {"a": 1}, {"index": 1.5, "a": 1}]), max_size=9
    ),
    st.lists(VALUES, max_size=30),
)


@settings(max_examples=300)
@given(ALIKE, st.sampled_from(["dense", "spaced", "indented"]), st.integers(0, 4), st.data())
def test_slices_and_the_whole_document_give_the_same(
    rows: list[Any], style: str, form: int, data: st.DataObject
) -> None:
    text = (json.dumps(rows, indent=1) if style == "indented" else json.dumps(rows)).encode("utf-8", "surrogatepass")
    frames = [b"%s", b'{"predictions":%s}', b'{"a":"predictions","m":{"predictions":[1]},"predictions": %s ,"u":[2]}',
              b'{"predictions":%s,"predictions":[1]}', b'{"predictions":[1],"predictions":%s}']  # fmt: skip
    body = frames[form] % text
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body) - 1))
        body = (
            body[:at] + data.draw(st.sampled_from([b",", b"]", b"[", b"{", b'"', b"", b"1", b"NaN"])) + body[at + 1 :]
        )
    options = data.draw(st.sampled_from([{}, {"dtype": "float32"}, {"dtype": "int64"}, {"nonfinite": "keep"}]))
    if form == 0:
        options = {**options, "answers": "@"}
    whole, sliced = (_outcome(body, options, size) for size in (2**20, 40))
    assert whole == sliced


def _outcome(body: bytes, options: dict[str, Any], size: int) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_answer_reader, "LIGHT", size)
        patch.setattr(json_codec, "AT_ONCE", size)
        patch.setattr(_slices, "_SLICE", size)
        patch.setattr(_slices, "_REACH", size)
        try:
            decoded = codec("json", **options).decode(response(body), len(body))
        except InvalidResponse:
            return "invalid"
    named = decoded if isinstance(decoded, dict) else {"": decoded}
    return {name: (str(array.dtype), array.shape, repr(array.tolist())) for name, array in named.items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", range(1, 30))
def test_a_list_is_found_wherever_the_search_for_its_name_was_divided(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(_slices, "_PIECE", piece)
    body = b'{"x": "out", "out": [1], "y": {"out" : [2]}, "\\"out": [3]}'
    assert [body[at : at + 3] for at in _slices.lists_named(body, "out")] == [b"[1]", b"[2]"]
    assert list(_slices.lists_named(body, "other")) == []
