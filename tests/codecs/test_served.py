"""Mocks of template codecs: the rows in a request, and a document in which the paths find the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from fanout.codecs import Json
from fanout.errors import ConfigError
from fanout.testing import CodecTests
from fanout.transport import Request
from fanout.types import DecodedResponse

TEXTS = [{"t": "a {{t}}", "n": 1}, {"t": 'b "', "n": 2}, {"t": "c\n", "n": 3}]


class TestOneRow(CodecTests):
    def codec(self) -> Json:
        return Json(
            request={"messages": [{"role": "user", "content": "Say {{t}}."}], "n": "{{n}}"},
            outputs={
                "text": {"path": "choices[0].message.content", "type": "str"},
                "score": {"path": "choices[0].score", "type": "float32"},
            },
            usage={"total_tokens": "usage.total"},
        )

    def rows(self, n: int) -> Any:
        return [{"t": f"text {i}", "n": i} for i in range(n)]

    def model(self, rows: Any) -> Any:
        return {
            "text": [row["t"].upper() for row in rows],
            "score": np.array([row["n"] / 2 for row in rows], np.float32),
        }

    def expected(self, rows: Any) -> Any:
        values = self.model(rows)
        return values | {"text": np.array(values["text"], np.dtypes.StringDType())}


class TestManyRows(CodecTests):
    def codec(self) -> Json:
        return Json(
            request={"input": {"rows": "{{rows}}"}}, item={"values": "{{row}}"},
            answers="out.results", order="place.index",
            outputs={"y": {"path": "y.value", "type": "float64"}},
        )  # fmt: skip

    def expected(self, rows: Any) -> Any:
        return {"y": self.model(rows)}


def served(codec, rows, model):
    """What the model was given, and what the codec reads in its mock's answer."""
    given = []

    def recording(rows: Any) -> Any:
        given.append(rows)
        return model(rows)

    body = codec.encode(rows).body
    response = codec.serve(Request("POST", "http://mock/", {}, (body,)), recording)
    decoded = codec.decode(response, len(rows))
    return given[0], decoded.values if isinstance(decoded, DecodedResponse) else decoded


@pytest.mark.parametrize(
    "request_",
    [
        {"t": "{{t[]}}", "m": ["{{n[]}}"]},
        {"rows": "{{rows}}"},
    ],
)
def test_the_model_is_given_the_rows_by_the_names_of_their_columns(request_):
    given, values = served(Json(request=request_), TEXTS, lambda rows: [row["n"] for row in rows])
    assert given == TEXTS
    assert values.tolist() == [1, 2, 3]


def test_items_and_texts_are_read_back_into_rows():
    codec = Json(request="{{rows}}", item={"a": {"b": "<{{t}}|{{n}}>"}, "n": "{{n}}"})
    given, _ = served(codec, TEXTS, lambda rows: [1] * len(rows))
    assert given == [{"t": row["t"], "n": str(row["n"])} for row in TEXTS]


@pytest.mark.parametrize(
    "path",
    [
        "y", "a.b", "a[0].b", "a[2]", "a[-1]", "output[?type=='message'].content[0].text | [0]", "a || b",
        "join('', content[?type=='text'].text)", "to_string(a)", '"a/b".c', "@",
    ],
)  # fmt: skip
def test_an_answer_has_the_text_where_the_path_finds_it(path):
    codec = Json(request="{{row}}", outputs={"y": {"path": path, "type": "str"}})
    _, values = served(codec, ["x"], lambda rows: ["answer"])
    assert values["y"].tolist() == ["answer"]


def test_paths_that_meet_share_one_document():
    outputs = {"t": "c[?type=='text'] | [0].text", "r": "stop", "f": "c[0].n", "v": "c[1].v"}
    codec = Json(request="{{row}}", outputs=outputs)
    body = codec.encode([1]).body
    response = codec.serve(
        Request("POST", "", {}, (body,)), lambda rows: {"t": ["a"], "r": ["b"], "f": [1], "v": [[2]]}
    )
    assert orjson.loads(response.body) == {
        "c": [{"text": "a", "type": "text", "n": 1}, {"v": [2]}], "stop": "b"
    }  # fmt: skip


def test_json_in_a_text_and_usage_are_served_too():
    codec = Json(
        request="{{rows}}", answers="r", parse="m.c", outputs={"y": "y"}, order="i", usage={"total_tokens": "u.t"}
    )
    body = codec.encode([5, 6]).body
    response = codec.serve(Request("POST", "", {}, (body,)), lambda rows: rows * 2)
    assert orjson.loads(response.body) == {
        "r": [{"m": {"c": '{"y":10}'}, "i": 0}, {"m": {"c": '{"y":12}'}, "i": 1}], "u": {"t": 2}
    }  # fmt: skip
    assert codec.decode(response, 2).usage == {"total_tokens": 2}


@pytest.mark.parametrize(
    "path", ["keys(a)", "a[1:2] | [0]", "length(a)", "a.*", "a[?n > `3`] | [0]", "!a", "a[?t] | [1]"]
)
def test_a_path_that_shows_no_shape_is_refused_in_words(path):
    codec = Json(request="{{row}}", outputs={"y": path})
    with pytest.raises(ConfigError, match="does not show the shape of an answer") as caught:
        served(codec, ["x"], lambda rows: [0.5])
    assert caught.value.key == "outputs.y"


def test_paths_that_contradict_each_other_are_refused():
    codec = Json(request="{{row}}", outputs={"a": "x", "b": "x.y"})
    with pytest.raises(ConfigError, match="does not show the shape"):
        served(codec, ["x"], lambda rows: {"a": [1], "b": [2]})


def test_a_value_may_meet_a_filter_itself():
    codec = Json(request="{{row}}", outputs={"text": {"path": "join('', content[?text].text)", "type": "str"}})
    _, read = served(codec, ["x"], lambda rows: ["y"])
    assert read["text"].tolist() == ["y"]
