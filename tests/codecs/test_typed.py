"""Typed answers on the wire: the request and the answer of each mode, reasks, refusals and cut-off answers."""

from __future__ import annotations

import orjson
import pytest

from fanout.client.identity import identity_of
from fanout.codecs import OpenAIChat
from fanout.errors import ConfigError, InvalidResponse
from fanout.transport import Request
from fanout.types import Action

SCHEMA = {"label": {"type": "str", "enum": ["a", "b"]}}
JSON_SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}
MODES = ["json_schema", "json_object", "tools", "prompt"]


def codec(mode="json_schema", **options):
    return OpenAIChat(**{"schema": SCHEMA, "mode": mode, **options})


def body(mode, **options):
    return orjson.loads(codec(mode, **options).encode(["x"]).body)


def chat(content, reason="stop", **more):
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}, "finish_reason": reason}]}


def call(arguments, **more):
    return {"tool_calls": [{"type": "function", "function": {"name": "answer", "arguments": arguments}, **more}]}


def test_the_schema_is_sent_as_each_mode_has_it():
    form = {"name": "answer", "strict": True, "schema": JSON_SCHEMA}
    assert body("json_schema")["response_format"] == {"type": "json_schema", "json_schema": form}
    assert body("json_object")["response_format"] == {"type": "json_object"}
    sent = body("tools")
    function = {"name": "answer", "description": "The answer.", "strict": True, "parameters": JSON_SCHEMA}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
    assert "response_format" not in body("prompt")


