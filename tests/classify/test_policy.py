"""The next step after an answer without values, and the URL in its reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

import fanout
from fanout import errors
from fanout.classify import classify_error, classify_invalid, classify_response, error_message, pushback
from fanout.classify.policy import whole_url
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ConnectError,
    CredentialsError,
    IncompleteResponse,
    InvalidResponse,
    MismatchedResponse,
    ResponseTooLarge,
    StaleConnectionError,
    TransportError,
)
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Action, Response, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator


RETRY, SPLIT, FAIL, STOP = Action.RETRY, Action.SPLIT, Action.FAIL, Action.STOP
NOW = datetime(2031, 5, 6, 12, 0, 0, tzinfo=UTC)
URL = "https://user:s3cret@host/v1/m?key=s3cret"

KNOWN = {
    400: SPLIT, 401: STOP, 402: STOP, 403: STOP, 404: STOP, 405: STOP, 407: STOP, 408: RETRY, 409: RETRY, 410: STOP,
    411: STOP, 413: SPLIT, 415: STOP, 421: RETRY, 422: SPLIT, 425: RETRY, 429: RETRY, 501: STOP, 505: STOP,
}  # fmt: skip


def response(status: int, body: object = b"", **headers: str) -> Response:
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(
        status=status, headers=fields, body=body if isinstance(body, bytes) else orjson.dumps(body), url=URL
    )


def http_date(seconds: float, since: datetime = NOW) -> str:
    return format_datetime(since + timedelta(seconds=seconds), usegmt=True)


def expected(status: int) -> Action:
    if status < 200:
        return RETRY
    if status < 400:
        return STOP
    return KNOWN.get(status, RETRY if status >= 500 else SPLIT)


def test_every_status_has_its_action():
    for status in [*range(100, 200), *range(300, 600), 999]:
        verdict = classify_response(response(status))
        assert (verdict.status, verdict.action, verdict.unreachable) == (status, expected(status), False)
        assert str(status) in verdict.reason


def test_statuses_of_overload_count_as_overload():
    message = [status for status in range(400, 600) if classify_response(response(status)).overload]
    assert message == [408, 429, 503, 504, 529]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "refused"), (402, "quota"), (403, "refused"), (404, "rejected"), (405, "rejected"), (407, "refused"),
     (410, "rejected"), (501, "rejected"), (302, "redirect")],
)  # fmt: skip
def test_a_stop_is_of_the_kind_that_its_status_means(status, kind):
    verdict = classify_response(response(status))
    assert (verdict.action, verdict.stop) == (STOP, kind)


def test_the_reason_quotes_the_server_on_one_short_line():
    reason = classify_response(response(500, b"line one\n line two " + b"x" * 10_000)).reason
    assert reason.startswith("HTTP 500: line one line two xxx")
    assert len(reason) < 350
    assert "\n" not in reason


GONE = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_usage_limit_exceeded",
    "team_spend_limit_exceeded",
]


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("code", GONE)
@pytest.mark.parametrize("shape", ["code", "type", "flat"])
def test_a_quota_that_is_gone_stops_the_run(status, code, shape):
    body = {"code": code} if shape == "flat" else {"error": {"message": "no more", shape: code}}
    verdict = classify_response(response(status, body, Retry_After="1", x_should_retry="true"))
    assert (verdict.action, verdict.stop) == (STOP, "quota")


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "rate_limit_exceeded", "type": "requests"}},
        {"error": {"code": None, "type": 7}},
        {"error": {"code": 429}},
        {"error": "insufficient_quota is what this is not"},
        {"error": None},
        {"error": ["insufficient_quota"]},
        ["insufficient_quota"],
        "insufficient_quota",
        7,
        None,
        b"insufficient_quota",
        b"\xff{",
        b"",
    ],
)
def test_a_rate_limit_is_no_quota_whatever_the_body(body):
    assert classify_response(response(429, body)).action is RETRY


def test_a_quota_code_counts_with_the_statuses_of_quotas_alone():
    assert classify_response(response(500, {"error": {"code": "insufficient_quota"}})).action is RETRY


@pytest.mark.parametrize("text", ["0", "1", "2.5", " 7 ", "1e3", "1000000000"])
def test_retry_after_in_seconds_is_the_pushback(text):
    assert pushback(response(429, Retry_After=text).headers) == float(text)
    assert classify_response(response(503, Retry_After=text)).pushback == float(text)


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "inf", "-inf", "-5", "", " ", "soon", ",", "s", "1e999", "0x10", "\0", "9" * 5000]
)
def test_a_retry_after_that_means_nothing_is_ignored(text):
    assert pushback(response(429, Retry_After=text).headers) is None
    assert pushback(response(429, retry_after_ms=text).headers) is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_header_text_breaks_the_classification(text, date):
    wait = classify_response(
        response(429, Retry_After=text, retry_after_ms=text, Date=date, x_should_retry=text)
    ).pushback
    assert wait is None or 0 <= wait < float("inf")


def test_without_a_retry_after_there_is_no_pushback():
    assert classify_response(response(429)).pushback is None


def test_milliseconds_come_first():
    assert pushback(response(429, retry_after_ms="1500", Retry_After="60").headers) == 1.5


def test_milliseconds_that_mean_nothing_leave_it_to_the_seconds():
    assert pushback(response(429, retry_after_ms="nan", Retry_After="60").headers) == 60


@pytest.mark.parametrize("skew", [-3600, 0, 3600, 10 * 365 * 86400])
def test_a_date_is_measured_against_the_servers_own_clock(skew):
    server = NOW + timedelta(seconds=skew)
    headers = response(429, Retry_After=http_date(90, server), Date=http_date(0, server)).headers
    assert pushback(headers) == 90


@pytest.mark.parametrize("date", ["", "yesterday", "99", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT"])
def test_without_a_date_of_the_server_our_clock_counts(date, monkeypatch):
    monkeypatch.setattr("fanout.classify.times._now", lambda: NOW)
    headers = response(429, Retry_After=http_date(90), **({"Date": date} if date else {})).headers
    assert pushback(headers) == 90


def test_our_clock_is_the_systems():
    headers = response(429, Retry_After=http_date(1000, datetime.now(UTC))).headers
    assert 990 < pushback(headers) <= 1000


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
     "Sun, 06 Nov 1994 08:49:37 -0000", "Sun, 06 Nov 1994 09:49:37 +0100"],
)  # fmt: skip
def test_every_form_of_a_date_is_understood(text):
    headers = response(503, Retry_After=text, Date="Sun, 06 Nov 1994 08:49:30 GMT").headers
    assert pushback(headers) == 7


@pytest.mark.parametrize("text", ["Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999999999999999999 08:49:37 GMT"])
def test_a_date_that_does_not_exist_is_ignored(text):
    assert pushback(response(503, Retry_After=text).headers) is None


@pytest.mark.parametrize("seconds", [-1, -1e6])
def test_a_date_in_the_past_is_ignored(seconds):
    assert pushback(response(503, Retry_After=http_date(seconds), Date=http_date(0)).headers) is None


def test_a_wait_is_a_wait_whatever_the_status():
    assert classify_response(response(400, Retry_After="5")).pushback == 5
    assert classify_response(response(401, Retry_After="5")).pushback is None


@pytest.mark.parametrize("status", [400, 401, 404, 418, 500, 501])
@pytest.mark.parametrize("wish", ["true", "True"])
def test_a_server_that_wishes_a_retry_gets_one(status, wish):
    verdict = classify_response(response(status, x_should_retry=wish, Retry_After="3"))
    assert (verdict.action, verdict.pushback) == (RETRY, 3)


@pytest.mark.parametrize(
    ("status", "action"), [(429, FAIL), (500, FAIL), (503, FAIL), (400, SPLIT), (401, STOP), (418, SPLIT)]
)
def test_a_server_that_wishes_no_retry_gets_none_and_the_rest_stays(status, action):
    assert classify_response(response(status, x_should_retry="false")).action is action


def test_another_wish_counts_for_nothing():
    assert classify_response(response(503, x_should_retry="maybe")).action is RETRY


@pytest.mark.parametrize(
    ("location", "there"),
    [
        ("https://other/v1/m", "https://other/v1/m"),
        ("https://me:s3cret@other/m?token=s3cret#s3cret", "https://***@other/m?token=***"),
        ("/v2/m?token=s3cret", "https://***@host/v2/m?token=***"),
        ("//other/m", "https://other/m"),
        ("m2", "https://***@host/v1/m2"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_stops_the_run_and_names_the_new_url_without_secrets(status, location, there):
    verdict = classify_response(response(status, Location=location))
    assert (verdict.action, verdict.stop, verdict.status) == (STOP, "redirect", status)
    assert f"redirects to {there};" in verdict.reason
    assert "s3cret" not in verdict.reason


@pytest.mark.parametrize("headers", [{}, {"Location": ""}, {"Location": "http://[bad"}, {"Location": "mailto:me"}])
def test_a_redirect_to_nowhere_stops_the_run_too(headers):
    verdict = classify_response(response(302, **headers))
    assert (verdict.action, verdict.stop) == (STOP, "redirect")
    assert verdict.reason == "HTTP 302: the endpoint redirects, but not to a URL"


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from subclasses(sub)


VERDICTS = {
    TransportError: Verdict(action=RETRY, reason="why", unreachable=True, broke_off=True),
    ConnectError: Verdict(action=RETRY, reason="why", unreachable=True),
    StaleConnectionError: Verdict(action=Action.RESEND, reason="why", unreachable=True),
    CertificateError: Verdict(action=STOP, reason="why", stop="refused", unreachable=True),
    CredentialsError: Verdict(action=STOP, reason="why", stop="refused", unreachable=True),
    AttemptTimeout: Verdict(action=RETRY, reason="why", overload=True, unreachable=True, broke_off=True),
    IncompleteResponse: Verdict(action=RETRY, reason="why", unreachable=True, broke_off=True),
    MismatchedResponse: Verdict(action=RETRY, reason="why", broke_off=True),
    ResponseTooLarge: Verdict(action=FAIL, reason="why"),
}


@pytest.mark.parametrize("cls", [cls for cls in subclasses(TransportError) if cls.__module__ == errors.__name__])
def test_every_transport_error_has_its_verdict(cls):
    assert classify_error(cls("why")) == VERDICTS[cls]


def test_the_errors_of_the_tree_are_all_there():
    assert set(VERDICTS) == {cls for cls in subclasses(TransportError) if cls.__module__ == errors.__name__}


@pytest.mark.parametrize(
    ("body", "action", "stop"),
    [
        ({"error": {"code": "insufficient_quota", "message": "no credit"}}, STOP, "quota"),
        ({"error": {"code": "odd", "message": "slow down"}}, RETRY, "refused"),
        ([], RETRY, "refused"),
    ],
)
def test_an_invalid_answer_with_an_error_for_exhausted_money_stops_the_run(body, action, stop):
    verdict = classify_invalid(response(200, body), InvalidResponse("no 'predictions'"))
    assert (verdict.action, verdict.stop, verdict.status) == (action, stop, 200)
    assert verdict.reason == ("HTTP 200: no credit" if action is STOP else "no 'predictions'")


@pytest.mark.parametrize("error_kind", ["content", "rows", "dtype", "shape", "nonfinite"])
def test_an_invalid_answer_is_retried_and_keeps_its_flaw(error_kind):
    verdict = classify_error(InvalidResponse("not what was asked for", error_kind=error_kind), 200)
    assert verdict == Verdict(
        action=RETRY, reason="not what was asked for", status=200, error_kind=error_kind,
        without_values=error_kind == "content",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "path", "whole"),
    [
        ("http://h/v1", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/api/v1/", "/v1/embeddings", "http://h/api/v1/embeddings"),
        ("http://h/v1/chat", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1?key=x", "/v1/embeddings", "http://h/v1/embeddings?key=x"),
        ("http://h/v2", "/v2/models/{model}/infer", "http://h/v2/models/NAME/infer"),
        ("http://h/v2/models/digits", "/v2/models/{model}/infer", "http://h/v2/models/digits/infer"),
        ("http://h/v1/models/digits", "/v1/models/{model}:predict", "http://h/v1/models/digits:predict"),
        ("http://h/v1/chat/completions", "/v1/chat/completions", ""),
        ("http://h/v2/models/digits/infer", "/v2/models/{model}/infer", ""),
        ("http://h/v1/models/digits:predict", "/v1/models/{model}:predict", ""),
        ("http://h/elsewhere", "/v1/embeddings", ""),
        ("http://h/v1", "", ""),
    ],
)
def test_a_base_url_is_completed(url: str, path: str, whole: str) -> None:
    assert whole_url(url, path) == whole


@pytest.mark.parametrize("status", [401, 403, 404, 405, 410])
async def test_the_url_is_in_the_reason(status: int) -> None:
    with MockEndpoint(lambda x: x) as mock:
        mock.script(*[Scripted(status=status, body=b'{"error": "no"}')] * 30)
        url = mock.url("v1").removesuffix(":predict") + "?key=s3cret-key"
        async with fanout.Client(url, codec="v1", chunk_rows=1) as client:
            with pytest.raises(fanout.RunStopped) as caught:
                await client.map(np.arange(3.0))
    shown = url.replace("s3cret-key", "***")
    assert f"HTTP {status}: no (asked at {shown}" in caught.value.reason
    hint = f"set the url to {shown.replace('?', ':predict?')}"
    assert (hint in caught.value.reason) == (status in (404, 405, 410))


async def test_the_url_of_metadata_is_in_the_reason() -> None:
    with MockEndpoint(lambda x: x) as mock:
        mock.script_metadata(*[Scripted(status=401)] * 5)
        async with fanout.Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(fanout.RunStopped) as caught:
                await client.map(np.arange(3.0))
    assert f"asked at {mock.url('oip').removesuffix('/infer')})" in caught.value.reason


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


def test_a_date_without_the_servers_clock_counts_from_now(monkeypatch) -> None:
    monkeypatch.setattr("fanout.classify.times._now", lambda: datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC))
    assert classify_response(response(503, Retry_After="Sun, 06 Nov 1994 08:49:37 GMT")).pushback == 7


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


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("name", ["UnrecognizedClientException", "InvalidSignatureException:", "SignatureDoesNotMatch"])
def test_a_wrong_aws_key_is_refused_like_a_401_whatever_its_status(status, name):
    answer = Response(status=status, headers=CIMultiDict({"x-amzn-ErrorType": name}), body=b'{"message": "no"}', url="")
    verdict = classify_response(answer)
    assert (verdict.action, verdict.stop, verdict.status) == (Action.STOP, "refused", 401)


def test_a_403_of_aws_about_the_request_remains_a_403():
    headers = CIMultiDict({"x-amzn-ErrorType": "AccessDeniedException"})
    assert classify_response(Response(status=403, headers=headers, body=b"{}", url="")).status == 403
