"""Edges of the classifier that mutants of it found unguarded."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from fanout import Action
from fanout.classify import classify_reply, pushback
from fanout.types import Reply


def reply(status: int, **headers: str) -> Reply:
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Reply(status=status, headers=fields, body=b"", url="http://h/x")


@pytest.mark.parametrize("status", [300, 301, 399])
def test_every_status_of_the_300s_is_a_redirect(status: int) -> None:
    assert classify_reply(reply(status, Location="http://there/")).stop == "redirect"


@pytest.mark.parametrize("wish", ["yes", "zzz", "0", "", "truely", "falsehood"])
def test_a_wish_that_is_neither_true_nor_false_is_ignored(wish: str) -> None:
    assert classify_reply(reply(400, x_should_retry=wish)).action is Action.SPLIT
    assert classify_reply(reply(503, x_should_retry=wish)).action is Action.RETRY


def test_a_date_that_is_now_is_no_wait_and_one_before_is_ignored() -> None:
    now = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert pushback(CIMultiDict({"Date": now, "Retry-After": now})) == 0
    assert pushback(CIMultiDict({"Date": now, "Retry-After": "Sun, 06 Nov 1994 08:49:36 GMT"})) is None


@pytest.mark.parametrize(("meaning", "action"), [(None, Action.RETRY), (400, Action.SPLIT), (401, Action.STOP)])
def test_the_meaning_of_a_status_counts_and_the_status_is_told(meaning: int | None, action: Action) -> None:
    verdict = classify_reply(reply(500), meaning=meaning)
    assert verdict.action is action
    assert verdict.reason.startswith("HTTP 500")


@pytest.mark.parametrize(
    ("status", "action"), [(413, Action.RETRY), (412, Action.FAIL), (414, Action.FAIL), (422, Action.SPLIT)]
)
def test_too_large_for_now_is_retried_and_nothing_else_with_a_wait(status: int, action: Action) -> None:
    assert classify_reply(reply(status, Retry_After="5")).action is action
    assert classify_reply(reply(413)).action is Action.SPLIT
