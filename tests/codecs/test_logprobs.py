"""Log probabilities of the values of an enum, from those of tokens."""

from __future__ import annotations

from math import exp, log

import numpy as np
import orjson
import pytest

from fanout.codecs import OpenAIChat
from fanout.codecs._typed import of_values
from fanout.errors import ConfigError

VALUES = ["good", "bad", "goofy"]
SCHEMA = {"why": "str", "label": {"type": "str", "enum": VALUES}}


def choice(*tokens):
    """A choice of these tokens: texts, or pairs of a text and the probabilities of all alternatives."""
    content = []
    for token in tokens:
        text, others = token if isinstance(token, tuple) else (token, {token: 1.0})
        top = [{"token": other, "logprob": log(share)} for other, share in others.items()]
        content.append({"token": text, "logprob": log(others[text]), "top_logprobs": top})
    text = "".join(one["token"] for one in content)
    return text, {"message": {"content": text}, "logprobs": {"content": content}}


def probabilities(*tokens):
    text, one = choice(*tokens)
    return np.exp(of_values(one, text, "label", VALUES)).round(6).tolist()


def test_a_token_that_begins_one_value_alone_gives_its_probability():
    first = ("bad", {"bad": 0.5, "good": 0.3, "goo": 0.1, "b": 0.05, "x": 0.05})
    found = probabilities('{"why": "x", ', '"label', '": "', first, '"}')
    assert found[:2] == [0.3, 0.55]
    assert np.isnan(found[2])


def test_tokens_that_begin_several_values_are_told_apart_by_those_behind():
    found = probabilities('{"label": "', ("goo", {"goo": 0.8, "bad": 0.2}), ("d", {"d": 0.75, "fy": 0.25}), '"}')
    assert found == [0.6, 0.2, 0.2]


def test_a_token_may_begin_before_the_value_and_end_behind_it():
    found = probabilities('{"label":', (' "good"}', {' "good"}': 0.9, ' "bad': 0.1, '"goofy': 0.0001}))
    assert found[:2] == [0.9, 0.1]


def test_the_field_is_that_of_the_answer_itself():
    inner = '{"why": "\\"label\\": \\"bad\\"", "x": {"label": "bad"}, "label": "'
    assert probabilities(inner, ("good", {"good": 0.9, "bad": 0.1}), '"}')[:2] == [0.9, 0.1]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [{"token": "x", "logprob": -1.0}]}, []])
def test_without_probabilities_of_the_server_all_are_nan(logprobs):
    assert np.isnan(of_values({"logprobs": logprobs}, '{"label": "bad"}', "label", VALUES)).all()


def test_the_codec_asks_for_them_and_makes_an_output(response):
    codec = OpenAIChat(schema=SCHEMA, logprobs="label")
    sent = orjson.loads(codec.encode(["x"]).body)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)
    assert codec.spec["label_logprobs"].shape == (3,)
    assert codec.nonfinite == "keep"
    _, one = choice('{"why": "x", "label": "', ("bad", {"bad": 0.5, "good": 0.5}), '"}')
    values = codec.decode(response({"choices": [one]}), 1).values
    assert values["label"].tolist() == ["bad"]
    assert values["label_logprobs"].shape == (1, 3)
    assert exp(values["label_logprobs"][0, 0]) == pytest.approx(0.5)
    assert codec.decode(codec.serve(None, None), 1).values["label_logprobs"].shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schema": None}, "give their schema, too"),
        ({"logprobs": "why"}, "a field with an enum of texts, not 'why'"),
        ({"logprobs": "none"}, "a field with an enum of texts"),
        ({"mode": "tools"}, "not given for tools"),
        ({"schema": {**SCHEMA, "label_logprobs": "float"}}, "has already"),
        ({"extra": {"top_logprobs": 2}}, "the schema sets it"),
    ],
)
def test_a_wrong_option_is_named(options, match):
    with pytest.raises(ConfigError, match=match):
        OpenAIChat(**{"schema": SCHEMA, "logprobs": "label", **options})
