"""Rules that say what the errors of one API mean."""

from __future__ import annotations

import pytest

from fanout import Action
from fanout.codecs import Json, Oip, OpenAIChat, OpenAIEmbeddings
from fanout.errors import ConfigError

FILTERED = {"error": {"code": "content_filter", "n": 3, "tags": ["a", "b"], "flag": True}}


def verdict(response, rule, body=FILTERED, status=400, kind=Json):
    return kind(status_rules=[rule]).classify(response(body, status=status))


@pytest.mark.parametrize(("then", "action"), [("fail", Action.FAIL), ("quota", Action.STOP), ("retry", Action.RETRY)])
@pytest.mark.parametrize("kind", [Json, Oip, OpenAIChat, OpenAIEmbeddings])
def test_a_rule_decides_the_next_step_in_every_codec(response, then, action, kind):
    found = verdict(
        response, {"status": 400, "path": "error.code", "equals": "content_filter", "then": then}, kind=kind
    )
    assert (found.action, found.status, found.reason) == (action, 400, "")
    assert found.stop == "quota" or action is not Action.STOP


def test_a_rule_may_give_another_status(response):
    assert verdict(response, {"status": 400, "then": 503}) == 503


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 400},
        {"path": "error.code"},
        {"path": "error.n", "equals": 3},
        {"path": "error.flag", "equals": True},
        {"path": "error.code", "contains": "filter"},
        {"path": "error.tags", "contains": '"b"'},
        {"path": "length(error.tags)", "equals": 2},
        {"contains": "content_filter"},
        {"status": 400, "contains": "content_filter", "path": "error.code"},
    ],
)
def test_all_conditions_of_a_rule_hold(response, rule):
    assert verdict(response, {**rule, "then": 429}) == 429


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 422},
        {"path": "error.message"},
        {"path": "error.n", "equals": "3"},
        {"path": "error.flag", "equals": 1},
        {"path": "error.code", "equals": "filter"},
        {"path": "error.code", "contains": "quota"},
        {"path": "length(error.n)"},
        {"contains": "quota"},
        {"status": 422, "path": "error.code", "equals": "content_filter"},
    ],
)
@pytest.mark.parametrize("body", [FILTERED, b"", b"<html>", b"[]", b"null", b"\xff"])
def test_otherwise_the_status_keeps_its_meaning(response, rule, body):
    assert verdict(response, {**rule, "then": 429}, body=body) is None


def test_the_first_rule_that_holds_decides(response):
    rules = [{"status": 429, "then": 500}, {"status": 400, "then": 501}, {"status": 400, "then": 502}]
    assert Json(status_rules=rules).classify(response({}, status=400)) == 501


def test_a_rule_goes_before_what_the_codec_knows(response):
    blocked = {"error": {"code": "content_filter", "message": "no"}}
    codec = OpenAIChat(status_rules=[{"status": 400, "path": "error.code", "then": "retry"}])
    assert codec.classify(response(blocked, status=400)).action is Action.RETRY
    assert OpenAIChat().classify(response(blocked, status=400)).action is Action.FAIL


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ([{"then": "fail"}], "status_rules[0]"),
        ([{"status": 400, "then": "fail"}, {"status": 400}], "status_rules[1].then"),
        ([{"status": 400, "then": "stop"}], "status_rules[0].then"),
        ([{"status": 400, "then": 200}], "status_rules[0].then"),
        ([{"status": "400", "then": 500}], "status_rules[0].status"),
        ([{"status": 400, "equals": 3, "then": 500}], "status_rules[0].equals"),
        ([{"contains": 3, "then": 500}], "status_rules[0].contains"),
        ([{"path": "a[", "then": 500}], "status_rules[0].path"),
        ([{"sttus": 400, "then": 500}], "status_rules[0].sttus"),
        (["fail"], "status_rules[0]"),
        ({"status": 400}, "status_rules"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_when_the_codec_is_made(rules, key):
    with pytest.raises(ConfigError) as caught:
        Json(status_rules=rules)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
