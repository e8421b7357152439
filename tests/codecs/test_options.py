"""Options are checked before anything is sent, and named when they are wrong."""

from __future__ import annotations

import pytest

from fanout.codecs import _options, codec
from fanout.errors import ConfigError


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (_options.text, ""),
        (_options.text, 1),
        (_options.text, None),
        (_options.text_or_none, 1),
        (_options.flag, 1),
        (_options.flag, "true"),
        (_options.fields, []),
        (_options.fields, {1: 2}),
        (_options.fields, {"a": object()}),
        (_options.fields, {"a": float("nan")}),
        (_options.fields, {"a": [{"b": float("inf")}]}),
        (_options.names, "abc"),
        (_options.names, [1]),
        (_options.names, [""]),
        (_options.names, ["a", "a"]),
    ],
)
def test_a_wrong_value_is_named(check, value):
    with pytest.raises(ConfigError, match=r"^it ") as caught:
        check("it", value)
    assert caught.value.key == "it"


def test_right_values_are_given_back():
    assert _options.text("it", "a") == _options.text_or_none("it", "a") == "a"
    assert _options.text_or_none("it", None) is None
    assert _options.flag("it", False) is False
    assert _options.fields("it", None) == {}
    assert _options.fields("it", {"a": None}) == {"a": None}
    assert _options.names("it", None) == ()
    assert _options.names("it", ["a", "b"]) == ("a", "b")


def test_a_table_is_copied():
    given = {"a": 1}
    _options.fields("it", given)["b"] = 2
    assert given == {"a": 1}


CHAT = {"messages": [{"role": "user", "content": "{{text}}"}], "temperature": 0, "format": "{{schema}}"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("json", {"answers": "a", "outputs": {"temperature": "t", "messages": "m"}}),
        ("json", {"dtype": {"temperature": "float32"}, "usage": {"max_tokens": "n"}}),
        ("json", {"request": CHAT, "parse": "text", "schema": {"temperature": "float"}}),
        ("openai-chat", {"extra": {"temperature": 0}, "schema": {"temperature": "float"}}),
    ],
)
def test_an_output_called_temperature_is_no_temperature_of_the_model(name, options):
    assert codec(name, **options).sampled == ""


def test_a_temperature_anywhere_in_a_request_counts():
    request = {"messages": "{{text}}", "temperature": 0, "options": {"temperature": 0.5}}
    assert codec("json", request=request).sampled == "temperature is 0.5"


@pytest.mark.parametrize("most", [0, 0.5, True])
def test_jobs_that_wait_at_once_are_a_whole_number(most):
    with pytest.raises(ConfigError, match=r"poll\.most must be a whole number, 1 or more"):
        codec("json", request="{{row}}", poll={"url": "url", "until": "done", "most": most})