@pytest.mark.parametrize("mode", ["json_object", "prompt"])
def test_the_system_message_has_the_schema_where_no_field_does(mode):
    sent = body(mode, system="About {{row}}:", prompt="{{row}}")["messages"]
    assert sent[0]["content"].startswith("About x:\n\nAnswer with one JSON object")
    assert sent[0]["content"].endswith(orjson.dumps(JSON_SCHEMA).decode())
    assert [one["role"] for one in body(mode)["messages"]] == ["system", "user"]
    assert [one["role"] for one in body("tools")["messages"]] == ["user"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", ['{"label": "b"}', '```json\n{"label": "b"}\n```'])
def test_the_answer_is_read_in_every_mode(response, mode, text):
    decoded = codec(mode).decode(response(chat(text)), 1)
    assert decoded.values["label"].tolist() == ["b"]


@pytest.mark.parametrize("arguments", ['{"label": "b"}', {"label": "b"}])
def test_the_arguments_of_the_tool_are_the_answer(response, arguments):
    decoded = codec("tools").decode(response(chat(None, "tool_calls", **call(arguments))), 1)
    assert decoded.values["label"].tolist() == ["b"]


@pytest.mark.parametrize("mode", MODES)
def test_a_mock_answers_in_the_form_of_the_schema(mode):
    one = codec(mode, model="m")
    payload = one.encode(["x"])
    request = Request(method="POST", url="http://h", headers={}, body=payload.body)
    assert one.decode(one.serve(request, None), 1).values["label"].tolist() == ["a"]
    assert OpenAIChat().serve(request, None) is None


def fault_of(one, answer):
    with pytest.raises(InvalidResponse) as caught:
        one.decode(answer, 1)
    return caught.value


def test_a_reask_shows_the_invalid_answer_and_its_fault(response):
    one = codec(extra={"temperature": 0})
    answer = response(chat('{"label": "ü"}'))
    error = fault_of(one, answer)
    assert error.answer == '{"label": "ü"}'
    again = orjson.loads(one.reask(one.encode(["x"]), answer, error).body)
    assert {**again, "messages": again["messages"][:1]} == orjson.loads(one.encode(["x"]).body)
    assert again["messages"][1] == {"role": "assistant", "content": '{"label": "ü"}'}
    assert again["messages"][2]["content"].startswith("The answer is invalid: Invalid enum value 'ü' - at `$.label`")
    assert (one.reasks, OpenAIChat().reasks, codec(reasks=3).reasks) == (1, 0, 3)


def test_a_reask_of_a_tool_is_the_result_of_its_call(response):
    one = codec("tools")
    answer = response(chat(None, "tool_calls", **call('{"label": 1}', id="c7")))
    again = orjson.loads(one.reask(one.encode(["x"]), answer, fault_of(one, answer)).body)["messages"]
    assert again[1]["tool_calls"][0]["id"] == again[2]["tool_call_id"] == "c7"
    assert again[1]["content"] == "", "some servers refuse null, and a message without a content"
    without_id = response(chat("hm", **call("{")))
    again = orjson.loads(one.reask(one.encode(["x"]), without_id, fault_of(one, without_id)).body)["messages"]
    assert again[1] == {"role": "assistant", "content": "hm"}


def test_a_function_may_refuse_a_valid_answer(response):
    seen = []

    def validate(answer):
        seen.append(answer)
        if answer["label"] == "b":
            raise ValueError("no b\nplease")

    one = codec(validate=validate)
    assert one.decode(response(chat('{"label": "a"}')), 1).values["label"].tolist() == ["a"]
    assert str(fault_of(one, response(chat('{"label": "b"}')))) == "the answer is invalid: no b please"
    fault_of(one, response(chat('{"label": "c"}')))
    assert seen == [{"label": "a"}, {"label": "b"}]


@pytest.mark.parametrize(
    ("mode", "document", "reason"),
    [
        ("json_schema", chat('{"label": ', "length"), 'raise the limit on its tokens: {"l'),
        ("tools", chat(None, "length", **call('{"la')), "cut off (finish_reason length)"),
        ("json_schema", chat(None, "length"), "no text: length"),
        ("json_schema", chat(None, refusal="I will not"), "no text: I will not"),
        ("tools", chat("", "content_filter"), "no text: content_filter"),
        ("json_schema", chat('{"label"', "content_filter"), "text is cut off: content_filter"),
    ],
)  # fmt: skip
def test_an_answer_that_would_end_the_same_again_fails_its_row_at_once(response, mode, document, reason):
    one = codec(mode)
    fault_of(one, response(document))
    verdict = one.classify(response(document))
    assert verdict.action is Action.FAIL
    assert reason in verdict.reason


@pytest.mark.parametrize("document", [chat("no"), chat("no", **call("no")), chat(""), {"choices": []}, [], b"<html>"])
@pytest.mark.parametrize("mode", MODES)
def test_other_invalid_answers_are_left_to_reasks_and_the_general_policy(response, mode, document):
    one = codec(mode)
    error = fault_of(one, response(document))
    assert one.classify(response(document)) is None
    assert (error.answer is not None) == (document in (chat("no"), chat("no", **call("no")), chat("")))


def test_an_answer_that_is_valid_is_taken_although_the_limit_was_reached(response):
    assert codec().decode(response(chat('{"label": "a"}', "length")), 1).values["label"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("options", "key", "match"),
    [
        ({"mode": "json"}, "mode", "must be one of json_schema"),
        ({"validate": "len"}, "validate", "a function"),
        ({"schema": None, "validate": len}, "validate", "give their schema"),
        ({"reasks": -1}, "reasks", "0 or more"),
        ({"reasks": True}, "reasks", "0 or more"),
        ({"extra": {"response_format": {}}}, "extra", "the schema sets it"),
    ],
)
def test_a_wrong_option_is_named(options, key, match):
    with pytest.raises(ConfigError, match=match) as caught:
        codec(**options)
    assert caught.value.key == key


def test_the_content_of_a_schema_s_file_is_part_of_the_identity_of_a_run(tmp_path):
    file = tmp_path / "schema.json"
    identities = []
    for schema in (JSON_SCHEMA, {**JSON_SCHEMA, "properties": {"other": {"type": "string"}}}):
        file.write_bytes(orjson.dumps(schema))
        identities.append(identity_of(["x"], OpenAIChat(schema=str(file)), ["http://h"])["codec"])
    assert identities[0] != identities[1]
