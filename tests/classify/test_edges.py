"""Edges of the classifier that mutants of it found unguarded."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from fanout import Action
from fanout.classify import classify_error, classify_response, error_message, pushback
from fanout.errors import IncompleteResponse
from fanout.types import Response


def response(status: int, **headers: str) -> Response:
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status=status, headers=fields, body=b"", url="http://h/x")


@pytest.mark.parametrize("status", [300, 301, 399])
def test_every_status_of_the_300s_is_a_redirect(status: int) -> None:
    assert classify_response(response(status, Location="http://there/")).stop == "redirect"


@pytest.mark.parametrize("wish", ["yes", "zzz", "0", "", "truely", "falsehood"])
def test_a_wish_that_is_neither_true_nor_false_is_ignored(wish: str) -> None:
    assert classify_response(response(400, x_should_retry=wish)).action is Action.SPLIT
    assert classify_response(response(503, x_should_retry=wish)).action is Action.RETRY


def test_a_date_that_is_now_is_no_wait_and_one_before_is_ignored() -> None:
    now = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert pushback(CIMultiDict({"Date": now, "Retry-After": now})) == 0
    assert pushback(CIMultiDict({"Date": now, "Retry-After": "Sun, 06 Nov 1994 08:49:36 GMT"})) is None


@pytest.mark.parametrize(("meaning", "action"), [(None, Action.RETRY), (400, Action.SPLIT), (401, Action.STOP)])
def test_the_codecs_status_counts_and_the_servers_is_quoted(meaning: int | None, action: Action) -> None:
    verdict = classify_response(response(500), meaning=meaning)
    assert verdict.action is action
    assert verdict.reason.startswith("HTTP 500")


@pytest.mark.parametrize(
    ("status", "action"), [(413, Action.RETRY), (412, Action.SPLIT), (414, Action.SPLIT), (422, Action.SPLIT)]
)
def test_too_large_for_now_is_retried_and_nothing_else_with_a_wait(status: int, action: Action) -> None:
    assert classify_response(response(status, Retry_After="5")).action is action
    assert classify_response(response(413)).action is Action.SPLIT


def test_a_date_without_the_servers_clock_counts_from_the_time_that_is_given() -> None:
    then = response(503, Retry_After="Sun, 06 Nov 1994 08:49:37 GMT")
    assert classify_response(then, now=datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)).pushback == 7


def test_a_quota_error_keeps_its_status() -> None:
    gone = Response(status=429, headers={}, body=b'{"error": {"code": "insufficient_quota"}}')
    assert (classify_response(gone).status, classify_response(gone).stop) == (429, "quota")


def test_an_exchange_without_an_answer_has_no_status() -> None:
    assert classify_error(IncompleteResponse("it broke off")).status is None


def test_the_latest_reset_of_exhausted_quotas_counts() -> None:
    used_up = {f"x-ratelimit-remaining-{kind}": "0" for kind in ("requests", "tokens")}
    resets = {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "9s"}
    assert pushback(CIMultiDict(used_up | resets)) == 9


@pytest.mark.parametrize(("delay", "seconds"), [("", None), (" ", None), (" 3s ", 3.0)])
def test_a_delay_is_read_without_the_blanks_around_it(delay: str, seconds: float | None) -> None:
    assert pushback({}, {"details": [{"retryDelay": delay}]}) == seconds


def test_a_reset_within_a_second_is_one() -> None:
    assert pushback(CIMultiDict({"RateLimit-Reset": "1"})) == 1
    assert pushback(CIMultiDict({"RateLimit-Reset": "0.5"})) == 0.5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"title": "Bad Request"}', "Bad Request"),
        (b'{"msg": "no"}', "no"),
        (b'{"OriginalMessage": "from the container"}', "from the container"),
        (b'{"message": " ", "error": "the real one"}', "the real one"),
        (b'{"message": "%b"}' % (b"x" * 300), "x" * 300),
        (b'{"message": "%b"}' % (b"x" * 301), "x" * 300 + "..."),
    ],
)
def test_every_name_for_a_message_is_known_and_blank_ones_are_passed_over(body: bytes, message: str) -> None:
    assert error_message(Response(status=400, headers={}, body=body)) == message


NESTED = b"[" * 1000 + b"]" * 1000
"""As deep as the parser allows; to write it out again would overflow the stack."""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": [{"loc": null, "msg": "too long"}]}', "too long"),
        (b'{"detail": [{"loc": 3, "msg": "too long"}]}', "too long"),
        (b'{"detail": [{"loc": ["body", null, {}, 0], "msg": "too long"}]}', "body.0: too long"),
        (b'{"detail": [{"msg": {"a": 1}}]}', '{"detail": [{"msg": {"a": 1}}]}'),
    ],
)
def test_an_error_of_an_unusual_form_is_quoted_as_far_as_possible(body: bytes, message: str) -> None:
    assert error_message(Response(status=422, headers={}, body=body)) == message


@pytest.mark.parametrize("body", [b'{"detail": [{"loc": %s, "msg": %s}]}', b'{"error": {"code": %s, "type": %s}}'])
def test_an_error_that_is_nested_without_end_is_one_like_others(body: bytes) -> None:
    verdict = classify_response(Response(status=429, headers={}, body=body % (NESTED, NESTED)))
    assert verdict.action is Action.RETRY


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"RateLimit": '"x";r=0;t=' + "9" * 400}, {}),
        ({"RateLimit": '"x";r=' + "9" * 5000 + ";t=1"}, {}),
        ({"RateLimit": "limit=1, remaining=0, reset=" + "9" * 400}, {}),
        ({}, {"details": [{"retryDelay": "9" * 400 + "s"}]}),
        ({"x-ratelimit-reset-tokens": "9" * 400 + "s"}, {}),
    ],
)
def test_a_number_that_no_float_holds_is_no_wait(headers: dict[str, str], body: dict[str, object]) -> None:
    assert pushback(CIMultiDict(headers), body) is None


def test_a_count_of_very_many_digits_is_no_count() -> None:
    assert pushback(CIMultiDict({"RateLimit": '"x";r=' + "0" * 5000 + ";t=7"})) is None
    assert pushback(CIMultiDict({"RateLimit": '"x";r=' + "0" * 50 + ";t=7"})) == 7
