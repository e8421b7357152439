"""The OpenAI shape of a chat API."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.conftest import Recorder, serving

PATH = "/v1/chat/completions"


def user(content):
    return {"role": "user", "content": content}


def test_echo_repeats_the_last_message_of_the_user(echo):
    """The whole answer, as OpenAI words it."""
    messages = [{"role": "system", "content": "be brief"}, user("one"), {"role": "assistant", "content": None}]
    answer = echo.post(PATH, {"model": "echo", "messages": [*messages, user("two é words"), *messages[:1]]})
    assert (answer["object"], answer["model"]) == ("chat.completion", "echo")
    message = {"role": "assistant", "content": "two é words"}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}


def test_parts_that_are_texts_are_one(echo):
    """And the model need not be named."""
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert echo.post(PATH, {"messages": [user(parts)]})["choices"][0]["message"]["content"] == "a b"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_to_its_longest(echo, field):
    """Counted in words."""
    answer = echo.post(PATH, {"messages": [user("a b c")], field: 2})
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("a b", "length")
    assert answer["usage"]["completion_tokens"] == 2
    assert echo.post(PATH, {"messages": [user("a b c")], field: 3})["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("kind", [list, np.array, lambda texts: {"said": texts}])
def test_a_users_function_gets_the_text_and_returns_one(kind):
    """As a list, an array, or under a name."""
    recorder = Recorder(lambda texts: kind([text.upper() for text in texts]))
    answer = serving(recorder).post(PATH, {"messages": [user("abc")]})
    assert recorder.calls == [["abc"]]
    assert answer["choices"][0]["message"]["content"] == "ABC"


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"model": 1}, "model", "must be a text"),
        ({"messages": None}, "messages", "at least one message"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": ["a"]}, "messages", "with a role"),
        ({"messages": [{"content": "a"}]}, "messages", "with a role"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages", "no message of the user"),
        ({"messages": [user(None)]}, "messages", "content must be a text"),
        ({"messages": [user([{"type": "image_url"}])]}, "messages", "content must be a text"),
        ({"stream": True}, "stream", "stream must be False"),
        ({"n": 2}, "n", "n must be 1"),
        ({"max_tokens": 0}, "max_tokens", "1 or more, not 0"),
        ({"max_tokens": True}, "max_tokens", "not True"),
    ],
)
def test_other_requests_are_refused(echo, change, param, text):
    """400 in OpenAI's words, with the field at fault."""
    error = echo.error(PATH, {"messages": [user("a")]} | change)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert text in error["message"]


@pytest.mark.parametrize("body", [b"{", b"[]"])
def test_a_body_that_is_no_object_is_refused(echo, body):
    """In OpenAI's words too."""
    assert echo.error(PATH, body)["type"] == "invalid_request_error"


def test_another_model_is_not_found(echo):
    """404 with OpenAI's code."""
    assert echo.error(PATH, {"model": "gpt", "messages": [user("a")]}, 404)["code"] == "model_not_found"


def test_digits_does_not_chat(digits):
    """400, and the message names the accepted values."""
    error = digits.error(PATH, {"messages": [user("seven")]})
    assert error["message"] == "model 'digits' does not chat: it takes images of shape [-1, 64]"


@pytest.mark.parametrize("result", [np.array([[1.0]]), [{"a": 1}], {"a": ["x"], "b": ["y"]}])
def test_an_answer_other_than_a_text_is_an_error_of_the_function(result):
    """500 in OpenAI's words."""
    error = serving(Recorder(result)).error(PATH, {"messages": [user("a")]}, 500)
    assert (error["type"], error["message"]) == ("server_error", "model 'm' must return one text for each text")
