"""Typed answers in the presets whose API takes a JSON Schema: where it stands in the request, and what is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest

import fanout
from fanout import Client, Limits
from fanout.errors import ConfigError
from fanout.job import load_job
from fanout.job.run import run_job
from fanout.testing import in_virtual_time
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.transport import Request

# The words of a schema are no template.
SCHEMA = {"label": {"type": "str", "enum": ["good", "bad"], "description": "of {{row}}"}, "score": "float"}
JSON_SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["good", "bad"], "description": "of {{row}}"},
        "score": {"type": "number"},
    },
    "required": ["label", "score"],
    "additionalProperties": False,
}
# Preset -> the place of the schema in a request, and the response around the text of an answer.
PLACES: dict[str, tuple[Callable[[Any], Any], Callable[[str], Any]]] = {
    "anthropic-messages": (
        lambda body: body["output_config"] == {"format": {"type": "json_schema", "schema": JSON_SCHEMA}},
        lambda text: {"content": [{"type": "thinking", "thinking": "{"}, {"type": "text", "text": text}]},
    ),
    "bedrock-converse": (
        lambda body: (
            body["outputConfig"]["textFormat"].keys() == {"type", "structure"}
            and body["outputConfig"]["textFormat"]["type"] == "json_schema"
            and json.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]) == JSON_SCHEMA
        ),
        lambda text: {"output": {"message": {"role": "assistant", "content": [{"text": text}]}}},
    ),
    "gemini-generate": (
        lambda body: (
            body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": JSON_SCHEMA}
        ),
        lambda text: {"candidates": [{"content": {"parts": [{"text": text[:4]}, {"text": text[4:]}]}}]},
    ),
    "ollama-chat": (lambda body: body["format"] == JSON_SCHEMA, lambda text: {"message": {"content": text}}),
    "ollama-generate": (lambda body: body["format"] == JSON_SCHEMA, lambda text: {"response": text}),
    "openai-responses": (
        lambda body: (
            body["text"] == {
                "format": {"type": "json_schema", "name": "answer", "strict": True, "schema": JSON_SCHEMA}
            }
        ),
        lambda text: {"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]},
    ),
}  # fmt: skip
every_preset = pytest.mark.parametrize("name", PLACES)


class Server:
    """Answers with the text that ``answer`` gives for the number of a request."""

    def __init__(self, name: str, answer: Callable[[int], str]) -> None:
        self._is_right, self._around = PLACES[name]
        self._answer = answer
        self.bodies: list[bytes] = []

    async def send(self, request: Request) -> Response:
        body = request.joined()
        assert self._is_right(orjson.loads(body)), body
        self.bodies.append(body)
        document = self._around(self._answer(len(self.bodies) - 1))
        return Response(status=200, headers={}, body=orjson.dumps(document), url=request.url)


@in_virtual_time
async def result_of(name: str, server: Server, rows: list[str], **options: Any) -> fanout.Result:
    preset = fanout.preset(name, model="m", **{"schema": SCHEMA, **options})
    async with Client("http://api.test", codec=preset, transport=server, limits=Limits(concurrency=1)) as client:
        return await client.map(rows, on_error="keep")


@every_preset
def test_the_schema_is_in_its_place_and_each_field_is_an_output(name):
    server = Server(name, lambda i: orjson.dumps({"label": "good", "score": i / 2}).decode())
    result = result_of(name, server, ["a", "b"])
    assert {output: array.tolist() for output, array in result.values.items()} == {
        "label": ["good", "good"], "score": [0.0, 0.5],
    }  # fmt: skip
    assert [array.dtype.kind for array in result.values.values()] == ["T", "f"]


@every_preset
def test_an_invalid_answer_is_asked_for_once_more_then_fails_with_its_text(name):
    server = Server(name, lambda i: '{"label": "so so", "score": 1}' if i else '{"label": "bad", "score": 1}')
    result = result_of(name, server, ["a", "b"])
    assert result.ok.tolist() == [True, False]
    assert "Invalid enum value 'so so'" in result.failures[0].reason
    assert result.failures[0].attempts == 2
    assert len(server.bodies) == 3
    assert server.bodies[1] == server.bodies[2]


def test_validate_refuses_an_answer(tmp_path: Path):
    def validate(answer: dict[str, Any]) -> None:
        if answer["score"] > 1:
            raise ValueError("the score is above 1")

    server = Server("ollama-chat", lambda i: f'{{"label": "bad", "score": {i}}}')
    result = result_of("ollama-chat", server, ["a", "b", "c"], validate=validate, reasks=0)
    assert result.ok.tolist() == [True, True, False]
    assert "the score is above 1" in result.failures[0].reason


JOB = """
[input]
path = "rows.jsonl"
[endpoint]
url = "https://api.example"
[codec]
preset = "ollama-chat"
model = "m"
schema = {schema}
[output]
path = "answers.jsonl"
"""


@pytest.mark.parametrize("schema", ['"answer.json"', '{ label = { type = "str", enum = ["good"] }, n = "int" }'])
def test_a_job_with_a_schema_can_be_rehearsed(tmp_path: Path, schema: str):
    document = {"type": "object", "properties": {"label": {"enum": ["good"]}, "n": {"type": "integer"}}}
    (tmp_path / "answer.json").write_text(json.dumps(document))
    (tmp_path / "job.toml").write_text(JOB.replace("{schema}", schema))
    (tmp_path / "rows.jsonl").write_text('"a"\n"b"\n')
    summary = in_virtual_time(run_job)(load_job(tmp_path / "job.toml"), mock=True)
    assert (summary.ok, summary.exit_code) == (2, 0)
    lines = [json.loads(line) for line in (tmp_path / "answers.mock.jsonl").read_text().splitlines()]
    assert lines == [{"label": "good", "n": 0, "error": None}] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"request": {"x": "{{row}}"}}, "parse"),
        ({"raw": "{{row}}", "parse": "x"}, "schema needs a request"),
        ({"request": {"x": "{{rows}}"}, "parse": "x"}, "of one row"),
        ({"request": {"x": "{{row}}"}, "parse": "x", "reasks": -1}, "reasks must be"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        fanout.codec("json", schema=SCHEMA, **options)
