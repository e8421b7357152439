"""Templates of a chat: a prompt, a system message or a conversation over the columns of a row."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import OpenAIChat
from fanout.errors import ConfigError, EncodeError, InputError

PNG = b"\x89PNG\r\n\x1a\n and more"


def messages(row, **options):
    return orjson.loads(OpenAIChat(**options).encode([row]).body)["messages"]


def test_a_prompt_is_a_template_over_the_columns():
    codec = OpenAIChat(prompt="Translate into {{language}}: {{text}}", system="For {{reader.age}} years, {{n}} words")
    row = {"language": "French", "text": 'say "{{language}}"\n', "reader": {"age": 7}, "n": 3}
    assert orjson.loads(codec.encode([row]).body)["messages"] == [
        {"role": "system", "content": "For 7 years, 3 words"},
        {"role": "user", "content": 'Translate into French: say "{{language}}"\n'},
    ]
    assert codec.columns == {"language", "text", "reader.age", "n"}


def test_columns_of_arrays_and_single_texts_are_rows_too():
    columns = {"text": np.array(["a"], np.dtypes.StringDType()), "n": np.array([1.5], np.float32)}
    body = orjson.loads(OpenAIChat(prompt="{{n}} {{text}}").encode(columns).body)
    assert body["messages"][0]["content"] == "1.5 a"
    assert messages("a", prompt="Review: {{row}}")[0]["content"] == "Review: a"
    assert OpenAIChat(prompt="Review: {{row}}").columns is None


def test_an_image_is_a_part_of_the_prompt():
    parts = [
        {"type": "text", "text": "What is this {{kind}}?"},
        {"type": "image_url", "image_url": {"url": "{{photo | data_url}}", "detail": "low"}},
    ]
    (message,) = messages({"kind": "part", "photo": PNG}, prompt=parts)
    url = f"data:image/png;base64,{b64encode(PNG).decode()}"
    assert message == {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this part?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ],
    }


def test_a_conversation_is_a_template_and_a_list_in_a_column_stays_one():
    talk = [
        {"role": "user", "content": "{{question}}"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "{{parts}}"},
    ]
    parts = [{"type": "text", "text": "why?"}]
    result = messages({"question": 2, "parts": parts}, messages=talk, system="be brief")
    assert [one["content"] for one in result] == ["be brief", "2", "", parts]


@pytest.mark.parametrize("value", [None, float("nan")])
@pytest.mark.parametrize("template", ["{{text}}", "Review: {{text}}"])
def test_rows_without_a_value_fail_by_their_number(template, value):
    with pytest.raises(EncodeError, match=r"has no value for \{\{text\}\}") as caught:
        OpenAIChat(prompt=template).encode([{"text": "a"}, {"text": value}, {"text": "b"}])
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("row", "options", "match"),
    [
        ({"text": "a", "photo": None}, {"prompt": [{"type": "i", "url": "{{photo | data_url}}"}]}, "no value for the"),
        ({"text": ""}, {"prompt": "{{text}}"}, "makes an empty prompt"),
        ({"text": ""}, {"prompt": "Hi", "system": "{{text}}"}, "makes an empty prompt"),
        ({"text": b"a"}, {"prompt": "{{text}}"}, "write {{text | base64}}"),
        ({"text": {"a": 1}}, {"prompt": "Say {{text}}"}, "write {{text | json}}"),
        ({"text": "\ud800"}, {"prompt": "{{text}}"}, "surrogate|JSON"),
    ],
)
def test_values_that_no_message_can_hold_fail_their_row(row, options, match):
    with pytest.raises(EncodeError, match=match):
        OpenAIChat(**options).encode([row])


def test_an_empty_text_within_a_prompt_is_sent():
    assert messages({"text": ""}, prompt="Review: {{text}}")[0]["content"] == "Review: "


@pytest.mark.parametrize(
    ("options", "key", "match"),
    [
        ({"prompt": "{{a}}", "messages": [{"role": "user", "content": "{{a}}"}]}, "messages", "leave one of them out"),
        ({"prompt": "a constant"}, "prompt", "no placeholder such as {{text}}"),
        ({"prompt": "{{texts[]}}"}, "prompt", r"has {{texts\[\]}}, but a chat request carries one row"),
        ({"prompt": "{{a"}, "prompt", "without }}"),
        ({"prompt": "{{a | jsn}}"}, "prompt", "did you mean 'json'"),
        ({"prompt": 7}, "prompt", "a text or a list of parts"),
        ({"prompt": []}, "prompt", "a text or a list of parts"),
        ({"system": "For {{reader}}"}, "system", "write the prompt as a template too"),
        ({"messages": []}, "messages", "a list of messages"),
        ({"messages": ["{{a}}"]}, "messages", r"messages\[0\] must be a table with a role"),
        ({"messages": [{"role": "user", "content": "{{a | b}}"}]}, "messages[0].content", "unknown filter"),
    ],
)
def test_a_wrong_template_is_named(options, key, match):
    with pytest.raises(ConfigError, match=match) as caught:
        OpenAIChat(**options)
    assert caught.value.key == key


def test_rows_without_the_columns_of_the_template_are_an_input_error():
    codec = OpenAIChat(prompt="{{text}}")
    with pytest.raises(InputError, match=r"the columns are 'title'"):
        codec.encode({"title": np.array(["a"])})
    with pytest.raises(InputError, match=r'\[input\] columns = \["text"\]'):
        codec.encode(["a"])
    with pytest.raises(InputError, match="carries one row, not 2"):
        codec.encode([{"text": "a"}, {"text": "b"}])


def test_braces_in_constant_options_are_no_placeholders():
    body = orjson.loads(OpenAIChat(prompt="{{a}}", extra={"stop": ["{{a}}"]}).encode([{"a": "x"}]).body)
    assert body["stop"] == ["{{a}}"]


@given(st.text(), st.text())
def test_any_text_of_a_row_arrives_as_it_is(a, b):
    (message,) = messages({"a": a, "b": b}, prompt="1 {{a}} 2 {{b}} 3")
    assert message["content"] == f"1 {a} 2 {b} 3"
