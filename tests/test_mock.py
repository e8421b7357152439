"""The mock transport reads requests of any codec and answers in its format."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, ConfigError, Payload, Response
from fanout.mock import MockModel, MockTransport, outputs_of
from fanout.types import TensorSpec

pytestmark = pytest.mark.virtual_time
X = np.arange(15.0).reshape(5, 3)
FIELDS: list[tuple[str, Any]] = [
    ("predictions", {"instances": "{{rows}}"}),
    ("@", "{{rows}}"),
    ("a.b", {"x": {"y": "{{rows}}"}}),
    ("data[].score", {"input": "{{rows}}", "k": 1}),
    ("r.items[*].v.w", {"q": ["{{rows}}"]}),
]


class Acme(fanout.Codec):
    """A format of this test's own: numbers in lines."""

    name = "acme"
    path = "/acme"

    def encode(self, rows: Any) -> Payload:
        return Payload(body="\n".join(str(float(row)) for row in rows).encode(), content_type="text/plain")

    def decode(self, reply: Response, n_rows: int) -> Any:
        return np.array([float(line) for line in reply.body.split()])


class AcmeWithServer(Acme):
    def serve(self, request: Any, model: Any) -> Response:
        rows = np.array([float(line) for line in request.joined().split()])
        return Response(status=200, headers={}, body="\n".join(map(str, model(rows).tolist())).encode())


async def rehearsed(codec: Any, rows: Any, model: Any, url: str = "https://far.test/v2/models/m/infer") -> Any:
    async with Client(url, codec=codec, chunk_rows=2, transport=MockTransport(codec, url, model)) as client:
        return await client.map(rows)


@pytest.mark.parametrize(("response", "template"), FIELDS)
async def test_a_json_api_is_played_whatever_its_fields(response: str, template: Any) -> None:
    codec = fanout.codec("json", request=template, answers=response)
    assert np.array_equal(await rehearsed(codec, X, lambda x: x * 2), X * 2)


async def test_several_outputs_come_by_name() -> None:
    for codec in (fanout.codec("json"), fanout.codec("oip"), fanout.codec("oip", outputs=["b", "a"])):
        values = await rehearsed(codec, X, lambda x: {"a": x * 2, "b": x[:, 0]})
        assert np.array_equal(values["a"], X * 2)
        assert np.array_equal(values["b"], X[:, 0])


async def test_ragged_rows_and_texts_reach_the_model_as_lists() -> None:
    for rows in ([[1, 2], [3]], ["a", "bc"]):
        values = await rehearsed(fanout.codec("json"), rows, lambda rows: np.array([len(row) for row in rows]))
        assert values.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("field", ["max(x)", "a.*", "keys(a)"])
async def test_a_path_that_cannot_be_turned_round_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="does not show the shape of an answer"):
        await rehearsed(fanout.codec("json", answers=field), X, lambda x: x)


async def test_a_format_of_one_s_own_is_played_by_the_codec_s_server() -> None:
    rows = np.arange(5.0)
    assert np.array_equal(await rehearsed(AcmeWithServer(), rows, lambda x: x + 1), rows + 1)
    with pytest.raises(ConfigError, match=r"'acme' has the path '/acme'.*: give the codec a method serve"):
        await rehearsed(Acme(), rows, lambda x: x + 1)


@pytest.mark.parametrize("model", [None, "text-embedding-9"])
async def test_the_model_that_is_asked_for_is_the_one_that_is_played(model: str | None) -> None:
    codec = fanout.codec("openai-chat", model=model)
    values = await rehearsed(codec, ["hello", "you"], lambda texts: [text.upper() for text in texts])
    assert values["text"].tolist() == ["HELLO", "YOU"]


@pytest.mark.parametrize(
    ("codec", "dtype", "shape"),
    [
        (fanout.codec("json", dtype="int64", shape=[]), "int64", ()),
        (fanout.codec("json", dtype="bool", shape=[2]), "bool", (2,)),
        (fanout.codec("oip", dtype="float16", shape=[2, 3]), "float16", (2, 3)),
        (fanout.codec("openai-embeddings", model="e", dimensions=7), "float32", (7,)),
    ],
)
async def test_made_up_answers_have_the_dtype_and_shape_of_the_codec(codec: Any, dtype: str, shape: Any) -> None:
    rows = ["a", "b", "c"] if "openai" in codec.name else X
    values = await rehearsed(codec, rows, MockModel(outputs_of(codec, {}), 0))
    assert (values.dtype, values.shape) == (np.dtype(dtype), (len(rows), *shape))


async def test_the_schema_of_the_job_overrides_that_of_the_codec() -> None:
    specs = {"*": TensorSpec(dtype=np.dtype("int16"), shape=(4,))}
    outputs = outputs_of(fanout.codec("oip", outputs=["p", "q"], dtype="float32", shape=[2]), specs)
    assert {name: (str(spec.dtype), spec.shape) for name, spec in outputs.items()} == {
        "p": ("int16", (4,)),
        "q": ("int16", (4,)),
    }


def test_rows_of_any_kind_have_answers_of_their_own() -> None:
    model = MockModel({"": TensorSpec(dtype=np.dtype("f8"), shape=())}, 3)
    for rows in (X, {"a": X, "b": X[:, 0]}, ["a", "b"], [{"a": 1}, {"a": 2}], [[1], [1, 2]]):
        values = model(rows)
        assert len(np.unique(values)) == len(values)
        assert np.array_equal(values, model(rows))
    assert not np.array_equal(model(X), MockModel({"": TensorSpec(dtype=np.dtype("f8"), shape=())}, 4)(X))


def test_the_request_is_read_as_it_was_sent() -> None:
    codec = fanout.codec("json", request={"k": 1, "a": {"b": "{{rows}}"}})
    assert orjson.loads(codec.encode(X).body) == {"k": 1, "a": {"b": X.tolist()}}
