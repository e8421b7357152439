"""Waits and quotas, from the header fields and bodies of many vendors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from fanout.classify import classify_response, pushback, readers
from fanout.classify.rate_limit_headers import DIALECTS, PREFIXES, WAITS
from fanout.classify.times import wait_for, wait_in_words
from fanout.types import Action, Response

DATE = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
MIDNIGHT = 1767225600  # the same, in Unix time


def quotas_of(headers: dict[str, str]) -> list[tuple[str, float, float]]:
    fields = CIMultiDict(headers)
    return [(each.unit, each.remaining, each.reset) for read in readers(fields) for each in read(fields)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-RateLimit-Remaining-Requests": "59", "X-RateLimit-Reset-Requests": "1s"}, [("requests", 59, 1)]),
        ({"x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s"}, [("tokens", 149984, 360)]),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}, [("tokens", 0, 0.012)]),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "0s"}, []),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "-1"}, []),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "59"}, []),
        ({"x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": "30", "x-ratelimit-limit": "60"}, [("requests", 4, 30)]),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": str(MIDNIGHT + 90), **DATE}, [("requests", 4, 90)]),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": str(MIDNIGHT - 90), **DATE}, []),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": f"{MIDNIGHT}000", **DATE}, []),
        ({"RateLimit-Remaining": "4", "RateLimit-Reset": "30"}, [("requests", 4, 30)]),
        ({"RateLimit": '"default";r=50;t=30'}, [("requests", 50, 30)]),
        ({"RateLimit": 'default; t=30; r=50'}, [("requests", 50, 30)]),
        ({"RateLimit": '"a";r=3;t=1, "day";r=999;t=3600;pk=:cHQ=:'}, [("requests", 3, 1), ("requests", 999, 3600)]),
        (
            {
                "RateLimit": '"a, b";r=3;t=1, "size";r=5;t=2',
                "RateLimit-Policy": '"a, b";q=9;w=60;qu="requests","size";q=9;w=60;qu="content-bytes"',
            },
            [("requests", 3, 1), ("content-bytes", 5, 2)],
        ),
        ({"RateLimit": "limit=100, remaining=3, reset=12"}, [("requests", 3, 12)]),
        ({"RateLimit": '"default";r=50'}, []),
        ({"RateLimit": "what?"}, []),
        ({"Content-Type": "x"}, []),
    ],
)  # fmt: skip
def test_plausible_quotas_are_read(headers: dict[str, str], expected: list[tuple[str, float, float]]) -> None:
    assert quotas_of(headers) == expected


def test_allowances_of_one_endpoint_have_names_of_their_own() -> None:
    fields = CIMultiDict({
        "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-tokens": "1",
        "x-ratelimit-reset-tokens": "1s", "RateLimit": '"a";r=1;t=1, "b";r=1;t=1',
    })  # fmt: skip
    names = [each.name for read in readers(fields) for each in read(fields)]
    assert len(set(names)) == len(names) == 4


FIELDS = st.sampled_from([
    "RateLimit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset", "x-ratelimit-remaining", "Date",
    "x-ratelimit-reset", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
])  # fmt: skip
ITEMS = st.from_regex(r'"?\w*"?(;[rtq]u?="?\d{0,19}"?){0,3},?', fullmatch=True)
VALUES = st.text(max_size=30) | ITEMS | st.integers().map(str)


@given(headers=st.dictionaries(FIELDS, VALUES, max_size=9))
def test_implausible_quotas_are_ignored(headers: dict[str, str]) -> None:
    for _, left, seconds in quotas_of(headers):
        assert left >= 0
        assert 0 < seconds < 1e9


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"details": [{"@type": "x"}, {"retryDelay": "3s"}]}, 3.0),
        ({"details": [{"retryDelay": "1.5s"}]}, 1.5),
        ({"details": [{"retryDelay": "soon"}]}, None),
        ({"details": [{"retryDelay": 2}]}, 2.0),
        ({"details": [{"retryDelay": ["2s"]}]}, None),
        ({"details": "none"}, None),
        ({"details": [None, 3]}, None),
        ({"estimated_time": 20.5}, 20.5),
        ({"estimated_time": "20"}, 20.0),
        ({"estimated_time": -1}, None),
        ({"estimated_time": float("inf")}, None),
        ({"estimated_time": True}, None),
        ({"estimated_time": [1]}, None),
        ({}, None),
    ],
)
def test_the_body_may_state_the_wait(body: dict[str, Any], seconds: float | None) -> None:
    assert pushback({}, body) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-requests": "500ns"}, 5e-7),
        ({"x-ratelimit-reset-requests": "500us"}, 5e-4),
        ({"x-ratelimit-reset-requests": "500µs"}, 5e-4),
        ({"x-ratelimit-reset-requests": "2h"}, 7200.0),
        ({"x-ratelimit-reset-requests": "2d"}, 172800.0),
        ({"x-ratelimit-reset-requests": "1000000000"}, None),
        ({"RateLimit-Reset": "1000000000"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "7"}, 7.0),
        ({"x-ratelimit-reset-tokens": "-1"}, None),
        ({"x-ratelimit-reset-tokens": "0"}, None),
        ({"x-ratelimit-reset-tokens": "0s"}, None),
        ({"x-ratelimit-reset-tokens": "5 parsecs"}, None),
        ({"x-ratelimit-reset-tokens": "1s2"}, None),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "9s"}, 2.0),
        (
            {
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-reset-tokens": "9s",
                "x-ratelimit-remaining-requests": "4999",
                "x-ratelimit-remaining-tokens": "0",
            },
            9.0,
        ),
        ({"RateLimit": '"default";r=0;t=30'}, 30.0),
        ({"RateLimit": '"default";t=30;r=0'}, 30.0),
        ({"RateLimit": '"default";r=5;t=30'}, None),
        ({"RateLimit": "limit=100, remaining=0, reset=12"}, 12.0),
        ({"RateLimit": "limit=100, remaining=3, reset=12"}, None),
        ({"RateLimit": '"a";r=0;t=3, "b";r=0;t=30, "c";r=9;t=90'}, 30.0),
        ({"RateLimit": '"size";r=0;t=30', "RateLimit-Policy": '"size";q=9;w=60;qu="content-bytes"'}, 30.0),
        ({"RateLimit": "what?"}, None),
        ({"RateLimit-Reset": "8"}, 8.0),
        ({"RateLimit-Reset": "0"}, None),
    ],
)
def test_the_rate_limit_fields_may_state_the_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert pushback(CIMultiDict(headers)) == (None if seconds is None else pytest.approx(seconds))


def test_the_most_explicit_wait_counts_first() -> None:
    headers = {"x-ratelimit-reset-requests": "9s", "RateLimit-Reset": "8"}
    body = {"estimated_time": 7, "details": [{"retryDelay": "6s"}]}
    assert pushback(CIMultiDict(headers)) == 9
    assert pushback(CIMultiDict(headers), {"estimated_time": 7}) == 7
    assert pushback(CIMultiDict(headers), body) == 6
    assert pushback(CIMultiDict({**headers, "Retry-After": "5"}), body) == 5
    assert pushback(CIMultiDict({**headers, "Retry-After": "5", "retry-after-ms": "400"}), body) == 0.4
    assert pushback(CIMultiDict({**headers, "Retry-After": "nan"}), body) == 6


NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
DATE_DIALECTS = "Mon, 30 Nov 2026 12:00:00 GMT"
UNIX = int(NOW.timestamp())

FORMS = {
    "90": 90.0,
    "90.5": 90.5,
    "90s": 90.0,
    "1m30s": 90.0,
    "90 seconds": 90.0,
    "1 minute and 30 seconds": 90.0,
    "500ms": 0.5,
    str(UNIX + 90): 90.0,
    f"{UNIX + 90}.5": 90.5,
    f"{UNIX + 90}250": 90.25,
    f"{UNIX + 90}000000": 90.0,
    "2026-11-30T12:01:30Z": 90.0,
    "2026-11-30T12:01:30.5Z": 90.5,
    "2026-11-30T12:01:30.123456789Z": 90.123456,
    "2026-11-30T14:01:30+02:00": 90.0,
    "2026-11-30 12:01:30 UTC": 90.0,
    "2026-11-30T12:01:30": 90.0,
    "2026-11-30T12:01:30 GMT": 90.0,
    "Mon, 30 Nov 2026 12:01:30 GMT": 90.0,
    '"90"': 90.0,
    "PT1M30S": 90.0,
    "Mon Nov 30 2026 07:01:30 GMT-0500 (Eastern Standard Time)": 90.0,
}
NO_TIMES = ["", " ", "-1", "-90s", "nan", "inf", "soon", "s", "1 parsec", "2026-13-45T99:99:99Z", str(UNIX - 90),
            "2026-11-30T11:00:00Z", "Mon, 30 Nov 2026 11:00:00 GMT", "1s2", "9" * 5000]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), FORMS.items())
def test_every_form_of_a_time_is_read_by_the_servers_clock(text: str, seconds: float, monkeypatch: Any) -> None:
    monkeypatch.setattr("fanout.classify.times._now", lambda: NOW)
    assert wait_for(text, DATE_DIALECTS) == pytest.approx(seconds, abs=1e-3)
    assert wait_for(f" {text} ") == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_time_that_is_past_or_none_is_no_wait(text: str) -> None:
    assert wait_for(text, DATE_DIALECTS) is None


@pytest.mark.parametrize("text", ["1000000000", "1000000000000"])
def test_a_unix_time_of_long_ago_is_so_many_seconds_and_never_at_once(text: str) -> None:
    assert wait_for(text, DATE_DIALECTS) == float(text)


@given(st.text(max_size=40) | st.from_regex(r"\d{1,20}[a-z ]{0,9}(\d{1,9}[a-z]{0,3})?", fullmatch=True))
def test_no_text_breaks_the_reading(text: str) -> None:
    wait = wait_for(text, DATE_DIALECTS)
    assert wait is None or wait >= 0


@pytest.mark.parametrize("field", sorted({wait.field for wait in WAITS if wait.unit == 1.0}))
@pytest.mark.parametrize(("text", "seconds"), FORMS.items())
def test_every_field_that_asks_to_wait_takes_every_form(field: str, text: str, seconds: float) -> None:
    assert pushback(CIMultiDict({field.title(): text, "Date": DATE_DIALECTS})) == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_milliseconds_are_read_behind_every_prefix(prefix: str) -> None:
    assert pushback(CIMultiDict({f"{prefix}retry-after-ms": "1500"})) == 1.5
    assert pushback(CIMultiDict({f"{prefix}retry-after-ms": "2s"})) == 2.0


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after-ms": "0", "Retry-After": "30"}, {}, 30),
        ({"Retry-After": "0"}, {"details": [{"retryDelay": "20s"}]}, 20),
        ({"Retry-After": "0"}, {"retry_after": 0}, 0),
        ({"retry-after-ms": f"{UNIX + 90}000", "Date": DATE_DIALECTS}, {}, 90),
    ],
)
def test_a_wait_of_zero_counts_if_no_other_is_stated(
    headers: dict[str, str], body: dict[str, object], seconds: float
) -> None:
    assert pushback(CIMultiDict(headers), body) == seconds


@pytest.mark.parametrize(
    ("status", "left", "seconds"), [(429, "9", 60), (500, "9", None), (503, "9", None), (503, "0", 60)]
)
def test_a_quota_that_is_left_delays_no_other_error(status: int, left: str, seconds: float | None) -> None:
    fields = CIMultiDict({"x-ratelimit-remaining-tokens": left, "x-ratelimit-reset-tokens": "1m0s"})
    assert classify_response(Response(status=status, headers=fields, body=b"")).pushback == seconds


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["1, 1"], 1),
        (["1,1"], 1),
        (["2, 30, 5"], 30),
        (["2", "30", "5"], 30),
        (["2, nan", "-7", "soon"], 2),
        (["1s, 3s"], 3),
        ([f"{DATE_DIALECTS}, Mon, 30 Nov 2026 12:01:30 GMT"], 90),
        (["5, Monday, 30-Nov-26 12:01:30 GMT"], 90),
        ([f"7, {UNIX + 90}"], 90),
        (["2, 1000000000"], 1e9),
        (["soon, later"], None),
    ],
)
def test_of_values_that_are_joined_or_repeated_the_longest_counts(values: list[str], seconds: float | None) -> None:
    headers = CIMultiDict([("Date", DATE_DIALECTS), *(("Retry-After", value) for value in values)])
    assert pushback(headers) == seconds


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.reset)
def test_every_dialect_states_quotas_and_waits(dialect) -> None:
    for text, seconds in FORMS.items():
        headers = CIMultiDict({dialect.remaining.title(): "7", dialect.reset.title(): text, "Date": DATE_DIALECTS})
        (quota,) = [each for read in readers(headers) for each in read(headers)]
        assert (quota.unit, quota.remaining) == (dialect.unit, 7)
        assert quota.reset == pytest.approx(seconds, abs=1e-3)
        headers[dialect.remaining] = "0"
        headers["x-ratelimit-reset"] = headers.get("x-ratelimit-reset", "1")
        assert pushback(headers) == pytest.approx(seconds, abs=1e-3)


def test_the_table_knows_the_fields_of_these_vendors() -> None:
    names = {dialect.reset for dialect in DIALECTS}
    assert names >= {
        "x-ratelimit-reset", "x-ratelimit-reset-requests", "x-rate-limit-reset", "ratelimit-reset",
        "anthropic-ratelimit-tokens-reset", "llm_provider-x-ratelimit-reset-tokens",
        "llm_provider-anthropic-ratelimit-input-tokens-reset",
    }  # fmt: skip
    assert {wait.field for wait in WAITS} >= {"retry-after", "llm_provider-retry-after", "llm_provider-retry-after-ms"}


WORDS = {
    "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested "
    "1500. Please try again in 6m0s. Visit https://platform.openai.com/account/rate-limits to learn more.": 360.0,
    "Please try again in 1.5s.": 1.5,
    "Limit 3, Used 3, Requested 1. Please try again in 7m12.5s.": 432.5,
    "Please try again in 250ms.": 0.25,
    "Requests to the Embeddings_Create Operation have exceeded the call rate limit. Please retry after 20 seconds.": 20,
    "Please retry after 1 second.": 1.0,
    "Please retry in 34.074824224s.": 34.074824224,
    "Request was throttled. Expected available in 30 seconds.": 30.0,
    "Try again in 2 minutes": 120.0,
    "Too many requests, retry in 1 minute and 30 seconds": 90.0,
    "Please wait for 10 seconds before trying again in a while": 10.0,
    "wait 1 hour": 3600.0,
    "Rate limit resets in 59 s": 59.0,
    "Try again in 5s, or wait 2 minutes": 120.0,
    "Retry after 17": 17.0,
    "Retry-After: 17. Thank you": 17.0,
    "Limit resets at: 2026-11-30 12:00:45 UTC": 45.0,
    "please retry after 2026-11-30T12:00:45Z.": 45.0,
    "You have exhausted your capacity on this model. Your quota will reset after 5h59m59s.": 21599.0,
    "Please retry your request in the next 5 seconds": 5.0,
    "Try again later (in about 5 s)": 5.0,
    "The estimated wait time is 12 seconds": 12.0,
    "request timed out waiting for a free slot after 600s": None,
    "Timed out while waiting 30 seconds for the model": None,
    "No worker available after 120 seconds": None,
    "no replica became available within 60 s": None,
    "the wait queue is full, max wait 300 seconds": None,
    "request exceeded the maximum wait of 600s": None,
    "gave up: retried for 300s": None,
    "upstream connection reset after 30 s": None,
    "Rate limit exceeded: 20 requests per 60 seconds": None,
    "Please try again later.": None,
    "You sent 30 requests in 10 seconds": None,
    "retry after 3 requests": None,
    "Try again with fewer than 100 items": None,
    "": None,
}  # fmt: skip


@pytest.mark.parametrize(("message", "seconds"), WORDS.items())
@pytest.mark.parametrize("form", ["%s", '{"error": {"message": %s}}', '[{"error": {"code": 429, "message": %s}}]'])
def test_a_wait_in_the_words_of_a_429_is_obeyed(message: str, seconds: float | None, form: str) -> None:
    body = form % (orjson.dumps(message).decode() if form != "%s" else message)
    response = Response(status=429, headers=CIMultiDict({"Date": DATE_DIALECTS}), body=body.encode())
    verdict = classify_response(response)
    assert (verdict.action, verdict.pushback) == (Action.RETRY, seconds)


def test_words_of_other_errors_and_less_exact_than_fields_are_not_obeyed() -> None:
    body = b'{"error": {"message": "Please try again in 6m0s"}}'
    assert classify_response(Response(status=400, headers={}, body=body)).pushback is None
    assert classify_response(Response(status=500, headers={}, body=body)).pushback is None
    assert classify_response(Response(status=429, headers=CIMultiDict({"Retry-After": "7"}), body=body)).pushback == 7


@pytest.mark.parametrize(
    "words", ["wait ", "retry after ", "1 ", "1s", "1 and ", "1,", "try again in", "wait 1 second "]
)
def test_words_of_any_length_are_searched_in_linear_time(words: str) -> None:
    assert wait_in_words(words * 100_000) is None or len(words) > 5


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ([{"error": {"code": 429, "details": [{"retryDelay": "3s"}]}}], 3),
        ({"error": {"retry_after": 4}}, 4),
        ({"retry_after_ms": 2500}, 2.5),
        ({"error": {"metadata": {"retry_after_seconds": 5}}}, 5),
        ({"error": {"metadata": {"headers": {"X-RateLimit-Reset": f"{UNIX + 90}000"}}}}, 90),
        ({"error": {"metadata": {"headers": {"Retry-After": "8"}}}}, 8),
        ({"error": {"metadata": "x", "details": 3}}, None),
        ({"error": {"message": "slow down"}, "retry_after": 9}, 9),
        ({"error": {"metadata": {"raw": '{"error": {"details": [{"retryDelay": "11s"}]}}'}}}, 11),
        ([], None),
        ([[]], None),
    ],
)  # fmt: skip
def test_a_wait_in_the_body_of_an_error_is_read(body: object, seconds: float | None) -> None:
    headers = CIMultiDict({"Date": DATE_DIALECTS})
    assert classify_response(Response(status=429, headers=headers, body=orjson.dumps(body))).pushback == seconds


def test_a_date_in_iso_form_is_measured_by_the_servers_own_clock() -> None:
    server = NOW + timedelta(days=400)
    headers = CIMultiDict({
        "Date": server.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": (server + timedelta(seconds=9)).isoformat(),
    })  # fmt: skip
    assert pushback(headers) == 9
